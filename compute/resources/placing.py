"""Finds a place for a guest on a host's NUMA cells: a pure function of what there is and what is
taken. Each guest cell goes to a host cell of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from compute.model.numa import SMALL_KB, GuestCell, HostCell, Placed, Placement, Wish


@dataclass(frozen=True)
class Ground:
    """What there is. ``shared`` and ``dedicated`` are host CPUs by use, ``reserved`` pages that are
    kept back by (cell, KiB); ratios are how far CPUs and memory may be promised."""

    cells: tuple[HostCell, ...]
    shared: frozenset[int]
    dedicated: frozenset[int]
    reserved: Mapping[tuple[int, int], int] = field(default_factory=dict)
    cpu_ratio: float = 1.0
    ram_ratio: float = 1.0
    spread: bool = True


class Taken:
    """What placements hold, by host cell."""

    def __init__(self, placements: Iterable[Placement]):
        self.cpus: set[int] = set()
        self.pages: dict[tuple[int, int], int] = {}
        self.memory: dict[int, int] = {}
        self.floating: dict[int, int] = {}
        for placement in placements:
            self.cpus |= placement.held()
            for placed in placement.cells:
                self.add(placed)

    def add(self, placed: Placed) -> None:
        """Count one cell's pages, memory and floating CPUs."""
        host, memory = placed.host, placed.cell.memory_mb
        if placed.small:
            self.memory[host] = self.memory.get(host, 0) + memory
        else:
            key = (host, placed.page_kb or SMALL_KB)
            self.pages[key] = self.pages.get(key, 0) + memory * 1024 // key[1]
        loose = len(placed.cell.cpus) - len(placed.cell.dedicated)
        self.floating[host] = self.floating.get(host, 0) + loose


class NoPlace(Exception):
    """The guest fits nowhere; the text says why, for each cell."""


def place(wish: Wish, ground: Ground, taken: Taken) -> Placement:
    """Where the guest goes. Raises NoPlace."""
    reasons: dict[str, None] = {}
    for placement in _search(wish, ground, taken, wish.cells, (), reasons):
        return placement
    raise NoPlace("; ".join(reasons) or "it has more NUMA cells than this host")


def _search(
    wish: Wish, ground: Ground, taken: Taken, left: tuple[GuestCell, ...],
    done: tuple[Placed, ...], reasons: dict[str, None], blocked: tuple[int, ...] = (),
) -> Iterator[Placement]:
    """All placements, best first: one guest cell after the other, each host cell in turn."""
    if not left:
        yield from _finished(wish, ground, taken, done, blocked, reasons)
        return
    used = {placed.host for placed in done}
    for host in _ordered(ground, taken):
        if host.id in used:
            continue
        try:
            placed, empty = _fit(wish, ground, taken, left[0], host)
        except NoPlace as reason:
            reasons[str(reason)] = None
            continue
        yield from _search(wish, ground, taken, left[1:], (*done, placed), reasons,
                           (*blocked, *empty))


def _ordered(ground: Ground, taken: Taken) -> list[HostCell]:
    """Emptier cells first, or fuller ones where guests are to be packed."""
    def free(host: HostCell) -> tuple[int, int]:
        return (len(host.cpus - taken.cpus), host.memory_mb - taken.memory.get(host.id, 0))
    return sorted(ground.cells, key=free, reverse=ground.spread)


def _finished(
    wish: Wish, ground: Ground, taken: Taken, done: tuple[Placed, ...], blocked: tuple[int, ...],
    reasons: dict[str, None],
) -> Iterator[Placement]:
    made = Placement(done, wish.policy, wish.threads, wish.emulator, blocked=blocked,
                     realtime=wish.realtime, locked=wish.locked)
    if wish.emulator == "share":
        yield replace(made, emulator=tuple(sorted(ground.shared)))
    elif wish.emulator == "isolate":
        held = taken.cpus | made.held()
        near = next(cell for cell in ground.cells if cell.id == done[0].host)
        free = sorted((near.cpus & ground.dedicated) - held)
        if not free:
            reasons[f"NUMA cell {near.id} has no dedicated CPU left for the emulator"] = None
            return
        yield replace(made, emulator=(free[0],), isolated=(free[0],))
    else:
        yield made


