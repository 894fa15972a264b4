"""What moving a guest works with: how a transfer stands, what was checked, how it shall be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Phases of a transfer, in order. The last four are ends, or rest until somebody acts.
SETUP = "setup"  # connecting, and mirroring disks until they are in step
PRECOPY = "precopy"  # memory goes over while the guest runs on the source
SWITCHOVER = "switchover"  # the guest is stopped, the rest goes over
POSTCOPY = "postcopy"  # the guest runs on the destination and fetches what it misses
POSTCOPY_PAUSED = "postcopy-paused"  # the network broke in post-copy: it can be recovered
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"
ENDED = (COMPLETED, FAILED, CANCELLED)


@dataclass(frozen=True)
class JobSample:
    """One look at a transfer. Sizes in bytes, rates in bytes/s, ``elapsed`` in seconds since it
    began, ``time`` on the agent's clock. ``iteration`` counts passes over memory, from 1.

    ``downtime_ms`` is the expected pause while it runs and the real one when it completed; None
    when the hypervisor does not say. ``throttle`` is auto-converge's CPU throttle in percent.
    ``error`` is the hypervisor's word on a failed one.
    """

    phase: str
    time: float = 0.0
    elapsed: float = 0.0
    memory_total: int = 0
    memory_processed: int = 0
    memory_remaining: int = 0
    disk_total: int = 0
    disk_processed: int = 0
    disk_remaining: int = 0
    dirty_rate: int = 0
    bandwidth: int = 0
    iteration: int = 0
    downtime_ms: int | None = None
    throttle: int = 0
    error: str = ""

    @property
    def remaining(self) -> int:
        """Bytes that are still to go, of memory and disks together."""
        return self.memory_remaining + self.disk_remaining

    @property
    def total(self) -> int:
        """Bytes of memory and disks together."""
        return self.memory_total + self.disk_total

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for the operator's socket and the journal."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """One thing that has to be so before a move: ``ok`` None means that it could not be found
    out, or is worth knowing and no obstacle. ``next`` says what mends it."""

    name: str
    ok: bool | None
    found: str
    next: str = ""
    host: str = ""


@dataclass(frozen=True)
class MovePlan:
    """How a live migration shall be carried out.

    ``uri`` is the destination's hypervisor as the source's libvirtd reaches it, ``migrate_uri``
    where the memory goes (None: libvirt chooses), ``listen`` the destination's address for both
    memory and disks. ``copy_disks`` names the targets (``vda``) whose contents go along,
    ``incremental`` whether only the overlay does. ``bandwidth`` in MiB/s, 0 without a limit;
    ``downtime_ms`` the pause allowed at first. ``channels`` above 1 means multifd. ``rewrite`` is
    the destination's part of the domain's XML: see :mod:`virt.libvirt.rewrite`.
    """

    uri: str
    migrate_uri: str | None = None
    listen: str | None = None
    copy_disks: tuple[str, ...] = ()
    incremental: bool = True
    tls: bool = False
    postcopy: bool = False
    auto_converge: bool = False
    channels: int = 1
    bandwidth: int = 0
    downtime_ms: int = 300
    generation: int = 1
    operation: str = ""
    rewrite: Mapping[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for the journal."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> MovePlan:
        """The plan that :meth:`to_plain` described."""
        return cls(**{**plain, "copy_disks": tuple(plain.get("copy_disks") or ())})
