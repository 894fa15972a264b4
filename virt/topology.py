"""NUMA cells, pinned CPUs, pages and realtime: what flavor and image ask for, judged once.

The rules and names are Nova's: the flavor decides, an image may say the same, and choose a page
size where the flavor leaves the choice. None where nothing of it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compute.model.guest import Guest
from compute.model.numa import (
    DEDICATED,
    MIXED,
    SHARED,
    SMALL_KB,
    GuestCell,
    Wish,
    parse_set,
)
from virt.wishes import Wishes, refuse

POLICIES = (SHARED, DEDICATED, MIXED)
THREADS = ("prefer", "isolate", "require")
EMULATOR = ("share", "isolate")
PAGES = ("small", "large", "any")
UNITS = {"k": 1, "kb": 1, "m": 1024, "mb": 1024, "g": 1024**2, "gb": 1024**2}
MOST_CELLS = 128


def wish(guest: Guest) -> Wish | None:
    """What the guest wants of its host's CPUs and memory. Raises Failed by name."""
    wishes, vcpus = Wishes(guest), guest.flavor.vcpus
    policy = wishes.choice("cpu_policy", POLICIES)
    count = _whole(wishes, "numa_nodes", MOST_CELLS)
    page, locked = _page(wishes), bool(wishes.yes("locked_memory"))
    realtime = _realtime(wishes, vcpus, policy or SHARED)
    threads, emulator = _threads(wishes, policy or SHARED), _emulator(wishes, policy or SHARED)
    if locked and page is None:
        _refuse(wishes, "locked_memory", "false without hw:mem_page_size")
    if policy in (None, SHARED) and count is None and page is None:
        return None
    dedicated = _dedicated(wishes, vcpus, policy or SHARED, realtime)
    return Wish(
        _cells(wishes, guest, count or 1, dedicated), policy or SHARED, threads, emulator, page,
        realtime, locked or bool(realtime))


def _refuse(wishes: Wishes, key: str, allowed: str) -> None:
    source, name, value = wishes.said(key, agree=False) or ("flavor", f"hw:{key}", "")
    refuse(source, name, value, allowed)


def _whole(wishes: Wishes, key: str, most: int) -> int | None:
    found = wishes.said(key)
    if found is None:
        return None
    number = wishes.number(found[0], found[1])
    if number is not None and number > most:
        refuse(*found, f"1 to {most}")
    return number


def _page(wishes: Wishes) -> str | int | None:
    flavor, image = wishes.specs.get("hw:mem_page_size"), wishes.guest.prop("hw_mem_page_size")
    if flavor is None:
        if image is not None:
            refuse("image", "hw_mem_page_size", image, "nothing, where the flavor names no size")
        return None
    chosen = _size("flavor", "hw:mem_page_size", str(flavor))
    if image is None:
        return chosen
    if chosen not in ("large", "any"):
        if _size("image", "hw_mem_page_size", str(image)) != chosen:
            refuse("image", "hw_mem_page_size", image, f"{flavor}, as the flavor says")
        return chosen
    return _size("image", "hw_mem_page_size", str(image))


def _size(source: str, name: str, value: str) -> str | int:
    """small, large, any, or KiB."""
    if value in PAGES:
        return value
    digits = value.rstrip("kKmMgGbB")
    unit = UNITS.get(value[len(digits):].lower()) if len(digits) < len(value) else 1
    if not digits.isascii() or not digits.isdigit() or not unit or int(digits) * unit < SMALL_KB:
        refuse(source, name, value, "small, large, any, or a size such as 2MB")
    size = int(digits) * unit
    return "small" if size == SMALL_KB else size


def _threads(wishes: Wishes, policy: str) -> str | None:
    found = wishes.choice("cpu_thread_policy", THREADS)
    if found is not None and found != "prefer" and policy == SHARED:
        _refuse(wishes, "cpu_thread_policy", "prefer without hw:cpu_policy=dedicated")
    return found if policy != SHARED else None


def _emulator(wishes: Wishes, policy: str) -> str | None:
    found = wishes.choice("emulator_threads_policy", EMULATOR)
    if found == "isolate" and policy == SHARED:
        _refuse(wishes, "emulator_threads_policy", "share without hw:cpu_policy=dedicated")
    return found if policy != SHARED else None


