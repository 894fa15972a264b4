"""[spice]: screens over SPICE, through Nova's HTML5 proxy. Options mean the same as Nova's."""

from oslo_config import cfg

GROUP = "spice"

OPTS = [
    cfg.BoolOpt(
        "enabled",
        default=False,
        help="Give guests a SPICE display as well. Those that are there get it with their next "
        "hard reboot.",
    ),
    cfg.StrOpt(
        "server_listen",
        default="127.0.0.1",
        help="Address on which SPICE listens. It has no password here: an address other than "
        "127.0.0.1 shows every guest's screen to whoever reaches it, so set one only on a network "
        "that proxies alone can reach.",
    ),
    cfg.StrOpt(
        "server_proxyclient_address",
        default="127.0.0.1",
        help="This host's address as the proxy reaches it.",
    ),
    cfg.StrOpt(
        "html5proxy_base_url",
        default="http://127.0.0.1:6082/spice_auto.html",
        help="Where people's browsers reach the proxy; what 'console url show --spice' begins "
        "with.",
    ),
]
