"""[control]: the embedded control plane."""

from oslo_config import cfg

GROUP = "control"

OPTS = [
    cfg.StrOpt(
        "database",
        default="sqlite:///$state_path/control.sqlite",
        secret=True,
        help="SQLAlchemy URL of the embedded control plane's database: SQLite, PostgreSQL or "
        "MariaDB.",
    ),
    cfg.IntOpt(
        "service_down_time",
        default=60,
        min=2,
        help="Seconds without a heartbeat after which a host counts as down.",
    ),
    cfg.IntOpt(
        "max_attempts",
        default=3,
        min=1,
        help="On how many hosts a build is tried before the server goes to ERROR.",
    ),
    cfg.StrOpt(
        "default_availability_zone",
        default="nova",
        help="Availability zone of hosts that were put into none.",
    ),
    cfg.IntOpt(
        "max_io_ops",
        default=8,
        min=1,
        help="A host with this many servers being built or moved gets no more for the moment.",
    ),
    cfg.IntOpt(
        "resend_after",
        default=60,
        min=1,
        help="Seconds after which a build that no host has taken up is sent to its host again "
        "(the message may have been lost).",
    ),
    cfg.FloatOpt(
        "ram_weight", default=1.0, help="Weight of free memory; negative packs instead of spreads."
    ),
    cfg.FloatOpt("cpu_weight", default=1.0, help="Weight of free vCPUs."),
    cfg.FloatOpt("disk_weight", default=1.0, help="Weight of free disk."),
    cfg.FloatOpt(
        "io_ops_weight", default=-1.0, help="Weight of servers being built or moved on a host."
    ),
    cfg.FloatOpt(
        "build_failure_weight",
        default=1000.0,
        min=0.0,
        help="How strongly builds that failed lately on a host count against it.",
    ),
]