def _mask(wishes: Wishes, key: str, vcpus: int) -> frozenset[int] | None:
    """A set of the guest's own CPUs, None when not said."""
    found = wishes.said(key)
    if found is None:
        return None
    try:
        cpus = parse_set(found[2], range(vcpus))
    except ValueError:
        refuse(*found, "CPUs of the guest, such as ^0 or 1-3")
    if not cpus or max(cpus) >= vcpus:
        refuse(*found, f"some of the guest's CPUs 0 to {vcpus - 1}")
    return cpus


def _realtime(wishes: Wishes, vcpus: int, policy: str) -> tuple[int, ...]:
    if not wishes.yes("cpu_realtime"):
        return ()
    if policy == SHARED:
        _refuse(wishes, "cpu_realtime", "false without hw:cpu_policy=dedicated or mixed")
    cpus = _mask(wishes, "cpu_realtime_mask", vcpus)
    isolated = wishes.choice("emulator_threads_policy", EMULATOR) is not None
    chosen = cpus if cpus is not None else frozenset(range(vcpus))
    if len(chosen) == vcpus and not isolated:
        _refuse(wishes, "cpu_realtime_mask" if cpus else "cpu_realtime",
                "a mask that leaves a CPU to the guest's other work, such as ^0")
    return tuple(sorted(chosen))


def _dedicated(wishes: Wishes, vcpus: int, policy: str, realtime: tuple[int, ...],
               ) -> frozenset[int]:  # fmt: skip
    if policy == DEDICATED:
        return frozenset(range(vcpus))
    if policy == SHARED:
        return frozenset()
    cpus = _mask(wishes, "cpu_dedicated_mask", vcpus)
    if cpus is None:
        cpus = frozenset(realtime)
    if not cpus or len(cpus) == vcpus:
        _refuse(wishes, "cpu_policy", "mixed together with a hw:cpu_dedicated_mask of some CPUs")
    if not set(realtime) <= cpus:
        _refuse(wishes, "cpu_realtime_mask", "CPUs that hw:cpu_dedicated_mask names")
    return cpus


def _cells(wishes: Wishes, guest: Guest, count: int, dedicated: frozenset[int],
           ) -> tuple[GuestCell, ...]:  # fmt: skip
    vcpus, memory = guest.flavor.vcpus, guest.flavor.memory_mb
    cpus: list[Any] = [_each(wishes, f"numa_cpus.{i}", parse_set) for i in range(count)]
    sizes: list[Any] = [_each(wishes, f"numa_mem.{i}", int) for i in range(count)]
    beyond = wishes.said(f"numa_cpus.{count}") or wishes.said(f"numa_mem.{count}")
    if beyond:
        refuse(*beyond, f"the cells 0 to {count - 1} of hw:numa_nodes")
    if not any((*cpus, *sizes)):
        if vcpus % count or memory % count:
            _refuse(wishes, "numa_nodes",
                    f"a number that divides {vcpus} vCPUs and {memory} MiB, or give "
                    "hw:numa_cpus.N and hw:numa_mem.N")
        each = vcpus // count
        cpus = [frozenset(range(i * each, (i + 1) * each)) for i in range(count)]
        sizes = [memory // count] * count
    elif not all(cpus) or not all(sizes):
        _refuse(wishes, "numa_nodes", "a number of cells that each have hw:numa_cpus.N and "
                                      "hw:numa_mem.N")
    listed = [cpu for cell in cpus for cpu in cell]
    if sorted(listed) != list(range(vcpus)):
        _refuse(wishes, "numa_cpus.0", f"sets that have each of the {vcpus} vCPUs once")
    if sum(sizes) != memory or min(sizes) < 1:
        _refuse(wishes, "numa_mem.0", f"sizes that make {memory} MiB together")
    return tuple(
        GuestCell(i, tuple(sorted(cpus[i])), sizes[i], tuple(sorted(cpus[i] & dedicated)))
        for i in range(count))


def _each(wishes: Wishes, key: str, read: Callable[[str], Any]) -> Any:
    found = wishes.said(key)
    if found is None:
        return None
    try:
        return read(found[2])
    except ValueError:
        refuse(*found, "CPUs such as 0-1,4" if "cpus" in key else "MiB")
