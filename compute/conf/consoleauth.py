"""[consoleauth]: the tokens by which proxies let people in."""

from oslo_config import cfg

GROUP = "consoleauth"

OPTS = [
    cfg.IntOpt(
        "token_ttl",
        default=600,
        min=1,
        help="Seconds that the address of a console may be opened after it was asked for. A "
        "connection that is open by then stays; an address that was passed on or logged is worth "
        "nothing afterwards.",
    ),
]
