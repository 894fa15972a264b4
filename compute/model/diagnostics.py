"""What a running guest has used, as a hypervisor counts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DiskUse:
    """One disk since the guest was started, by the name that the guest's machine gives it."""

    name: str
    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    errors: int = 0


@dataclass(frozen=True)
class NicUse:
    """One interface since the guest was started, by its name on the host. Octets, packets, errors
    and drops, received (``rx``) and sent (``tx``) by the guest."""

    name: str
    mac: str
    rx: tuple[int, int, int, int]
    tx: tuple[int, int, int, int]


@dataclass(frozen=True)
class Usage:
    """What a running guest uses. CPU time in nanoseconds; ``memory`` is what it has and
    ``resident`` what it takes of the host's, in KiB; ``disk_bytes`` are those that its disks take
    on the host; the rest are bytes since it was started."""

    name: str
    cpu_ns: int
    memory: int
    resident: int
    disk_bytes: int
    read_bytes: int
    write_bytes: int
    rx_bytes: int
    tx_bytes: int


@dataclass(frozen=True)
class Diagnostics:
    """A running guest. ``cpus`` are nanoseconds of each vCPU; memory is in KiB, ``memory`` what
    else is known of it (``rss``, and what the balloon tells)."""

    power_state: int
    virt_type: str
    cpus: tuple[int, ...]
    disks: tuple[DiskUse, ...]
    nics: tuple[NicUse, ...]
    memory_max: int
    memory_now: int
    memory: Mapping[str, int] = field(default_factory=dict)
