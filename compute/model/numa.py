"""Where on a host a guest's CPUs and memory are: what a host has, what a guest wants, and where it
was placed. Memory in MiB, pages in KiB; CPUs by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SMALL_KB = 4
MOST_CPUS = 4096
SHARED, DEDICATED, MIXED = "shared", "dedicated", "mixed"


@dataclass(frozen=True)
class HostCell:
    """One NUMA cell of a host. ``siblings`` are the sets of CPUs that share a core; ``pages`` the
    number of pages of each size that the cell has."""

    id: int
    cpus: frozenset[int]
    siblings: tuple[frozenset[int], ...]
    memory_mb: int
    pages: Mapping[int, int] = field(default_factory=dict)
    socket: int | None = None


@dataclass(frozen=True)
class GuestCell:
    """One NUMA cell of a guest; ``dedicated`` are those of its CPUs that get a CPU each."""

    id: int
    cpus: tuple[int, ...]
    memory_mb: int
    dedicated: tuple[int, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What flavor and image ask for. ``page`` is ``small``, ``large``, ``any``, a size in KiB, or
    None; ``threads`` is prefer, require or isolate; ``emulator`` share, isolate or None;
    ``realtime`` names guest CPUs."""

    cells: tuple[GuestCell, ...]
    policy: str = SHARED
    threads: str | None = None
    emulator: str | None = None
    page: str | int | None = None
    realtime: tuple[int, ...] = ()
    locked: bool = False

    @property
    def dedicated(self) -> int:
        """How many host CPUs the guest has for itself."""
        return sum(len(cell.dedicated) for cell in self.cells) + (self.emulator == "isolate")


@dataclass(frozen=True)
class Placed:
    """One cell of a guest on a cell of its host. ``pins`` are the host CPU of each dedicated guest
    CPU, ``floating`` those on which the others run."""

    cell: GuestCell
    host: int
    pins: Mapping[int, int] = field(default_factory=dict)
    floating: tuple[int, ...] = ()
    page_kb: int | None = None

    @property
    def small(self) -> bool:
        """Whether its memory is in pages of the usual size."""
        return self.page_kb in (None, SMALL_KB)


@dataclass(frozen=True)
class Placement:
    """A guest on a host. ``emulator`` are host CPUs of QEMU's own threads (empty: wherever the
    guest's are), ``isolated`` the one among them that is nobody else's, ``blocked`` siblings that
    stay empty."""

    cells: tuple[Placed, ...]
    policy: str = SHARED
    threads: str | None = None
    emulator_policy: str | None = None
    emulator: tuple[int, ...] = ()
    isolated: tuple[int, ...] = ()
    blocked: tuple[int, ...] = ()
    realtime: tuple[int, ...] = ()
    locked: bool = False

    def held(self) -> frozenset[int]:
        """Host CPUs that no other guest may have."""
        pins = (cpu for cell in self.cells for cpu in cell.pins.values())
        return frozenset((*pins, *self.isolated, *self.blocked))

    def fulfils(self, wish: Wish) -> bool:
        """Whether it is what a wish asks for; a page size of choice was chosen before."""
        same = tuple(placed.cell for placed in self.cells) == wish.cells and (
            self.policy, self.threads, self.emulator_policy, self.realtime, self.locked) == (
            wish.policy, wish.threads, wish.emulator, wish.realtime, wish.locked)  # fmt: skip
        return same and all(_fits(placed, wish.page) for placed in self.cells)

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for the journal and the other host."""
        return {
            "cells": [{
                "id": placed.cell.id, "cpus": list(placed.cell.cpus),
                "memory_mb": placed.cell.memory_mb, "dedicated": list(placed.cell.dedicated),
                "host": placed.host, "floating": list(placed.floating),
                "pins": [[guest, host] for guest, host in sorted(placed.pins.items())],
                "page_kb": placed.page_kb} for placed in self.cells],
            "policy": self.policy, "threads": self.threads, "emulator_policy": self.emulator_policy,
            "emulator": list(self.emulator), "isolated": list(self.isolated),
            "blocked": list(self.blocked), "realtime": list(self.realtime), "locked": self.locked,
        }  # fmt: skip

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Placement:
        """The placement that :meth:`to_plain` described."""
        cells = tuple(
            Placed(GuestCell(told["id"], tuple(told["cpus"]), told["memory_mb"],
                             tuple(told["dedicated"])),
                   told["host"], {guest: host for guest, host in told["pins"]},
                   tuple(told["floating"]), told["page_kb"])
            for told in plain["cells"])  # fmt: skip
        return cls(
            cells, plain["policy"], plain["threads"], plain["emulator_policy"],
            tuple(plain["emulator"]), tuple(plain["isolated"]), tuple(plain["blocked"]),
            tuple(plain["realtime"]), plain["locked"])


def _fits(placed: Placed, page: str | int | None) -> bool:
    if page in (None, "any"):
        return True
    if page in ("small", "large"):
        return placed.small == (page == "small")
    return placed.page_kb == page


def parse_set(text: str, every: Iterable[int] = ()) -> frozenset[int]:
    """CPU numbers such as ``0-3,^2``. Raises ValueError.

    :param every: what is meant where CPUs are only taken away, as by ``^0``.
    """
    chosen: set[int] = set()
    left: set[int] = set()
    only_left = True
    for part in text.split(","):
        part = part.strip()
        away = part.startswith("^")
        first, dash, last = part.removeprefix("^").partition("-")
        start = int(first)
        end = int(last) if dash else start
        if not 0 <= start <= end < MOST_CPUS:
            raise ValueError(f"{part!r} is no range of CPUs")
        (left if away else chosen).update(range(start, end + 1))
        only_left = only_left and away
    return frozenset((set(every) if only_left else chosen) - left)


def cpu_sets(options: Any, cells: Iterable[HostCell]) -> tuple[frozenset[int], frozenset[int]]:
    """The host's shared and dedicated CPUs, of those that there are, by the options of [compute].

    :raises ValueError: with the option that cannot be read.
    """
    there = frozenset(cpu for cell in cells for cpu in cell.cpus)
    found: dict[str, frozenset[int] | None] = {}
    for name in ("cpu_shared_set", "cpu_dedicated_set"):
        text = getattr(options, name)
        try:
            found[name] = parse_set(text, there) & there if text else None
        except ValueError as error:
            raise ValueError(f"[compute] {name} = {text} is no set of CPUs") from error
    dedicated = found["cpu_dedicated_set"] or frozenset()
    shared = found["cpu_shared_set"]
    return (there if shared is None else shared) - dedicated, dedicated


def format_set(cpus: Iterable[int]) -> str:
    """The same, as libvirt reads it: ``0-1,3``."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
