"""[metrics]: figures and health for a monitoring system."""

from oslo_config import cfg

GROUP = "metrics"

OPTS = [
    cfg.StrOpt(
        "listen",
        default="",
        help="Address and port, as in 127.0.0.1:9178, on which GET /metrics answers in Prometheus' "
        "text format and GET /healthz says whether this host can work, and why not. It has no "
        "password, so use an address that the monitoring alone reaches. Empty: nothing listens.",
    ),
    cfg.BoolOpt(
        "guests",
        default=True,
        help="Tell the use of each guest as well: CPU time, memory, disks and NICs. That takes one "
        "more libvirt call for each answer, and some ten lines for each guest.",
    ),
]