def _fit(
    wish: Wish, ground: Ground, taken: Taken, cell: GuestCell, host: HostCell,
) -> tuple[Placed, tuple[int, ...]]:
    """One guest cell on one host cell, and the CPUs that it keeps empty. Raises NoPlace."""
    page = _page(wish, ground, taken, cell, host)
    chosen, empty = _pins(wish, ground, taken, cell, host)
    loose = len(cell.cpus) - len(cell.dedicated)
    floating = host.cpus & ground.shared
    if loose:
        used = taken.floating.get(host.id, 0)
        if loose > len(floating) or used + loose > len(floating) * ground.cpu_ratio:
            raise NoPlace(f"NUMA cell {host.id} has {len(floating)} shared CPUs for {loose}, "
                          f"{used} being promised")
    pins = dict(zip(cell.dedicated, chosen, strict=True))
    return Placed(cell, host.id, pins, tuple(sorted(floating)) if loose else (), page), empty


def _page(
    wish: Wish, ground: Ground, taken: Taken, cell: GuestCell, host: HostCell
) -> int | None:
    """The size of the pages that the cell's memory is in, None where nobody asked."""
    huge = sorted((size for size in host.pages if size > SMALL_KB), reverse=True)
    if isinstance(wish.page, int):
        wanted = [wish.page]
    else:
        wanted = {"large": huge, "any": [*huge, SMALL_KB]}.get(wish.page or "", [SMALL_KB])
    told = []
    for size in wanted:
        free = _free(ground, taken, host, size)
        if cell.memory_mb * 1024 % size == 0 and cell.memory_mb * 1024 <= free:
            return None if wish.page is None else size
        told.append(f"{free // 1024} MiB in pages of {size} KiB")
    raise NoPlace(f"NUMA cell {host.id} has {' and '.join(told) or 'no huge pages'} free for "
                  f"{cell.memory_mb} MiB")


def _free(ground: Ground, taken: Taken, host: HostCell, size: int) -> int:
    """KiB that are free in pages of one size."""
    if size == SMALL_KB:
        huge = sum(count * each for each, count in host.pages.items() if each > SMALL_KB)
        total = (host.memory_mb * 1024 - huge) * ground.ram_ratio
        return int(total) - taken.memory.get(host.id, 0) * 1024
    count = host.pages.get(size, 0) - ground.reserved.get((host.id, size), 0)
    return max(0, count - taken.pages.get((host.id, size), 0)) * size


def _pins(
    wish: Wish, ground: Ground, taken: Taken, cell: GuestCell, host: HostCell
) -> tuple[list[int], tuple[int, ...]]:
    """Host CPUs for the cell's dedicated ones, and those that stay empty for their sake."""
    need = len(cell.dedicated)
    mine = host.cpus & ground.dedicated
    groups = [sorted(group & mine - taken.cpus) for group in _cores(host)]
    if wish.threads == "isolate":
        whole = [sorted(group & mine) for group in _cores(host)
                 if group & mine and not group & taken.cpus]
        if len(whole) < need:
            raise NoPlace(f"NUMA cell {host.id} has {len(whole)} of {need} cores free as a whole")
        chosen = [group[0] for group in whole[:need]]
        empty = (cpu for group in _cores(host) if group & set(chosen) for cpu in group)
        return chosen, tuple(sorted(set(empty) - set(chosen)))
    if wish.threads == "require":
        groups = [group for group in groups if len(group) > 1]
    groups.sort(key=len, reverse=True)
    free = [cpu for group in groups for cpu in group]
    if len(free) < need:
        which = "dedicated CPUs on cores with threads" if wish.threads == "require" \
            else "dedicated CPUs"
        raise NoPlace(f"NUMA cell {host.id} has {len(free)} of {need} {which} free")
    return free[:need], ()


def _cores(host: HostCell) -> tuple[frozenset[int], ...]:
    """CPUs by core; a host that tells no cores has one for each CPU."""
    told = frozenset(cpu for group in host.siblings for cpu in group)
    return (*host.siblings, *(frozenset((cpu,)) for cpu in sorted(host.cpus - told)))
