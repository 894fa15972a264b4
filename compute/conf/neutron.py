"""[neutron]: the network service of a cloud, in the names of Nova's options. How to authenticate,
time limits, TLS and where the service is are keystoneauth1's options."""

from oslo_config import cfg

GROUP = "neutron"

OPTS = [
    cfg.StrOpt(
        "ovs_bridge",
        default="br-int",
        help="Bridge of Open vSwitch that guests are attached to, where the port itself does not "
        "name one. It has to be the one of the agent that runs on this host: on any other no port "
        "ever gets a flow.",
    ),
    cfg.IntOpt(
        "http_retries",
        default=3,
        min=0,
        help="How many times a request is sent again that did not reach the service, or that may "
        "be repeated without harm. The operation itself goes on trying for longer, so 0 is safe.",
    ),
]
