"""A guest's place on its host: in the domain, and in the definition that moves to another host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from compute.model.numa import Placement, format_set
from virt.xml import cpu, memory
from virt.xml.domain import Domain

if TYPE_CHECKING:
    from virt.libvirt.builder import Plan


def add(domain: Domain, plan: Plan) -> None:
    """Cells, pins, pages and schedulers of a guest that has a place; the shared CPUs of one that
    has none."""
    placement = plan.guest.placement
    if placement is None:
        domain.vcpu_cpus = format_set(plan.shared_cpus) or None
        return
    cells = [
        cpu.GuestCell(id=each.cell.id, cpus=format_set(each.cell.cpus), unit="KiB",
                      memory=each.cell.memory_mb * 1024, access=None if each.small else "shared")
        for each in placement.cells]  # fmt: skip
    domain.cpu.numa = cpu.GuestCells(cells=cells)
    bind(domain, placement, plan.options.realtime_scheduler_priority)
    backing = domain.memory_backing or memory.MemoryBacking()
    huge = [memory.Page(size=each.page_kb, unit="KiB", nodeset=str(each.cell.id))
            for each in placement.cells if not each.small]  # fmt: skip
    if huge:
        backing.huge = memory.HugePages(pages=huge)
    if placement.realtime:
        backing.unmerged = True
    if placement.locked:
        backing.locked = True
    if len(backing.node):
        domain.memory_backing = backing


def bind(domain: Domain, placement: Placement, priority: int) -> None:
    """What depends on this very host: pins, schedulers, and the cells that memory comes from."""
    tune = domain.cputune or cpu.CPUTune()
    pins = {vcpu: cpus for each in placement.cells for vcpu, cpus in _pins(each)}
    tune.pins = [cpu.CPUPin(vcpu=vcpu, cpus=format_set(pins[vcpu])) for vcpu in sorted(pins)]
    emulator = format_set(placement.emulator or _union(pins.values()))
    tune.emulator = emulator
    tune.iothread_pins = [cpu.IOThreadPin(iothread=number, cpus=emulator)
                          for number in range(1, (domain.iothreads or 0) + 1)]  # fmt: skip
    tune.schedules = [
        cpu.CPUSchedule(vcpus=format_set(placement.realtime), scheduler="fifo", priority=priority)
    ] if placement.realtime else []
    domain.cputune = tune
    domain.numatune = memory.NUMATune(
        mode="strict", hosts=format_set(each.host for each in placement.cells),
        cells=[memory.CellMemory(cell=each.cell.id, mode="strict", hosts=str(each.host))
               for each in placement.cells])  # fmt: skip


def _pins(each) -> Iterable[tuple[int, Iterable[int]]]:
    for vcpu in each.cell.cpus:
        yield vcpu, (each.pins[vcpu],) if vcpu in each.pins else each.floating


def _union(sets: Iterable[Iterable[int]]) -> set[int]:
    return {number for each in sets for number in each}


def back_by_files(domain: Domain, plan: Plan) -> None:
    """Memory from files, as the option says; others may map it, and it is given back at the end."""
    if plan.options.file_backed_memory:
        domain.memory_backing = domain.memory_backing or memory.MemoryBacking()
        backing = domain.memory_backing
        backing.source, backing.access = "file", "shared"
        backing.allocation, backing.discard = "immediate", True
