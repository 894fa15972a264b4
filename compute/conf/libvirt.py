"""[libvirt]: how to reach libvirt, and what guests look like where flavor and image are silent.

Options that Nova has under the same name mean the same here. What a guest looks like is decided
when it is defined, which is at its build, at each start and at each reboot; its machine type, buses
and device models stay as they were at its build.
"""

from oslo_config import cfg

GROUP = "libvirt"
QUEUE_SIZES = [256, 512, 1024]
OTHER_TYPES = ("lxc", "xen", "bhyve", "ch", "vz")  # those of libvirt's drivers that are not QEMU's

OPTS = [
    cfg.StrOpt(
        "connection_uri",
        default="qemu:///system",
        help="libvirt's URI. It has to be this host's: disks are made here, so that guests of a "
        "remote one would not find them. The agent waits while nobody answers there.",
    ),
    cfg.StrOpt(
        "virt_type",
        default="auto",
        choices=[
            ("auto", "proves at start that KVM runs a small program before it trusts it"),
            ("kvm", "hardware virtualization; guests do not start without it"),
            ("qemu", "emulation, which is many times slower"),
            ("lxc", "containers; with connection_uri = lxc:///system and images_type = raw"),
            ("xen", "Xen; never run with this code, as are the three that follow"),
            ("bhyve", "FreeBSD's bhyve"),
            ("ch", "Cloud Hypervisor"),
            ("vz", "Virtuozzo"),
        ],
        help="How guests run. auto gives KVM 3 seconds for its proof, since a /dev/kvm may exist "
        "and hang, and falls back to qemu with a line in the log. On hosts that must never "
        "emulate, set kvm. What is not QEMU needs libvirt's driver for it in connection_uri, and "
        "starts, stops, reboots and is deleted; the rest is refused (docs/othertypes.md).",
    ),
    cfg.IntOpt(
        "call_timeout",
        default=30,
        min=1,
        help="Seconds after which a call to libvirt is given up and its outcome treated as "
        "unknown, which is then observed. Starting and stopping a domain may take four times as "
        "long. Too short makes a busy host look blind; too long delays noticing a libvirtd that "
        "hangs.",
    ),
    cfg.IntOpt(
        "call_workers",
        default=4,
        min=1,
        help="How many calls to libvirt may run at once, each in a native thread. libvirtd takes "
        "max_client_requests of them from one client, 5 unless its configuration says otherwise "
        "(etc/libvirt/libvirtd.conf.snippet does), and answers no keepalive meanwhile: keep this "
        "below that number, or many slow calls at once make the connection look dead.",
    ),
    cfg.IntOpt(
        "keepalive_interval",
        default=5,
        min=1,
        help="Seconds of silence after which libvirtd is asked whether it lives. Times "
        "keepalive_count it is how long a hanging one goes unnoticed, 15 s by default.",
    ),
    cfg.IntOpt(
        "keepalive_count",
        default=3,
        min=1,
        help="How many such questions may stay unanswered before the connection is given up and "
        "made anew. Low values break it while the host swaps; guests do not notice either way.",
    ),
    cfg.DictOpt(
        "hw_machine_type",
        default={},
        help="Machine type by architecture, for example x86_64=pc. Default: q35, which has the "
        "PCIe that present devices want. An alias is resolved to its versioned name when a guest "
        "is first defined, and that name is kept for the guest's life, so that a new QEMU changes "
        "no hardware; a host whose QEMU has dropped that version cannot start the guest.",
    ),
    cfg.StrOpt(
        "cpu_mode",
        choices=[
            ("host-model", "the closest named model plus flags; migrates to hosts that have all"),
            ("host-passthrough", "this very CPU; migrates only to the same one"),
            ("maximum", "everything that KVM or QEMU can do"),
            ("custom", "the best of cpu_models that this host runs"),
            ("none", "what libvirt chooses, an old and slow one"),
        ],
        help="CPU that guests see. Default: host-model with KVM; with emulation a fixed model "
        "(Nehalem, which is x86-64-v2), so that guests do not depend on QEMU's version. Hosts "
        "between which guests shall migrate need the same CPU, or custom.",
    ),
    cfg.ListOpt(
        "cpu_models",
        default=[],
        help="For cpu_mode=custom: CPU models, best last; the last that this host can run is used. "
        "Choose what the oldest host of a migration group can run. When none can, guests are not "
        "defined, and the message says so.",
    ),
    cfg.ListOpt(
        "cpu_model_extra_flags",
        default=[],
        help="CPU flags to add (+flag or flag) or to take away (-flag). A flag that the host does "
        "not have keeps guests from starting.",
    ),
    cfg.IntOpt(
        "num_pcie_ports",
        default=16,
        min=0,
        max=28,
        help="PCIe root ports of guests whose machine has PCIe; each device uses one, the rest is "
        "for hot-plug, which fails when none is left. Each costs the guest little memory and some "
        "milliseconds of boot. 0 leaves it to libvirt, which keeps next to none spare.",
    ),
    cfg.IntOpt(
        "disk_iothreads",
        default=1,
        min=0,
        max=16,
        help="Threads for disk I/O of a guest; virtio disks and virtio-scsi are spread over them. "
        "One keeps disk I/O from slowing the guest's CPUs; more than a guest has disks are left "
        "out. 0 does disk I/O in QEMU's main loop.",
    ),
    cfg.ListOpt(
        "disk_cachemodes",
        default=[],
        help="Cache mode by source type, for example file=writeback. Default: none where the "
        "directory of disks supports O_DIRECT, else writeback. writeback uses host memory that "
        "nothing counts, and unsafe loses the guest's data when the host fails.",
    ),
    cfg.StrOpt(
        "hw_disk_discard",
        default="unmap",
        choices=[("ignore", "disks only grow"), ("unmap", "freed space returns to the host")],
        help="Whether space that a guest frees is given back to the host. With ignore, overlays "
        "grow until each is as large as its disk.",
    ),
    cfg.BoolOpt(
        "disk_detect_zeroes",
        default=True,
        help="Store written zeroes as holes (needs hw_disk_discard=unmap). It costs a look at "
        "what is written, and saves the space of disks that guests wipe.",
    ),
    cfg.IntOpt(
        "max_queues",
        default=8,
        min=1,
        max=256,
        help="Most queues that a disk, SCSI controller or NIC gets; never more than vCPUs. Each "
        "takes memory and interrupts; above 8 few guests gain. The kernel's limit for a tap "
        "device is 256.",
    ),
    cfg.BoolOpt(
        "vif_multiqueue",
        default=True,
        help="Give NICs of guests with several vCPUs several queues, unless flavor or image say "
        "otherwise (hw:vif_multiqueue_enabled, hw_vif_multiqueue_enabled). Without it one vCPU "
        "handles all of a NIC's packets. Nova's default is off.",
    ),
    cfg.IntOpt(
        "rx_queue_size",
        default=1024,
        choices=QUEUE_SIZES,
        help="Receive queue of virtio NICs, in packets. The largest by default: short bursts are "
        "dropped when it is full, and it costs only tens of KiB.",
    ),
    cfg.IntOpt(
        "tx_queue_size",
        choices=QUEUE_SIZES,
        help="Send queue of virtio NICs, in packets. Unset leaves QEMU's 256; more only works "
        "with vhost-user, and elsewhere keeps guests from starting.",
    ),
    cfg.BoolOpt(
        "guest_agent",
        default=True,
        help="Give guests the channel of the QEMU guest agent unless their image says "
        "hw_qemu_guest_agent=no. A guest without the agent ignores it; without the channel file "
        "systems cannot be frozen for a snapshot. Nova's default is off.",
    ),
    cfg.IntOpt(
        "mem_stats_period_seconds",
        default=10,
        help="Seconds between memory statistics of the balloon; 0 or less leaves the balloon out, "
        "and with it both statistics and free memory that guests report back to the host.",
    ),
    cfg.StrOpt(
        "rng_dev_path",
        default="/dev/urandom",
        help="Where the guests' random number device reads on the host. /dev/random of an old "
        "kernel blocks and makes guests wait; a path that does not exist keeps them from "
        "starting.",
    ),
    cfg.StrOpt(
        "sysinfo_serial",
        default="unique",
        choices=[("unique", "the guest's uuid"), ("none", "no serial number")],
        help="SMBIOS serial number that guests see. cloud-init and licences may read it; none "
        "makes those ask again.",
    ),
    cfg.IntOpt(
        "device_detach_attempts",
        default=8,
        min=1,
        help="How many times a running guest is asked to let go of a device that is taken out of "
        "it. A guest that has not booted far enough hears none of them, one that was asked in the "
        "wrong moment hears the next.",
    ),
    cfg.IntOpt(
        "device_detach_timeout",
        default=20,
        min=1,
        help="Seconds that a guest gets each time. After all of them the device stays in the "
        "guest, and who asked is told so; times device_detach_attempts it is how long a refusal "
        "takes, 160 s by default.",
    ),
    cfg.BoolOpt(
        "vnc",
        default=True,
        help="Give guests a VNC display. Without it and without hw_video_model they have no "
        "screen, only the serial console.",
    ),
    cfg.StrOpt(
        "vnc_listen",
        default="",
        help="Address on which VNC listens; empty for a unix socket, which no network reaches. "
        "VNC has no password here: an address other than 127.0.0.1 shows every guest's screen to "
        "whoever reaches it, so set one only on a network that proxies alone can reach.",
    ),
    cfg.StrOpt(
        "snapshot_image_format",
        default="",
        choices=["", "raw", "qcow2"],
        help="Format of the images that are made of guests; empty for the format that the guest's "
        "disk has.",
    ),
    cfg.BoolOpt(
        "snapshot_compression",
        default=False,
        help="Compress the images that are made of guests, as far as their format is qcow2. It "
        "takes CPU time of this host and room for a second copy.",
    ),
    cfg.StrOpt(
        "rescue_image_id",
        default="",
        help="Image with which guests are rescued when none is given; empty for the image that the "
        "guest was made from.",
    ),
    cfg.IntOpt(
        "tb_cache_size",
        min=0,
        default=0,
        help="MiB of translation cache for each emulated guest (virt_type=qemu); 0 leaves it to "
        "QEMU, which takes up to a GiB. 16 to 64 saves memory with many small guests and "
        "translates more often.",
    ),
    cfg.IntOpt(
        "realtime_scheduler_priority",
        min=1,
        max=99,
        default=1,
        help="Priority in the kernel's SCHED_FIFO of vCPUs of realtime guests (hw:cpu_realtime), "
        "weight 1 to 99. Above the priority of the host's own threads such a vCPU starves them.",
    ),
    cfg.IntOpt(
        "file_backed_memory",
        min=0,
        default=0,
        help="MiB of memory for guests that comes from files, as of fast disks or persistent "
        "memory (memory_backing_dir in qemu.conf); it is what this host then offers instead of "
        "its RAM. Huge pages and locked memory are refused with it. 0 uses RAM.",
    ),
    cfg.IntOpt(
        "live_resize_max_vcpus",
        min=0,
        default=0,
        help="vCPUs up to which running guests may grow ([DEFAULT] live_resize); each guest is "
        "started with places for so many. 0 leaves a guest at its flavor's. More places cost "
        "memory in QEMU and show in the guest as CPUs that are offline.",
    ),
    cfg.IntOpt(
        "live_resize_max_memory_mb",
        min=0,
        default=0,
        help="MiB up to which running guests may grow ([DEFAULT] live_resize); each guest is "
        "started with this maximum, its balloon holding the rest. 0 leaves a guest at its "
        "flavor's. A guest without a balloon driver sees and uses all of it.",
    ),
]
