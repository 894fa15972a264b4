"""PCI devices that guests can have for themselves: what a host has, what is wished, what is given.

Addresses are written as ``0000:06:12.1``; vendors and products as four hexadecimal digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Nova's kinds: a device without SR-IOV, one that has virtual functions, one of those.
PLAIN, PF, VF = "type-PCI", "type-PF", "type-VF"
KINDS = (PLAIN, PF, VF)
# How near to the guest's NUMA cells a device has to be.
REQUIRED, LEGACY, PREFERRED, SOCKET = POLICIES = ("required", "legacy", "preferred", "socket")


@dataclass(frozen=True)
class HostDevice:
    """A PCI device of a host. ``cell`` is its NUMA cell, ``parent`` the address of the physical
    function that a virtual one belongs to."""

    address: str
    vendor: str
    product: str
    kind: str = PLAIN
    cell: int | None = None
    parent: str | None = None


@dataclass(frozen=True)
class Given:
    """A device that a guest has been given, for one of its flavor's aliases. ``managed``: libvirt
    takes it from the host's driver at the guest's start, and gives it back."""

    alias: str
    address: str
    managed: bool = True
    parent: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for the journal."""
        return asdict(self)


def given_from(plain: Iterable[Mapping[str, Any]]) -> tuple[Given, ...]:
    """The devices that :meth:`Given.to_plain` described."""
    return tuple(Given(**each) for each in plain)
