"""[compute]: which of the host's CPUs guests may use, and how guests are spread over its cells."""

from oslo_config import cfg

GROUP = "compute"

OPTS = [
    cfg.StrOpt(
        "cpu_dedicated_set",
        help="Physical CPUs that guests get for themselves (hw:cpu_policy=dedicated or mixed), for "
        "example 4-15,^8. Unset: such guests are refused here. Guests without that policy never "
        "run on these CPUs; take one out of the set only after the guests on it have moved.",
    ),
    cfg.StrOpt(
        "cpu_shared_set",
        help="Physical CPUs on which all other vCPUs run, times cpu_allocation_ratio, and the "
        "emulator's threads of guests with hw:emulator_threads_policy=share. Unset: all CPUs that "
        "are not dedicated. Keep one or two CPUs of each cell in neither set for the host itself.",
    ),
    cfg.BoolOpt(
        "packing_host_numa_cells_allocation_strategy",
        default=False,
        help="Fill one NUMA cell of the host before the next, which keeps room for large guests; "
        "otherwise guests are spread, which gives each more of the memory's bandwidth.",
    ),
    cfg.IntOpt(
        "max_disk_devices_to_attach",
        default=-1,
        min=-1,
        help="How many disks a guest of this host can have in all; one more volume is refused. -1 "
        "leaves it to the hypervisor: 26 to 28 on virtio, as many as there are slots.",
    ),
]
