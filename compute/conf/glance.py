"""[glance]: the image service of a cloud, in the names of Nova's options. How to authenticate, time
limits, TLS and where the service is are keystoneauth1's options."""

from oslo_config import cfg

GROUP = "glance"

OPTS = [
    cfg.IntOpt(
        "num_retries",
        default=3,
        min=0,
        help="How many times a request is sent again that did not reach the service, or that may "
        "be repeated without harm. An image that was cut off is fetched anew by its operation.",
    ),
]
