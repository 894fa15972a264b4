"""[timeouts]: no wait without a deadline. All in seconds."""

from oslo_config import cfg

GROUP = "timeouts"

OPTS = [
    cfg.IntOpt("shutdown", default=60, min=0,
               help="How long a guest gets to shut down cleanly before it is forced; the image "
               "property os_shutdown_timeout overrules it."),
    cfg.IntOpt("soft_reboot", default=120, min=1,
               help="How long a soft reboot may take before it becomes a hard one."),
    cfg.IntOpt("build", default=1800, min=10,
               help="How long a build may take in all, downloads included."),
    cfg.IntOpt("conductor", default=60, min=1,
               help="How long one call to the conductor may take."),
    cfg.IntOpt("stop", default=8, min=1,
               help="How long a stopping agent waits for operations to reach a step border."),
    cfg.IntOpt("operator", default=86400, min=60,
               help="How long an operation past its point of no return is retried before it "
               "asks for an operator."),
]
