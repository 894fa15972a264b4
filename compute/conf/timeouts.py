"""[timeouts]: no wait without a deadline. All in seconds.

A wait that ends leads to observing, never to an assumption: none of these can lose a guest.
"""

from oslo_config import cfg

GROUP = "timeouts"

OPTS = [
    cfg.IntOpt(
        "shutdown",
        default=60,
        min=0,
        help="Seconds that a guest gets to shut down cleanly when it is stopped, before it is "
        "powered off; the image property os_shutdown_timeout overrules it. 0 powers off at once, "
        "as pulling the plug does: file systems in guests may need repair.",
    ),
    cfg.IntOpt(
        "soft_reboot",
        default=120,
        min=1,
        help="Seconds that a guest gets to shut down in a soft reboot before it is powered off "
        "and started; os_shutdown_timeout overrules it. More than for a stop, as in Nova, since "
        "its owner wanted a clean one.",
    ),
    cfg.IntOpt(
        "build",
        default=1800,
        min=10,
        help="Seconds that a build may take in all, downloads included; then it is undone and the "
        "guest goes to error. Too short for the largest image on the slowest link fails builds "
        "that would have worked; the wait for another build's download has its own limit, [disk] "
        "image_lock_timeout.",
    ),
    cfg.IntOpt(
        "snapshot",
        default=7200,
        min=10,
        help="Seconds that copying a running guest's disk for a snapshot or backup may take until "
        "the copy is level with what the guest writes; then it is given up, and the guest goes on "
        "as before. The disk's speed decides: 7200 is enough for 500 GiB at 75 MiB/s.",
    ),
    cfg.IntOpt(
        "conductor",
        default=30,
        min=1,
        help="Seconds that one call to the conductor may take before its outcome counts as "
        "unknown and it is asked again. Half of oslo.messaging's rpc_response_timeout, so that a "
        "migration whose answer went down with a broker still ends within a minute. Much "
        "shorter asks a busy conductor the same again and again.",
    ),
    cfg.IntOpt(
        "stop",
        default=8,
        min=1,
        help="Seconds that a stopping agent waits for operations to reach a step border. Those "
        "that do not are cut off and go on from the journal at the next start, so a short value "
        "is safe. It has to stay below the service manager's limit (TimeoutStopSec=20 in "
        "etc/systemd).",
    ),
    cfg.IntOpt(
        "frozen",
        default=300,
        min=10,
        help="Seconds that a guest's file systems stand still for a snapshot of its disks when "
        "nobody says that they may go on; then they do, and a snapshot that is still being made "
        "may be of different moments. Programs in the guest wait for their disks all that time.",
    ),
    cfg.IntOpt(
        "operator",
        default=86400,
        min=60,
        help="Seconds that a step which cannot be given up (one past the point of no return, an "
        "undo, or telling the control plane) is tried again before the operation asks for an "
        "operator. The default outlasts a night's outage, after which everything goes on by "
        "itself; short values turn each long outage into work for people.",
    ),
    cfg.IntOpt(
        "reserved_volume",
        default=3600,
        min=10,
        help="Seconds after which a volume that was given a name in a guest and never attached, "
        "since the message was lost, is given back. An attach that comes later is refused, so it "
        "has to be longer than messages wait in a busy broker.",
    ),
]
