"""[libvirt]: how to reach libvirt, and what guests look like where flavor and image are silent.

Options that Nova has under the same name mean the same here.
"""

from oslo_config import cfg

GROUP = "libvirt"

OPTS = [
    cfg.StrOpt("connection_uri", default="qemu:///system", help="libvirt's URI."),
    cfg.StrOpt(
        "virt_type",
        default="auto",
        choices=["auto", "kvm", "qemu"],
        help="How guests run. 'auto' proves at start that KVM runs a small program within 3 "
        "seconds before it trusts it, and uses emulation (qemu) if it does not.",
    ),
    cfg.IntOpt(
        "call_timeout",
        default=30,
        min=1,
        help="Seconds after which a call to libvirt is given up and its outcome treated as "
        "unknown. Starting and stopping a domain may take four times as long.",
    ),
    cfg.IntOpt(
        "call_workers",
        default=8,
        min=1,
        help="How many calls to libvirt may run at once.",
    ),
    cfg.IntOpt(
        "keepalive_interval",
        default=5,
        min=1,
        help="Seconds of silence after which libvirtd is asked whether it lives.",
    ),
    cfg.IntOpt(
        "keepalive_count",
        default=3,
        min=1,
        help="How many such questions may stay unanswered before the connection is given up.",
    ),
    cfg.DictOpt(
        "hw_machine_type",
        default={},
        help="Machine type by architecture, for example x86_64=pc. Default: q35. An alias is "
        "resolved to its versioned name when a guest is first defined, and that name is kept for "
        "the guest's life.",
    ),
    cfg.StrOpt(
        "cpu_mode",
        choices=["host-model", "host-passthrough", "maximum", "custom", "none"],
        help="CPU that guests see. Default: host-model with KVM; with emulation a fixed model "
        "(Nehalem, which is x86-64-v2), so that guests do not depend on QEMU's version.",
    ),
    cfg.ListOpt(
        "cpu_models",
        default=[],
        help="For cpu_mode=custom: CPU models, best last; the last that this host can run is used. "
        "Choose what the oldest host of a migration group can run.",
    ),
    cfg.ListOpt(
        "cpu_model_extra_flags",
        default=[],
        help="CPU flags to add (+flag or flag) or to take away (-flag).",
    ),
    cfg.IntOpt(
        "num_pcie_ports",
        default=16,
        min=0,
        max=28,
        help="PCIe root ports of guests whose machine has PCIe; each device uses one, the rest is "
        "for hot-plug. 0 leaves it to libvirt, which keeps next to none spare.",
    ),
    cfg.IntOpt(
        "disk_iothreads",
        default=1,
        min=0,
        max=16,
        help="Threads for disk I/O of a guest; virtio disks and virtio-scsi are spread over them. "
        "0 does disk I/O in QEMU's main loop.",
    ),
    cfg.ListOpt(
        "disk_cachemodes",
        default=[],
        help="Cache mode by source type, for example file=writeback. Default: none where the "
        "directory of disks supports O_DIRECT, else writeback.",
    ),
    cfg.StrOpt(
        "hw_disk_discard",
        default="unmap",
        choices=["ignore", "unmap"],
        help="Whether space that a guest frees is given back to the host.",
    ),
    cfg.BoolOpt(
        "disk_detect_zeroes",
        default=True,
        help="Store written zeroes as holes (needs hw_disk_discard=unmap).",
    ),
    cfg.IntOpt(
        "max_queues",
        default=8,
        min=1,
        max=256,
        help="Most queues that a disk, SCSI controller or NIC gets; never more than vCPUs.",
    ),
    cfg.BoolOpt(
        "vif_multiqueue",
        default=True,
        help="Give NICs of guests with several vCPUs several queues, unless flavor or image say "
        "otherwise (hw:vif_multiqueue_enabled, hw_vif_multiqueue_enabled).",
    ),
    cfg.IntOpt(
        "rx_queue_size",
        default=1024,
        choices=[256, 512, 1024],
        help="Receive queue of virtio NICs, in packets.",
    ),
    cfg.IntOpt(
        "tx_queue_size",
        choices=[256, 512, 1024],
        help="Send queue of virtio NICs, in packets; more than 256 only works with vhost-user.",
    ),
    cfg.BoolOpt(
        "guest_agent",
        default=True,
        help="Give guests the channel of the QEMU guest agent unless their image says "
        "hw_qemu_guest_agent=no.",
    ),
    cfg.IntOpt(
        "mem_stats_period_seconds",
        default=10,
        help="Seconds between memory statistics of the balloon; 0 or less leaves the balloon out.",
    ),
    cfg.StrOpt(
        "rng_dev_path",
        default="/dev/urandom",
        help="Where the guests' random number device reads on the host.",
    ),
    cfg.StrOpt(
        "sysinfo_serial",
        default="unique",
        choices=["unique", "none"],
        help="SMBIOS serial number: the guest's uuid, or none.",
    ),
    cfg.BoolOpt("vnc", default=True, help="Give guests a VNC display."),
    cfg.StrOpt(
        "vnc_listen",
        default="",
        help="Address on which VNC listens; empty for a unix socket, which no network reaches.",
    ),
    cfg.IntOpt(
        "tb_cache_size",
        min=0,
        default=0,
        help="MiB of translation cache for each emulated guest (virt_type=qemu); 0 leaves it to "
        "QEMU. 16 to 64 saves memory with many small guests.",
    ),
]
