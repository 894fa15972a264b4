"""[cinder]: the volume service of a cloud, in the names of Nova's options. How to authenticate,
time limits and TLS are keystoneauth1's options (``auth_type``, ``auth_url``, ``timeout`` …)."""

from oslo_config import cfg

GROUP = "cinder"

OPTS = [
    cfg.StrOpt(
        "catalog_info",
        default="volumev3::publicURL",
        regex=r"^[\w-]+:\w*:\w+$",
        help="Which service of the catalog is asked: its type, name (may be empty) and interface. "
        "Nova's option of this name means the same.",
    ),
    cfg.StrOpt(
        "endpoint_template",
        help="Address to be used instead of the catalog's, such as "
        "http://203.0.113.5:8776/v3/%(project_id)s. A wrong one makes every attach fail, with a "
        "message that names it.",
    ),
    cfg.StrOpt(
        "os_region_name",
        help="Region of the volume service in the catalog; none takes the first one, which in a "
        "cloud of several regions may be far away.",
    ),
    cfg.IntOpt(
        "http_retries",
        default=3,
        min=0,
        help="How many times a request is sent again that did not reach the service, or that may "
        "be repeated without harm. The operation itself goes on trying for longer, so 0 is safe.",
    ),
]
