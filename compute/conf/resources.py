"""[DEFAULT]: what of the host is kept back, and how far it may be promised twice."""

from oslo_config import cfg

GROUP = None

OPTS = [
    cfg.IntOpt("reserved_host_memory_mb", default=512, min=0,
               help="MiB of memory kept for the host itself."),
    cfg.IntOpt("reserved_host_disk_mb", default=0, min=0,
               help="MiB of disk kept for the host itself."),
    cfg.IntOpt("reserved_host_cpus", default=0, min=0,
               help="Physical CPUs kept for the host itself."),
    cfg.FloatOpt("cpu_allocation_ratio", default=4.0, min=0.1,
                 help="How many vCPUs are promised for each physical CPU."),
    cfg.FloatOpt("ram_allocation_ratio", default=1.0, min=0.1,
                 help="How much memory is promised for each MiB that is there."),
    cfg.FloatOpt("disk_allocation_ratio", default=1.0, min=0.1,
                 help="How much disk is promised for each GiB that is there."),
]
