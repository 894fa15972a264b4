"""What the fake hypervisor keeps on disk: its domains, its disks, and what hosts have in common.

Everything outlives the process. A :class:`Fabric` is what several fake hosts share: who they are,
the migrations between them, what is made to go wrong, and how far each guest has come. A guest that
runs writes a growing number to its memory, its root disk and its console, so that a copy of either
that is too old is found out, and so is a log with something missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compute.errors import Refused, Unknown
from compute.model import states
from compute.model.guest import Disk, GuestState

Hook = Callable[[str, str], None]
URI = "fake://"
# Files of a guest: role, format, device and target of each.
FILES = {"disk": ("root", "qcow2", "disk", "vda"), "disk.eph0": ("ephemeral", "raw", "disk", "vdb"),
         "disk.swap": ("swap", "raw", "disk", "vdc"),
         "disk.config": ("config", "raw", "cdrom", "sda"),
         "nvram.fd": ("nvram", "raw", "nvram", "nvram")}
TARGETS = {role: target for role, _, _, target in FILES.values()}
CONSOLE, CONSOLE_BEFORE = "console.log", "console.log.before"
# libvirt's words for why a domain is as it is, by what happened to it.
REASONS = {"started": "booted", "resumed": "unpaused", "paused": "user", "stopped": "destroyed"}
# What is made to go wrong, and how migrations behave; see Fabric.set.
FAULTS: dict[str, Any] = {
    "down": [], "cut": False, "fail_at": None, "hold": False, "samples": 3, "converges": True,
    "enough_downtime": 2000, "dirty_rate": 1 << 20, "disk_full": [],
    "save_looks": 0, "copy_looks": 0, "parted": False,
}


def replace(path: pathlib.Path, data: bytes) -> None:
    """Write a file that is whole or not there; a killed process is survived, a power cut not."""
    part = path.with_name(f"{path.name}.part.{os.getpid()}.{threading.get_ident()}")
    part.write_bytes(data)
    part.rename(path)


def read_json(path: pathlib.Path) -> Any:
    """What a file holds, None if it is not there."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def content_of(disk: pathlib.Path) -> dict[str, Any] | None:
    """What a disk of ours holds; None if it is not there, or is a real image."""
    try:
        found = read_json(disk)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def hooked(method):
    """Call the driver's hook around a method. One that asks the hypervisor fails while that is
    down."""
    name = method.__name__

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        self.calls[name] = self.calls.get(name, 0) + 1
        self.hook(name, "before")
        reach = getattr(self, "reach", None)
        if reach is not None:
            reach(name)
        result = method(self, *args, **kwargs)
        self.hook(name, "after")
        return result

    return wrapper


