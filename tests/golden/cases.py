"""The guests whose domains are kept as golden files. All values are fixed."""

from dataclasses import replace

from compute.model.guest import Address, Disk, Flavor, Guest, Image, Nic
from compute.model.numa import Placed, Placement
from compute.model.pci import Given
from compute.model.volume import Attached, Volume, VolumeSource
from virt import topology

GIB = 2**30
DIRECTORY = "/var/lib/magnetar/instances/6f1e2d3c-0000-4000-8000-000000000001"
GUEST = Guest(
    uuid="6f1e2d3c-0000-4000-8000-000000000001",
    name="instance-0000002a",
    display_name="web <1> & co\x07",
    hostname="web-1",
    flavor=Flavor("m1.small", 1, 512, root_gb=1),
    image=Image("0c1d2e3f-0000-4000-8000-00000000000a", name="debian"),
    project_id="p1",
    user_id="u1",
    created_at="2026-11-20 12:00:00",
)
ROOT = Disk("root", DIRECTORY + "/disk", "qcow2", GIB)
RAW = replace(ROOT, format="raw")
EPHEMERAL = Disk("ephemeral", DIRECTORY + "/disk.eph0", "raw", GIB)
SWAP = Disk("swap", DIRECTORY + "/disk.swap", "raw", GIB)
NVRAM = Disk("nvram", DIRECTORY + "/nvram.fd", "raw", 540672, "nvram")
CONFIG = Disk("config", DIRECTORY + "/disk.config", "raw", 1 << 20, "cdrom")
NIC = Nic(
    id="a1b2c3d4-0000-4000-8000-000000000001",
    mac="52:54:00:00:00:01",
    network_id="net-1",
    label="private",
    kind="network",
    source="private",
    mtu=1450,
    addresses=(Address("10.0.0.5", "10.0.0.0/24"), Address("fd00::5", "fd00::/64", version=6)),
)
BRIDGED = replace(
    NIC,
    id="b1b2c3d4-0000-4000-8000-000000000002",
    mac="52:54:00:00:00:02",
    kind="bridge",
    source="br0",
    mtu=None,
    addresses=(),
)


def attached(number, target, iotune=None, **how):
    """A volume that is connected to the host."""
    source = VolumeSource("file", f"/var/lib/magnetar/volumes/{number}", iotune=iotune or {},
                          serial=number)
    return Attached(Volume(number, target=target, **how), source)


def guest(vcpus=1, specs=None, properties=None, **changes):
    """GUEST with another flavor and image."""
    flavor = replace(GUEST.flavor, vcpus=vcpus, extra_specs=specs or {})
    image = replace(GUEST.image, properties=properties or {})
    return replace(GUEST, flavor=flavor, image=image, **changes)


def placed(subject, **changes):
    """The guest on the cells 4, 5, … of a host: pinned to 10, 11, …, or floating on 0 to 3."""
    wish, cells, free = topology.wish(subject), [], iter(range(10, 99))
    for cell in wish.cells:
        pins = {cpu: next(free) for cpu in cell.dedicated}
        loose = () if len(pins) == len(cell.cpus) else (0, 1, 2, 3)
        page = None if wish.page is None else 4 if wish.page == "small" else wish.page
        cells.append(Placed(cell, 4 + cell.id, pins, loose, page))
    return replace(subject, placement=Placement(
        tuple(cells), wish.policy, wish.threads, wish.emulator, realtime=wish.realtime,
        locked=wish.locked, **changes))


