"""What operations, steps and drivers work with. No wire format beyond :mod:`compute.model.wire`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compute.model.numa import HostCell, Placement
from compute.model.pci import Given, HostDevice
from compute.model.volume import Attached


@dataclass(frozen=True)
class Flavor:
    """Size of a guest. Memory in MiB, disks in GiB, swap in MiB."""

    name: str
    vcpus: int
    memory_mb: int
    root_gb: int = 0
    ephemeral_gb: int = 0
    swap_mb: int = 0
    flavorid: str = ""
    extra_specs: Mapping[str, str] = field(default_factory=dict)

    def need(self) -> dict[str, int]:
        """What it takes of a host: vCPUs, memory in MiB, disk in GiB."""
        return {"vcpus": self.vcpus, "memory_mb": self.memory_mb,
                "disk_gb": self.root_gb + self.ephemeral_gb + -(-self.swap_mb // 1024)}


@dataclass(frozen=True)
class Image:
    """An image as its service describes it. ``size`` in bytes, ``min_ram`` MiB, ``min_disk`` GiB.

    ``properties`` hold the image properties (``hw_disk_bus`` and so on) without any prefix.
    """

    id: str
    name: str = ""
    disk_format: str = ""
    container_format: str = "bare"
    size: int = 0
    min_disk: int = 0
    min_ram: int = 0
    hash_algo: str = ""
    hash_value: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    status: str = "active"  # or "queued": described, and its bytes are still to come


@dataclass(frozen=True)
class Address:
    """One fixed address of a NIC, with what its subnet tells."""

    address: str
    cidr: str
    version: int = 4
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    dhcp: bool = True
    routes: tuple[tuple[str, str], ...] = ()  # (cidr, gateway)


@dataclass(frozen=True)
class Nic:
    """One network interface. ``kind`` is ``network`` (a libvirt network), ``bridge``, or ``ovs`` (a
    bridge of Open vSwitch).

    ``source`` is the libvirt network's or the bridge's name on this host. ``id`` is the port's id;
    ``asked`` the one that it was asked for by, where the network service gives its own. ``kept``
    is a port that was there before, and stays when its guest goes.
    """

    id: str
    mac: str
    network_id: str
    label: str
    kind: str
    source: str
    mtu: int | None = None
    addresses: tuple[Address, ...] = ()
    model: str | None = None
    tag: str | None = None
    asked: str | None = None
    kept: bool = False

    @property
    def tap(self) -> str:
        """Name of the host's tap device: as Nova's, 14 characters at most."""
        return ("tap" + self.id)[:14]

    @classmethod
    def from_plain(cls, plain: Mapping) -> Nic:
        """The NIC that ``dataclasses.asdict`` made plain data of."""
        addresses = tuple(
            Address(**{**a, "dns": tuple(a.get("dns") or ()),
                       "routes": tuple(tuple(r) for r in a.get("routes") or ())})
            for a in plain.get("addresses") or ())
        return cls(**{**plain, "addresses": addresses})


@dataclass(frozen=True)
class NetworkRequest:
    """What the caller asked for: a network, a port, or neither (``auto``, ``none``)."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


@dataclass(frozen=True)
class KeyPair:
    name: str
    public_key: str
    type: str = "ssh"


@dataclass(frozen=True)
class Guest:
    """One guest (Nova's Instance) as far as the agent cares.

    ``name`` is the libvirt domain's name. ``user_data`` is base64 text as on the wire.
    """

    uuid: str
    name: str
    display_name: str
    hostname: str
    flavor: Flavor
    image: Image | None = None
    project_id: str = ""
    user_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    system_metadata: Mapping[str, str] = field(default_factory=dict)
    user_data: str | None = None
    keypairs: tuple[KeyPair, ...] = ()
    config_drive: bool = False
    availability_zone: str | None = None
    launch_index: int = 0
    os_type: str | None = None
    created_at: str = ""
    vm_state: str | None = None
    task_state: str | None = None
    power_state: int = 0
    host: str | None = None
    node: str | None = None
    nics: tuple[Nic, ...] = ()
    placement: Placement | None = None  # where on this host it is to be, if that matters
    serial_port: int | None = None  # where its serial console listens on this host; None: nowhere
    volumes: tuple[Attached, ...] = ()  # connected to this host
    devices: tuple[Given, ...] = ()  # of this host, for itself

    @property
    def boots_from_volume(self) -> bool:
        """Whether it has no root disk of its own."""
        return any(one.volume.boots for one in self.volumes)

    def prop(self, name: str, default: str | None = None) -> str | None:
        """An image property of this guest, ``hw_disk_bus`` for example.

        The machine recorded at first boot (``system_metadata['image_<name>']``) wins over the
        image's present properties, so that the guest's hardware does not change under it.
        """
        recorded = self.system_metadata.get("image_" + name)
        if recorded not in (None, ""):
            return recorded
        if self.image is not None and name in self.image.properties:
            return self.image.properties[name]
        return default


@dataclass(frozen=True)
class CachedImage:
    """A base in the image cache: path on this host, format once written down, size in bytes."""

    image_id: str
    path: str
    format: str
    virtual_size: int


@dataclass(frozen=True)
class Disk:
    """One disk of a guest on this host, as written to its ``disks.json`` and trusted afterwards.

    ``role`` is root, ephemeral, swap, config or rescue. ``format`` is never probed again (a guest
    can write its own header). ``size`` in bytes.
    """

    role: str
    path: str
    format: str
    size: int
    device: str = "disk"  # disk or cdrom
    bus: str = ""  # where it is not the guest's usual one for such a device
    link: str = ""  # /dev/<group>/<name> or rbd:<pool>/<name>, where ``path`` is a link to that


@dataclass(frozen=True)
class CopyState:
    """How the copy of a running guest's disk stands, in bytes. ``level``: it is what the disk is,
    and follows each write."""

    done: int
    total: int
    level: bool


@dataclass(frozen=True)
class GuestState:
    """What the hypervisor says of one domain.

    ``ours`` is true only when the domain carries our metadata. ``reason`` is libvirt's word.
    ``generation`` and ``operation`` come from that metadata.
    """

    uuid: str
    name: str
    power_state: int
    reason: str = ""
    persistent: bool = True
    ours: bool = True
    generation: int = 0
    operation: str = ""
    saved: bool = False  # its memory was saved to disk; the next start continues from it
    job: str = ""  # "in" or "out" while it migrates, "save" while it is saved, else empty


@dataclass(frozen=True)
class HostFacts:
    """What a host has. Memory in MiB, disk in GiB; ``cpu_info`` is Nova's JSON-able dict."""

    hypervisor_hostname: str
    hypervisor_type: str
    hypervisor_version: int
    vcpus: int
    memory_mb: int
    disk_gb: int
    disk_free_gb: int
    memory_used_mb: int = 0
    host_ip: str = "127.0.0.1"
    virt_type: str = ""
    cpu_info: Mapping = field(default_factory=dict)
    supported: tuple[tuple[str, str, str], ...] = ()  # (arch, hv_type, vm_mode)
    machine_types: tuple[str, ...] = ()
    cells: tuple[HostCell, ...] = ()  # its NUMA cells
    devices: tuple[HostDevice, ...] = ()  # its PCI devices, where any are for guests
    traits: tuple[str, ...] = ()  # what guests can have here, in the names of os-traits
    storage: str = ""  # an id of where disks are; equal on hosts that share it, "" when not known
