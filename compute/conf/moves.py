"""[DEFAULT]: how many guests may move at once, and how long moves and sleep may take."""

from oslo_config import cfg

GROUP = None

OPTS = [
    cfg.IntOpt(
        "max_concurrent_live_migrations",
        default=1,
        min=1,
        help="How many live migrations this host sends at once; more wait in a queue that "
        "'magnetar migration list' shows. With one at a time each has the whole link and "
        "converges soonest, so the default, which is Nova's, mostly drains a host fastest.",
    ),
    cfg.IntOpt(
        "max_concurrent_incoming_live_migrations",
        default=2,
        min=1,
        help="How many live migrations this host takes in at once. A source that asks for one "
        "more is told to wait, and asks again. It keeps a host from being swamped when several "
        "hosts are drained into it.",
    ),
    cfg.IntOpt(
        "max_concurrent_live_migrations_per_link",
        default=1,
        min=1,
        help="How many live migrations go from this host to one and the same other host at once. "
        "Above 1 only makes sense with max_concurrent_live_migrations above 1, and with links "
        "that one migration does not fill.",
    ),
    cfg.IntOpt(
        "migration_lease_seconds",
        default=30,
        min=5,
        help="Seconds that a destination keeps what it prepared for a guest without a sign of "
        "life from the source's agent. Then it looks: while the hypervisor still receives the "
        "guest it waits on, when the guest runs here it finishes, else it removes what it made. "
        "Short values undo moves whose source is merely slow; long ones keep left-overs longer.",
    ),
    cfg.IntOpt(
        "resize_confirm_window",
        default=0,
        min=0,
        help="Seconds after which a resize or cold migration that nobody confirmed or reverted "
        "is confirmed by itself, which deletes the former disks; 0 waits for ever, as in Nova.",
    ),
    cfg.BoolOpt(
        "live_resize",
        default=False,
        help="Give a running guest that stays on its host more or less memory and vCPUs without a "
        "restart, where its definition allows that and its disks do not change. Off, as in Nova, "
        "every resize restarts the guest. On, what a guest can grow to depends on the maximum "
        "that it was started with, and a guest that does not take part is restarted all the same.",
    ),
    cfg.IntOpt(
        "shelved_offload_time",
        default=0,
        min=-1,
        help="Seconds that a shelved guest keeps its disks and its room on this host, from where "
        "it can be started at once. 0, as in Nova, gives them up as soon as it is shelved: its "
        "image alone is kept, and it starts wherever there is room. -1 waits until somebody asks.",
    ),
    cfg.IntOpt(
        "suspend_seconds",
        default=600,
        min=10,
        help="Seconds that writing a guest's memory to disk may take when it is suspended; after "
        "that its outcome is observed. The disk's speed decides: 600 is enough for 64 GiB at "
        "110 MiB/s.",
    ),
]