# name -> guest, disks, NICs, options of [libvirt], virt_type, cache mode
CASES = {
    "plain": (GUEST, [ROOT], [], {}, "qemu", "none"),
    "root-in-lvm": (
        GUEST, [replace(RAW, link="/dev/guests/6f1e2d3c_disk.00000001"), CONFIG], [], {}, "qemu",
        "none",
    ),
    "root-in-rbd": (
        GUEST, [replace(RAW, link="rbd:vms/6f1e2d3c_disk.00000001")], [],
        {"rbd_user": "nova", "rbd_secret_uuid": "5ec0e700-0000-4000-8000-000000000001"}, "qemu",
        "none",
    ),
    "typical-kvm": (
        guest(vcpus=4), [ROOT, EPHEMERAL, SWAP, CONFIG], [NIC, BRIDGED], {}, "kvm", "none",
    ),
    "everything": (
        guest(
            vcpus=8,
            specs={
                "hw:cpu_sockets": "1", "hw:cpu_cores": "4", "hw:cpu_threads": "2",
                "hw:watchdog_action": "poweroff", "hw:vif_multiqueue_enabled": "true",
                "hw_video:ram_max_mb": "64", "hw_rng:rate_bytes": "4096",
                "hw_rng:rate_period": "500", "quota:cpu_shares": "512",
                "quota:cpu_period": "20000", "quota:cpu_quota": "10000",
                "quota:disk_read_bytes_sec": "1000002", "quota:disk_write_bytes_sec": "1000003",
                "quota:disk_read_iops_sec": "102", "quota:disk_write_iops_sec": "103",
            },
            properties={
                "hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi", "hw_cdrom_bus": "sata",
                "hw_video_model": "vga", "hw_video_ram": "16", "hw_pointer_model": "usbtablet",
                "hw_qemu_guest_agent": "yes", "hw_rng_model": "virtio",
                "hw_firmware_type": "bios", "hw_cpu_sockets": "8",
            },
            serial_port=10007,
        ),
        [RAW, EPHEMERAL, CONFIG], [NIC],
        {
            "cpu_mode": "custom", "cpu_models": ["kvm64", "Nehalem", "EPYC"],
            "cpu_model_extra_flags": ["+AES", "-avx", "pcid"], "disk_iothreads": 2,
            "tb_cache_size": 32, "tx_queue_size": 512, "vnc_listen": "127.0.0.1",
            "max_queues": 4,
        },
        "qemu", "none",
    ),
    "growing": (
        guest(vcpus=2), [ROOT], [],
        {"live_resize_max_vcpus": 8, "live_resize_max_memory_mb": 4096}, "qemu", "none",
    ),
    "windows": (
        guest(vcpus=2, properties={"hw_vif_model": "e1000e"}, os_type="windows"),
        [ROOT], [NIC], {"cpu_mode": "host-passthrough"}, "kvm", "writeback",
    ),
    "open-vswitch": (
        guest(), [ROOT], [replace(BRIDGED, kind="ovs", source="br-int", mtu=1442)], {}, "kvm",
        "none",
    ),
    "old-pc": (
        guest(
            properties={"hw_machine_type": "pc", "hw_disk_bus": "ide", "hw_vif_model": "rtl8139"}
        ),
        [ROOT, CONFIG], [BRIDGED], {"vnc": False}, "qemu", "writeback",
    ),
    "recorded-by-an-older-agent": (
        guest(
            properties={"hw_machine_type": "q35", "hw_disk_bus": "scsi"},
            system_metadata={
                "image_hw_machine_type": "pc-i440fx-6.2", "image_hw_disk_bus": "virtio",
                "image_hw_cdrom_bus": "ide", "image_hw_video_model": "cirrus",
            },
        ),
        [ROOT, CONFIG], [], {}, "kvm", "none",
    ),
    "as-little-as-possible": (
        guest(
            vcpus=2, specs={"hw_rng:allowed": "False"},
            properties={"hw_qemu_guest_agent": "no", "hw_vif_multiqueue_enabled": "no"},
        ),
        [RAW, EPHEMERAL], [NIC],
        {
            "cpu_mode": "none", "num_pcie_ports": 0, "disk_iothreads": 0,
            "hw_disk_discard": "ignore", "mem_stats_period_seconds": 0, "guest_agent": False,
            "sysinfo_serial": "none", "vnc": False, "max_queues": 1,
        },
        "qemu", "writeback",
    ),
    "several-iothreads": (
        guest(
            vcpus=16,
            specs={"quota:disk_total_bytes_sec": "1000001", "quota:disk_total_iops_sec": "101"},
        ),
        [ROOT, EPHEMERAL, SWAP], [],
        {"disk_iothreads": 2, "disk_detect_zeroes": False, "cpu_mode": "maximum"},
        "qemu", "none",
    ),
    "every-small-wish": (
        guest(
            vcpus=4,
            specs={
                "hw:boot_menu": "true", "hw:pmu": "false", "hw:virtio_packed_ring": "true",
                "hw:sound_model": "ich9", "hw:viommu_model": "auto",
                "hw:maxphysaddr_mode": "emulate", "hw:maxphysaddr_bits": "42",
                "trait:HW_CPU_X86_AESNI": "required", "trait:HW_CPU_X86_AVX": "forbidden",
                "quota:vif_inbound_average": "1000", "quota:vif_inbound_peak": "2000",
                "quota:vif_inbound_burst": "3000", "quota:vif_outbound_average": "1001",
                "quota:vif_outbound_peak": "2001", "quota:vif_outbound_burst": "3001",
            },
            properties={
                "hw_pointer_model": "usbtablet", "hw_input_bus": "virtio", "hw_time_hpet": "yes",
            },
        ),
        [ROOT, CONFIG], [NIC], {}, "qemu", "none",
    ),
    "windows-that-hides-the-hypervisor": (
        guest(
            vcpus=2, os_type="windows",
            properties={"img_hide_hypervisor_id": "true", "hw_input_bus": "usb",
                        "hw_viommu_model": "intel", "hw_sound_model": "usb",
                        "hw_time_hpet": "true"},
        ),
        [ROOT], [NIC], {}, "kvm", "none",
    ),
    "many-scsi-disks": (
        guest(properties={"hw_disk_bus": "scsi"}),
        [replace(EPHEMERAL, path=f"{DIRECTORY}/disk.{number}") for number in range(29)],
        [], {}, "qemu", "none",
    ),
    "uefi": (guest(properties={"hw_firmware_type": "uefi"}), [ROOT, NVRAM], [], {}, "kvm", "none"),
    "secure-boot": (
        guest(specs={"os:secure_boot": "required"}, properties={"hw_firmware_type": "uefi"}),
        [ROOT, NVRAM], [], {}, "kvm", "none",
    ),
    "stateless-uefi": (
        guest(properties={"hw_firmware_type": "uefi", "hw_firmware_stateless": "yes"}),
        [ROOT], [], {}, "qemu", "none",
    ),
    "tpm": (
        guest(specs={"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb"}),
        [ROOT], [], {}, "qemu", "none",
    ),
    "numa": (
        placed(
            guest(vcpus=4, specs={
                "hw:cpu_policy": "dedicated", "hw:numa_nodes": "2", "hw:mem_page_size": "2MB",
                "hw:emulator_threads_policy": "isolate", "hw:cpu_realtime": "true",
                "hw:cpu_realtime_mask": "^0", "quota:cpu_shares": "512",
            }),
            emulator=(8,), isolated=(8,)),
        [ROOT], [], {"realtime_scheduler_priority": 7, "live_resize_max_vcpus": 16,
                     "live_resize_max_memory_mb": 8192}, "kvm", "none",
    ),
    "mixed-pins": (
        placed(guest(vcpus=4, specs={
            "hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "^0-1",
            "hw:mem_page_size": "small", "hw:locked_memory": "true",
        })),
        [ROOT, EPHEMERAL], [], {"disk_iothreads": 2}, "qemu", "none",
    ),
    "memory-from-files": (
        guest(), [ROOT], [], {"file_backed_memory": 4096}, "qemu", "none",
    ),
    "sev": (
        guest(specs={"hw:mem_encryption": "true"},
              properties={"hw_firmware_type": "uefi", "hw_pointer_model": "usbtablet",
                          "hw_input_bus": "virtio"}),
        [ROOT, NVRAM, CONFIG], [NIC], {}, "kvm", "none",
    ),
    "sev-es": (
        guest(specs={"hw:mem_encryption": "true", "hw:mem_encryption_model": "amd-sev-es"},
              properties={"hw_firmware_type": "uefi", "hw_disk_bus": "scsi"}),
        [ROOT, NVRAM], [], {}, "kvm", "none",
    ),
    "volumes": (
        guest(specs={"quota:disk_total_iops_sec": "700"}, volumes=(
            attached("c0ffee00-0000-4000-8000-000000000001", "vdb"),
            attached("c0ffee00-0000-4000-8000-000000000002", "vdd", serial="as-before",
                     iotune={"total_bytes_sec": 1000000}),
        )),
        [ROOT, EPHEMERAL, CONFIG], [], {"disk_iothreads": 2}, "qemu", "none",
    ),
    "boot-from-volume": (
        guest(properties={"hw_disk_bus": "scsi"}, volumes=(
            attached("c0ffee00-0000-4000-8000-000000000003", "sda", bus="scsi", boot_index=0),
            attached("c0ffee00-0000-4000-8000-000000000004", "sdb", bus="scsi", multiattach=True),
        )),
        [SWAP], [], {}, "qemu", "none",
    ),
    "pci-devices": (
        guest(specs={"pci_passthrough:alias": "nic:1,gpu:1"}, devices=(
            Given("nic", "0000:06:12.5", parent="0000:06:00.1"),
            Given("gpu", "0001:af:00.0", managed=False),
        )),
        [ROOT], [NIC], {"num_pcie_ports": 8}, "kvm", "none",
    ),
    "32-bit": (
        guest(properties={"hw_architecture": "i686", "hw_machine_type": "pc"}),
        [ROOT], [], {}, "kvm", "none",
    ),
}  # fmt: skip
NETWORKS = {
    "private": {
        "name": "private", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1", "bridge": "virbr7",
        "dhcp_start": "10.0.0.2", "dhcp_end": "10.0.0.254",
    },
    "without-dhcp": {"name": "quiet", "cidr": "fd00:1::/64"},
}  # fmt: skip