class Fabric:
    """What fake hosts have in common, in a directory.

    :param path: the directory; roots of hosts are remembered relative to it, so that it can be
        copied together with them.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)

    def register(self, host: str, root: pathlib.Path) -> None:
        """Make a host known to the others."""
        where = os.path.relpath(root, self.path)
        if self._get(f"host.{host}") != where:
            self._put(f"host.{host}", where)

    def root(self, host: str) -> pathlib.Path | None:
        """A host's directory, None if it is not known."""
        where = self._get(f"host.{host}")
        return self.path / where if where else None

    def hosts(self) -> list[str]:
        """All hosts that are known."""
        return sorted(p.name.removeprefix("host.") for p in self.path.glob("host.*")
                      if ".part." not in p.name)

    def _get(self, name: str) -> Any:
        return read_json(self.path / name)

    def _put(self, name: str, value: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        replace(self.path / name, json.dumps(value).encode())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One at a time, over all processes; a dead process holds nothing."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- migrations ---------------------------------------------------------------------------
    def move(self, uuid: str) -> dict[str, Any] | None:
        """The newest migration of a guest, as plain data."""
        return self._get(f"move.{uuid}")

    def set_move(self, uuid: str, move: Mapping[str, Any]) -> None:
        """Write a migration down."""
        self._put(f"move.{uuid}", move)

    # -- what goes wrong, by a test's hand ----------------------------------------------------
    def faults(self) -> dict[str, Any]:
        """What goes wrong now."""
        return {**FAULTS, **(self._get("faults") or {})}

    def set(self, **faults: Any) -> None:
        """Change what goes wrong.

        ``down``: hosts whose hypervisor does not answer; ``cut``: the link between hosts is;
        ``fail_at``: the phase in which migrations fail; ``hold``: they stand still; ``samples``:
        looks that each phase takes; ``converges`` false: they go on until ``enough_downtime`` (ms)
        is allowed or post-copy begins; ``dirty_rate`` in bytes/s; ``disk_full``: hosts without
        room; ``save_looks``: how many looks it takes until a memory is written to disk;
        ``copy_looks``: the same until the copy of a disk is level with it; ``parted``: at the end
        of a switch-over the source does not hear that the guest goes on at the destination, and
        lets it go on too, as libvirt 9.0 does.
        """
        unknown = set(faults) - set(FAULTS)
        if unknown:
            raise ValueError(f"no such fault: {sorted(unknown)}")
        self._put("faults", {**(self._get("faults") or {}), **faults})

    def down(self, host: str) -> None:
        """A host's hypervisor stops to answer."""
        self.set(down=sorted({*self.faults()["down"], host}))

    def up(self, host: str) -> None:
        """It answers again."""
        self.set(down=[h for h in self.faults()["down"] if h != host])

    # -- what guests have done ----------------------------------------------------------------
    def written(self, uuid: str) -> int:
        """The greatest number that a guest ever wrote."""
        return self._get(f"written.{uuid}") or 0

    def set_written(self, uuid: str, count: int) -> None:
        """A guest wrote a number."""
        self._put(f"written.{uuid}", count)

    def accuse(self, what: str) -> None:
        """Note that something happened that never may."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "violations", "a") as file:
            file.write(what + "\n")

    def violations(self) -> list[str]:
        """What happened that never may: two running copies, a disk or a memory that went back, a
        disk that was taken away under a running guest."""
        try:
            return (self.path / "violations").read_text().splitlines()
        except FileNotFoundError:
            return []

    def running(self, uuid: str) -> list[str]:
        """Hosts on which a guest runs."""
        found = []
        for host in self.hosts():
            root = self.root(host)
            domain = read_json(root / "domains" / f"{uuid}.json") if root else None
            if domain and domain["power_state"] == states.RUNNING:
                found.append(host)
        return found


class FakeState:
    """A fake host's files. Subclasses add the methods of virt.driver.Driver.

    :param fabric: directory that it shares with other hosts; None: it is alone.
    :param shared: whether guests' disks lie in the fabric, where all hosts see them.
    """

    # Methods that look at files only, and work while the hypervisor is down.
    FILES = frozenset({
        "disks", "guest_dirs", "console_log", "outgoing_console", "keep_console",
        "cached_image", "fetch_image", "check_image", "create_disks", "delete_disks",
        "quarantine_disks", "sweep", "check_resize",
        "set_aside_disks", "bring_back_disks", "aside_disks", "delete_aside_disks", "copy_disks",
        "grow_disks", "copy_off", "copied", "shape_copy", "detach_base", "host_uptime",
        "create_rescue_disks", "rescue_disks", "delete_rescue_disks",
        "volume_connector", "connect_volume", "disconnect_volume"})

    def __init__(self, root: str | os.PathLike, hook: Hook | None, hostname: str,
                 fabric: str | os.PathLike | None, shared: bool):
        self.root = pathlib.Path(root)
        self.hook: Hook = hook or (lambda method, when: None)
        self.calls: dict[str, int] = {}
        self.hostname = hostname
        self.fabric = Fabric(fabric or self.root / "_fabric")
        self.place = self.fabric.path / "instances" if shared else self.root
        self.storage = "shared" if shared else hostname
        self.domains = self.root / "domains"
        for path in (self.domains, self.place):
            path.mkdir(parents=True, exist_ok=True)
        self.fabric.register(hostname, self.root)
        self.now: Callable[[], float] = time.time
        self._on_event: Callable[[str, str], None] = lambda uuid, what: None

    def at(self, host: str) -> FakeState:
        """Another host's files, as its hypervisor sees them."""
        root = self.fabric.root(host)
        if root is None:
            raise KeyError(f"host {host} is not in {self.fabric.path}")
        return FakeState(root, None, host, self.fabric.path, self.storage == "shared")

    def reach(self, method: str) -> None:
        """Raise Unknown if a method asks a hypervisor that is down."""
        if method not in self.FILES and self.hostname in self.fabric.faults()["down"]:
            raise Unknown(f"The hypervisor of {self.hostname} does not answer.",
                          now="Whether it was done is not known.", code="libvirt_lost")

    # -- domains ------------------------------------------------------------------------------
    def _read(self, uuid: str) -> dict | None:
        return read_json(self.domains / f"{uuid}.json")

    def _write(self, uuid: str, domain: Mapping[str, Any]) -> None:
        replace(self.domains / f"{uuid}.json", json.dumps(domain).encode())

    def _need(self, uuid: str) -> dict:
        found = self._read(uuid)
        if found is None:
            raise Refused(f"There is no domain {uuid}.", code="guest_not_found")
        return found

    def _state(self, uuid: str) -> GuestState | None:
        found = self._read(uuid)
        if found is None:
            return None
        return GuestState(uuid=uuid, name=found["name"], power_state=found["power_state"],
                          reason=found.get("reason", ""), ours=found.get("ours", True),
                          persistent=found.get("persistent", True),
                          generation=found.get("generation", 0),
                          operation=found.get("operation", ""), saved=found.get("saved", False),
                          job=found.get("job", ""))

    def _set_power(self, uuid: str, power_state: int, event: str) -> None:
        found = self._need(uuid)
        if found["power_state"] == power_state:
            return
        if power_state == states.RUNNING:
            for other in self.fabric.running(uuid):
                if other != self.hostname:
                    self.fabric.accuse(f"{uuid} runs on {other} and on {self.hostname}")
        if states.SHUTDOWN in (power_state, found["power_state"]):
            for job in ("copy", "swap"):
                found.pop(job, None)  # they went down with the domain
        self._write(uuid, {**found, "power_state": power_state, "reason": REASONS[event]})
        self._on_event(uuid, event)

    # -- disks --------------------------------------------------------------------------------
    def _dir(self, uuid: str) -> pathlib.Path:
        return self.place / uuid

    def _aside(self, uuid: str) -> pathlib.Path:
        return self.place / f"{uuid}_resize"

    def _listed(self, directory: pathlib.Path) -> tuple[Disk, ...]:
        """The disks of a directory, empty without ``disks.json``."""
        found = read_json(directory / "disks.json") or ()
        return tuple(Disk(**{**d, "path": str(directory / os.path.basename(d["path"]))})
                     for d in found)

    def _list(self, uuid: str, disks: Iterator[Disk] | list[Disk] | tuple[Disk, ...]) -> None:
        replace(self._dir(uuid) / "disks.json", json.dumps([vars(d) for d in disks]).encode())

    def _see_unused(self, uuid: str, doing: str) -> None:
        """Nobody may take disks away under a running guest."""
        hosts = self.fabric.running(uuid)
        if self.storage == "shared" and hosts or self.hostname in hosts:
            self.fabric.accuse(f"{doing} {uuid} on {self.hostname} while it runs on {hosts}")

    # -- what a guest does --------------------------------------------------------------------
    def work(self, uuid: str) -> None:
        """A running guest writes the next number to its memory, its root disk and its console."""
        found = self._read(uuid)
        if found is None or found["power_state"] != states.RUNNING:
            return
        count = found.get("count", 0) + 1
        self._write(uuid, {**found, "count": count})
        self._write_disk(self._dir(uuid) / "disk", count)
        self._say(uuid, str(count))
        self.fabric.set_written(uuid, count)

    def _say(self, uuid: str, line: str) -> None:
        """A guest writes a line to its console."""
        if self._dir(uuid).is_dir():
            with open(self._dir(uuid) / CONSOLE, "a") as log:
                log.write(f"{line}\n")

    def _console(self, uuid: str) -> str:
        """What it wrote, on its hosts before and on this one."""
        files = (self._dir(uuid) / CONSOLE_BEFORE, self._dir(uuid) / CONSOLE)
        return "".join(path.read_text() for path in files if path.exists())

    def _write_disk(self, path: pathlib.Path, count: int) -> None:
        content = content_of(path)
        if content is not None:
            replace(path, json.dumps({**content, "count": count}).encode())

    def count_on_disk(self, uuid: str) -> int | None:
        """The number on a guest's root disk here; None if there is none."""
        content = content_of(self._dir(uuid) / "disk")
        return content.get("count") if content else None

    def _see_whole(self, uuid: str, memory: int | None = None) -> None:
        """A guest that goes on does so on the newest disk, with a memory as old as that."""
        count, written = self.count_on_disk(uuid), self.fabric.written(uuid)
        if count is None:
            return
        if count < written:
            self.fabric.accuse(f"{uuid} on {self.hostname}: its disk went back from {written} to "
                               f"{count}")
        if memory is not None and memory != count:
            self.fabric.accuse(f"{uuid} on {self.hostname}: its memory is of {memory}, its disk "
                               f"of {count}")
