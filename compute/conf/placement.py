"""[placement]: the placement service of a cloud. How to authenticate, time limits, TLS and where
the service is are keystoneauth1's options, as in Nova."""

from oslo_config import cfg

GROUP = "placement"

OPTS = [
    cfg.IntOpt(
        "http_retries",
        default=3,
        min=0,
        help="How many times a request is sent again that did not reach the service, or that may "
        "be repeated without harm. What could not be told is told with the next report, so 0 is "
        "safe.",
    ),
]
