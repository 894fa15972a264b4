"""[libvirt]: how a guest goes to another host while it runs; docs/migration.md tells how to choose.

Options that Nova has under the same name mean the same here. They are read when a migration is
planned, on the source; scheme, inbound address and TLS also on the destination, which tells the
source how it wants to be reached.
"""

from oslo_config import cfg

GROUP = "libvirt"

OPTS = [
    cfg.StrOpt(
        "live_migration_strategy",
        default="auto",
        choices=[
            ("auto", "measures how fast the guest writes memory, then takes one of the others"),
            ("precopy", "memory goes over again and again until the rest fits into the pause"),
            ("auto-converge", "pre-copy, and QEMU slows the guest's CPUs until it converges"),
            ("multifd", "pre-copy over live_migration_parallel_connections connections"),
            ("postcopy", "after one pass the guest goes on at the destination and fetches the "
             "rest"),
        ],
        help="How memory goes over when a request names no strategy. auto only takes what the "
        "permit options below allow. A guest that is paused always goes by pre-copy, since it "
        "writes nothing. 'magnetar plan live-migrate' shows what would be taken, and why.",
    ),
    cfg.StrOpt(
        "live_migration_scheme",
        default="tls",
        choices=[
            ("tls", "libvirt's own TLS; both hosts need certificates of one authority"),
            ("ssh", "through ssh, whose keys have to be set up for libvirtd's user"),
            ("tcp", "without encryption or proof of who calls"),
        ],
        help="How the source's libvirtd speaks to the destination's. With tcp whoever reaches the "
        "port rules all guests, so it is for networks of hosts alone. Nova's default is tcp.",
    ),
    cfg.StrOpt(
        "live_migration_inbound_addr",
        help="Address or name of this host at which memory and disks of arriving guests are "
        "received, and under which its libvirtd is reached. Default: the host's own name as "
        "other hosts resolve it. Set it where there is a network for migrations. It has to be "
        "in this host's certificate.",
    ),
    cfg.BoolOpt(
        "live_migration_with_native_tls",
        default=True,
        help="Encrypt memory and disks on their way with QEMU's own TLS. It needs certificates "
        "for QEMU on both hosts (tools/certificates makes them), and costs about one CPU for "
        "each 500 MiB/s. Off, everything in a guest's memory, keys too, is readable on the "
        "network. Nova's default is off.",
    ),
    cfg.IntOpt(
        "live_migration_bandwidth",
        default=0,
        min=0,
        help="MiB/s that one migration may take; 0 for no limit. Too little and guests that "
        "write much never converge. Several migrations at once each take this much.",
    ),
    cfg.IntOpt(
        "live_migration_downtime",
        default=500,
        min=1,
        max=2000000,
        help="Longest pause in milliseconds that a guest may be given at switch-over, unless its "
        "flavor or image say magnetar:max_pause_ms or magnetar_max_pause_ms. It starts with at "
        "most 100 and is raised only when the rest would not fit, so most guests pause shorter. "
        "It is what QEMU aims at, and can be missed on a busy host. The default is half a "
        "second.",
    ),
    cfg.IntOpt(
        "live_migration_completion_timeout",
        default=800,
        min=0,
        help="Seconds for each GiB of memory and of disks that are copied, at least 2 GiB for "
        "each, after which live_migration_timeout_action is taken. 0 lets a migration that does "
        "not converge go on until somebody ends it. Not applied in post-copy, which always ends.",
    ),
    cfg.StrOpt(
        "live_migration_timeout_action",
        default="abort",
        choices=[
            ("abort", "the guest stays on the source, where it never stopped running"),
            ("force_complete", "post-copy where it is prepared, else the guest is paused until "
             "the rest is over; aborted if that breaks a pause promised by flavor or image"),
        ],
        help="What to do when a migration took longer than live_migration_completion_timeout. "
        "force_complete without post-copy can mean a long pause: the rest divided by the "
        "bandwidth.",
    ),
    cfg.BoolOpt(
        "live_migration_permit_post_copy",
        default=False,
        help="Allow post-copy. It always ends and pauses for some milliseconds, but while it "
        "lasts the guest's memory is on two hosts: if either fails, the guest is lost, as when "
        "its host fails. A broken network only stops it until it is back. Off, as in Nova.",
    ),
    cfg.BoolOpt(
        "live_migration_permit_auto_converge",
        default=True,
        help="Allow QEMU to slow a guest's CPUs, by 20 % at first and up to 99 %, when it writes "
        "memory faster than the network carries it. Nothing is risked, and the guest is slow "
        "for that time. Not used when post-copy is permitted. Nova's default is off.",
    ),
    cfg.IntOpt(
        "live_migration_parallel_connections",
        default=1,
        min=1,
        max=255,
        help="How many connections carry memory with the strategy multifd, which auto takes when "
        "this is above 1. Each needs a CPU on both hosts; 2 to 8 help where one CPU, mostly with "
        "TLS, is slower than the network. Not together with post-copy.",
    ),
]
