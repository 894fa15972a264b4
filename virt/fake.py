"""A hypervisor whose guests are files: it runs nothing, and outlives the process.

It is a real driver, used by tests, simulation and contract runs. State lies under
``<instances_path>``: ``domains/<uuid>.json`` (atomically replaced), ``<uuid>/`` for disks,
``_base/`` for images. ``hook(method, when)`` is called ``before`` and ``after`` each method, so
that a test can raise, hang or kill there.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping

from compute.errors import Failed, Refused
from compute.model import states
from compute.model.guest import CachedImage, Disk, Guest, GuestState, HostFacts, Image, Nic
from virt.driver import Cancel, ImageSource, Progress

Hook = Callable[[str, str], None]


def replace(path: pathlib.Path, data: bytes) -> None:
    """Write a file that is whole or not there; a killed process is survived, a power cut not."""
    part = path.with_name(f"{path.name}.part.{os.getpid()}")
    part.write_bytes(data)
    part.rename(path)


def hooked(method):
    """Call the driver's hook around a method."""

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        self.calls[method.__name__] = self.calls.get(method.__name__, 0) + 1
        self.hook(method.__name__, "before")
        result = method(self, *args, **kwargs)
        self.hook(method.__name__, "after")
        return result

    return wrapper


class FakeDriver:
    """See virt.driver.Driver.

    :param root: directory of all its state.
    :param hook: called around each method; raises to make it fail.
    :param clean_shutdown: whether guests obey :meth:`shutdown`.
    """

    name = "fake"

    def __init__(self, root: str | os.PathLike, hook: Hook | None = None, *,
                 vcpus: int = 8, memory_mb: int = 32768, disk_gb: int = 1000,
                 clean_shutdown: bool = True, hostname: str | None = None):
        self.root = pathlib.Path(root)
        self.hook: Hook = hook or (lambda method, when: None)
        self.calls: dict[str, int] = {}
        self.vcpus, self.memory_mb, self.disk_gb = vcpus, memory_mb, disk_gb
        self.clean_shutdown = clean_shutdown
        self.hostname = hostname or os.uname().nodename
        self.domains = self.root / "domains"
        self.base = self.root / "_base"
        self.networks = self.root / "networks"
        for path in (self.domains, self.base, self.networks):
            path.mkdir(parents=True, exist_ok=True)
        self._on_event: Callable[[str, str], None] = lambda uuid, what: None

    # -- the host -----------------------------------------------------------------------------
    def start(self, on_event: Callable[[str, str], None]) -> None:
        self._on_event = on_event

    def give_up(self) -> None:
        return

    def stop(self) -> None:
        self._on_event = lambda uuid, what: None

    def connected(self) -> bool:
        return True

    @hooked
    def host_facts(self) -> HostFacts:
        return HostFacts(
            hypervisor_hostname=self.hostname, hypervisor_type="fake", hypervisor_version=1000000,
            vcpus=self.vcpus, memory_mb=self.memory_mb, disk_gb=self.disk_gb,
            disk_free_gb=self.disk_gb, virt_type="fake",
            cpu_info={"arch": "x86_64", "model": "fake", "vendor": "fake", "features": [],
                      "topology": {"sockets": 1, "cores": self.vcpus, "threads": 1}},
            supported=(("x86_64", "fake", "hvm"), ("x86_64", "qemu", "hvm")))

    @hooked
    def host_uptime(self) -> str:
        seconds = pathlib.Path("/proc/uptime").read_text().split()[0]
        load = pathlib.Path("/proc/loadavg").read_text().split()[:3]
        return f" up {float(seconds):.0f} s,  load average: {', '.join(load)}\n"

    def doctor_checks(self) -> Mapping[str, Callable[[], tuple[bool | None, str, str]]]:
        return {}

    # -- observing ----------------------------------------------------------------------------
    @hooked
    def states(self) -> Mapping[str, GuestState]:
        return {p.stem: state for p in self.domains.glob("*.json")
                if (state := self._state(p.stem)) is not None}

    @hooked
    def state(self, uuid: str) -> GuestState | None:
        return self._state(uuid)

    def _read(self, uuid: str) -> dict | None:
        try:
            return json.loads((self.domains / f"{uuid}.json").read_bytes())
        except FileNotFoundError:
            return None

    def _write(self, uuid: str, domain: dict) -> None:
        replace(self.domains / f"{uuid}.json", json.dumps(domain).encode())

    def _state(self, uuid: str) -> GuestState | None:
        found = self._read(uuid)
        if found is None:
            return None
        return GuestState(uuid=uuid, name=found["name"], power_state=found["power_state"],
                          ours=found.get("ours", True), generation=found.get("generation", 0),
                          operation=found.get("operation", ""))

    @hooked
    def disks(self, uuid: str) -> tuple[Disk, ...]:
        try:
            return tuple(Disk(**d) for d in json.loads(
                (self.root / uuid / "disks.json").read_bytes()))
        except FileNotFoundError:
            return ()

    @hooked
    def guest_dirs(self) -> list[str]:
        return [p.name for p in self.root.iterdir() if len(p.name) == 36 and p.is_dir()]

    @hooked
    def console_log(self, uuid: str, max_bytes: int) -> bytes:
        try:
            return (self.root / uuid / "console.log").read_bytes()[-max_bytes:]
        except FileNotFoundError:
            return b""

    # -- images and disks ---------------------------------------------------------------------
    @hooked
    def cached_image(self, image: Image) -> CachedImage | None:
        path = self.base / image.id
        if not path.exists():
            return None
        return CachedImage(image.id, str(path), image.disk_format or "raw", path.stat().st_size)

    @hooked
    def fetch_image(self, image: Image, source: ImageSource, progress: Progress,
                    cancel: Cancel) -> CachedImage:
        part = self.base / f"{image.id}.part.{os.getpid()}"
        try:
            source.download(image.id, str(part), progress, cancel)
            part.rename(self.base / image.id)
        finally:
            part.unlink(missing_ok=True)
        found = self.cached_image(image)
        if found is None:
            raise Failed(f"Image {image.id} could not be cached.", code="image_unacceptable")
        return found

    @hooked
    def check_image(self, guest: Guest, base: CachedImage) -> None:
        room = guest.flavor.root_gb << 30
        if room and base.virtual_size > room:
            raise Failed(f"Image {base.image_id} needs {base.virtual_size} bytes of disk; flavor "
                         f"{guest.flavor.name} gives {room}.",
                         next="Use a flavor with a larger disk.", code="flavor_disk_too_small")

    @hooked
    def create_disks(self, guest: Guest, base: CachedImage | None,
                     secrets: Mapping[str, str]) -> tuple[Disk, ...]:
        found = self.disks(guest.uuid)
        if found:
            return found
        directory = self.root / guest.uuid
        directory.mkdir(exist_ok=True)
        path = directory / "disk"
        path.write_text(base.path if base else "")
        made = [Disk("root", str(path), "qcow2", guest.flavor.root_gb << 30)]
        if guest.config_drive:
            drive = directory / "disk.config"
            drive.write_text(json.dumps({"hostname": guest.hostname,
                                         "admin_pass": secrets.get("admin_pass")}))
            made.append(Disk("config", str(drive), "raw", drive.stat().st_size, "cdrom"))
        replace(directory / "disks.json", json.dumps([vars(d) for d in made]).encode())
        return tuple(made)

    @hooked
    def delete_disks(self, uuid: str) -> None:
        shutil.rmtree(self.root / uuid, ignore_errors=True)

    @hooked
    def quarantine_disks(self, uuid: str) -> str:
        target = self.root / "_quarantine" / f"{uuid}.{int(time.time())}"
        target.parent.mkdir(exist_ok=True)
        (self.root / uuid).rename(target)
        return str(target)

    @hooked
    def sweep(self, in_use: Iterable[str], max_age: int) -> list[str]:
        removed = []
        for part in self.base.glob("*.part.*"):
            if not pathlib.Path("/proc", part.name.rsplit(".", 1)[1]).exists():
                part.unlink(missing_ok=True)
                removed.append(part.name)
        return removed

    # -- the domain ---------------------------------------------------------------------------
    @hooked
    def define(self, guest: Guest, disks: Iterable[Disk], nics: Iterable[Nic], *,
               generation: int, operation: str) -> Mapping[str, str]:
        found = self._read(guest.uuid)
        if found is not None and not found.get("ours", True):
            raise Refused(f"A domain with uuid {guest.uuid} is there and is not ours.",
                          now="It was not touched.", code="uuid_in_use")
        self._write(guest.uuid, {
            "name": guest.name, "ours": True, "generation": generation, "operation": operation,
            "power_state": found["power_state"] if found else states.SHUTDOWN,
            "disks": [d.path for d in disks], "nics": [n.mac for n in nics]})
        return {"hw_machine_type": guest.prop("hw_machine_type", "fake-1.0") or "fake-1.0"}

    @hooked
    def undefine(self, uuid: str) -> None:
        (self.domains / f"{uuid}.json").unlink(missing_ok=True)

    def _set_power(self, uuid: str, power_state: int, event: str) -> None:
        found = self._read(uuid)
        if found is None:
            raise Refused(f"There is no domain {uuid}.", code="guest_not_found")
        if found["power_state"] != power_state:
            found["power_state"] = power_state
            self._write(uuid, found)
            self._on_event(uuid, event)

    @hooked
    def power_on(self, uuid: str) -> None:
        self._set_power(uuid, states.RUNNING, "started")
        if (self.root / uuid).is_dir():
            with open(self.root / uuid / "console.log", "ab") as log:
                log.write(b"UP\n")

    @hooked
    def shutdown(self, uuid: str) -> None:
        if self.clean_shutdown:
            self._set_power(uuid, states.SHUTDOWN, "stopped")

    @hooked
    def power_off(self, uuid: str) -> None:
        if self._read(uuid) is not None:
            self._set_power(uuid, states.SHUTDOWN, "stopped")

    @hooked
    def resume(self, uuid: str) -> None:
        self._set_power(uuid, states.RUNNING, "resumed")

    # -- networks of this host ----------------------------------------------------------------
    @hooked
    def plug(self, guest: Guest, nic: Nic) -> None:
        if nic.kind == "network" and not (self.networks / nic.source).exists():
            raise Failed(f"Network {nic.source} is not on this host.", code="network_missing")

    @hooked
    def unplug(self, uuid: str, nic: Nic) -> None:
        return

    @hooked
    def create_network(self, network: Mapping) -> None:
        replace(self.networks / network["name"], json.dumps(dict(network)).encode())

    @hooked
    def delete_network(self, name: str) -> None:
        (self.networks / name).unlink(missing_ok=True)

    @hooked
    def reserve_address(self, network: str, mac: str, address: str, hostname: str) -> None:
        return

    @hooked
    def release_address(self, network: str, mac: str) -> None:
        return
