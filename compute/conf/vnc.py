"""[vnc]: how screens are reached through Nova's noVNC proxy. Options mean the same as Nova's."""

from oslo_config import cfg

GROUP = "vnc"

OPTS = [
    cfg.StrOpt(
        "novncproxy_base_url",
        default="http://127.0.0.1:6080/vnc_auto.html",
        help="Where people's browsers reach the proxy; what 'console url show' begins with. It has "
        "to be the same on all hosts of a proxy.",
    ),
    cfg.StrOpt(
        "server_proxyclient_address",
        default="127.0.0.1",
        help="This host's address as the proxy reaches it. It only makes sense together with "
        "[libvirt] vnc_listen, on the same network: without that, screens are on unix sockets, and "
        "no proxy reaches them.",
    ),
]
