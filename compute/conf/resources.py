"""[DEFAULT]: what of the host is kept back, and how far it may be promised twice.

The limit of each kind is the host's total, less what is reserved, times the ratio.
"""

from oslo_config import cfg, types

GROUP = None

OPTS = [
    cfg.IntOpt(
        "reserved_host_memory_mb",
        default=512,
        min=0,
        help="MiB of memory kept for the host itself: kernel, libvirt, agent, and QEMU's own "
        "memory beside that of its guests. The default is Nova's and is little for a host with "
        "many guests; with too little the kernel kills a guest when memory runs out. Several GiB, "
        "or 2 to 5 % of the host, is common.",
    ),
    cfg.IntOpt(
        "reserved_host_disk_mb",
        default=0,
        min=0,
        help="MiB of the file system of instances_path kept for everything else on it, as the "
        "image cache and quarantine, which no claim counts. With too little it fills: QEMU pauses "
        "guests that write, and builds fail with disk_full.",
    ),
    cfg.MultiOpt(
        "reserved_huge_pages",
        item_type=types.Dict(),
        help="Huge pages kept for other programs of the host, one line for each cell and size, for "
        "example node:0,size:2048,count:64 (size in KiB). Guests never get them.",
    ),
    cfg.IntOpt(
        "reserved_host_cpus",
        default=0,
        min=0,
        help="Physical CPUs kept for the host itself. They are only not promised; nothing is "
        "pinned. 0 suits a cpu_allocation_ratio above 1, where CPUs are shared anyway.",
    ),
    cfg.FloatOpt(
        "cpu_allocation_ratio",
        default=4.0,
        min=0.1,
        help="How many vCPUs are promised for each physical CPU. 4 suits guests that are idle "
        "most of the time; 1 is for guests that compute. Too high shows as steal time in guests.",
    ),
    cfg.FloatOpt(
        "ram_allocation_ratio",
        default=1.0,
        min=0.1,
        help="How much memory is promised for each MiB that is there. Above 1 needs swap or page "
        "merging on the host: when guests use what they were promised, the kernel kills one.",
    ),
    cfg.FloatOpt(
        "disk_allocation_ratio",
        default=1.0,
        min=0.1,
        help="How much disk is promised for each GiB that is there. Overlays grow as guests "
        "write, so above 1 saves disk until they do; watch the file system then, since a full one "
        "pauses guests.",
    ),
]
