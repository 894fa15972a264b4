"""Devices of the host that a flavor asks for by alias, and how near they have to be."""

from __future__ import annotations

from compute.model.guest import Guest
from compute.model.pci import POLICIES
from virt.wishes import Wishes, refuse

ALIAS = "pci_passthrough:alias"
MOST = 64


def wanted(guest: Guest) -> dict[str, int]:
    """How many devices of each alias. Raises Failed by name for what cannot be read."""
    said = guest.flavor.extra_specs.get(ALIAS)
    found: dict[str, int] = {}
    for part in str(said or "").split(","):
        if not part.strip():
            continue
        name, _, count = (text.strip() for text in part.partition(":"))
        if not name or not count.isascii() or not count.isdigit() or not 0 < int(count) <= MOST:
            refuse("flavor", ALIAS, said, f"NAME:COUNT,... with counts of 1 to {MOST}")
        found[name] = found.get(name, 0) + int(count)
    return found


def policy(guest: Guest) -> str | None:
    """The NUMA affinity that flavor or image ask for; None leaves it to the alias."""
    return Wishes(guest).choice("pci_numa_affinity_policy", POLICIES)
