"""[serial_console]: serial consoles for Nova's proxy. Options mean the same as Nova's."""

from oslo_config import cfg

GROUP = "serial_console"

OPTS = [
    cfg.BoolOpt(
        "enabled",
        default=False,
        help="Let each guest's serial console listen on a TCP port of its own, which a proxy "
        "reaches. Guests that are there get it with their next hard reboot. Its log is kept as "
        "without it, and 'magnetar console attach' goes on to work.",
    ),
    cfg.StrOpt(
        "port_range",
        default="10000:20000",
        help="First and last of these ports; each guest takes one for as long as it is here.",
    ),
    cfg.StrOpt(
        "proxyclient_address",
        default="127.0.0.1",
        help="This host's address on which consoles listen and the proxy reaches them. They have "
        "no password: whoever reaches it can type, so set one only on a network that proxies alone "
        "can reach.",
    ),
    cfg.StrOpt(
        "base_url",
        default="ws://127.0.0.1:6083/",
        help="Where people reach the proxy; what 'console url show --serial' begins with.",
    ),
]
