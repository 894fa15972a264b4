"""[control]: the embedded control plane. A stock Nova control plane reads none of these."""

from oslo_config import cfg

GROUP = "control"

OPTS = [
    cfg.StrOpt(
        "database",
        default="sqlite:///$state_path/control.sqlite",
        secret=True,
        help="SQLAlchemy URL of the embedded control plane's database: SQLite, PostgreSQL or "
        "MariaDB. SQLite serves one control plane process on a local disk; with several, or on a "
        "network file system, use one of the others. It is not the journal, which stays on its "
        "host.",
    ),
    cfg.IntOpt(
        "service_down_time",
        default=60,
        min=2,
        help="Seconds without a heartbeat after which a host counts as down and gets no new "
        "guests. Below twice [DEFAULT] report_interval hosts flap; a large value sends builds to "
        "a dead host, which take resend_after to come back. Nothing that runs is touched.",
    ),
    cfg.IntOpt(
        "max_attempts",
        default=3,
        min=1,
        help="On how many hosts a build is tried before the server goes to ERROR. 1 switches "
        "trying elsewhere off; more than the hosts there are changes nothing.",
    ),
    cfg.StrOpt(
        "default_availability_zone",
        default="nova",
        help="Availability zone of hosts that were put into none. A tenant may ask for it by name.",
    ),
    cfg.IntOpt(
        "max_io_ops",
        default=8,
        min=1,
        help="A host with this many servers being built or moved gets no more for the moment: "
        "their downloads and copies would slow the guests that run there. Keep it at or below "
        "[DEFAULT] operation_workers, or builds wait on one host while another is idle.",
    ),
    cfg.IntOpt(
        "resend_after",
        default=60,
        min=1,
        help="Seconds after which a build or a move that no host has taken up is sent again "
        "(the message may have been lost). The host knows the request and does it once, so a "
        "small value only costs messages.",
    ),
    cfg.BoolOpt(
        "allow_resize_to_same_host",
        default=True,
        help="Let a resize take place on the host where the server is, which needs no copying of "
        "disks and is the only way with one host. Off, a resize always moves the server, as is "
        "Nova's default for its option of this name; it then fails where there is one host.",
    ),
    cfg.IntOpt(
        "long_rpc_timeout",
        default=1800,
        min=1,
        help="Seconds that a host may take to check whether it can take a live migration, while "
        "it tells from time to time that it is at it; a host that falls silent is given up after "
        "[timeouts] conductor. Nova's option of this name means the same.",
    ),
    cfg.IntOpt(
        "move_workers",
        default=4,
        min=1,
        help="For how many live migrations hosts are asked at once whether they can take the "
        "server. More wait as 'accepted'; the transfers themselves are limited by each host.",
    ),
    cfg.IntOpt(
        "max_drain_moves",
        default=2,
        min=1,
        help="How many servers of a host that is drained or evacuated are on their way at once, "
        "unless --max says otherwise. A host sends [DEFAULT] max_concurrent_live_migrations at a "
        "time, so one more than that keeps it busy; evacuated servers are started, not copied, "
        "and more at once are quicker.",
    ),
    cfg.StrOpt(
        "volume_dir",
        default="$state_path/volumes",
        help="Directory of the embedded volume service's volumes, one file for each. With several "
        "hosts it has to be on a file system that all of them have at this path: a host that "
        "lacks it cannot attach any volume. Volumes do not follow when it is changed: move the "
        "files first, while no server uses them.",
    ),
    cfg.StrOpt(
        "volume_format",
        default="raw",
        choices=[
            ("raw", "sparse files; can be extended while a server uses them"),
            ("qcow2", "for file systems without holes; extended while no server uses them"),
        ],
        help="Format of new volumes that ask for none. A volume keeps the one that it has.",
    ),
    cfg.FloatOpt(
        "max_over_subscription_ratio",
        default=1.0,
        min=1.0,
        help="How many times the room for volumes may be promised: files take room as they are "
        "written. At 1 each volume can be filled to its size, whatever else shares the file "
        "system left aside; above, servers can meet a full disk, and stand still. Cinder's option "
        "of this name means the same.",
    ),
    cfg.FloatOpt(
        "ram_weight",
        default=1.0,
        help="Weight of free memory in the choice among hosts that fit, without a unit: each "
        "weigher gives 0 to 1. Positive spreads guests, negative packs them, 0 switches it off.",
    ),
    cfg.FloatOpt(
        "cpu_weight", default=1.0, help="Weight of free vCPUs; see ram_weight for its meaning."
    ),
    cfg.FloatOpt(
        "disk_weight", default=1.0, help="Weight of free disk; see ram_weight for its meaning."
    ),
    cfg.FloatOpt(
        "io_ops_weight",
        default=-1.0,
        help="Weight of servers being built or moved on a host; negative, so that busy hosts are "
        "avoided. Positive would send all builds to the busiest one.",
    ),
    cfg.FloatOpt(
        "build_failure_weight",
        default=1000.0,
        min=0.0,
        help="How strongly builds that failed lately on a host count against it. The default is "
        "above all other weights together, so that a broken host, which looks empty, does not "
        "draw every build; 0 switches it off.",
    ),
]
