"""A hypervisor whose guests are files: it runs nothing, and outlives the process.

It is a real driver, used by tests, simulation and contract runs. State lies under
``<instances_path>``: ``domains/<uuid>.json`` (atomically replaced), ``<uuid>/`` for disks,
``_base/`` for images. ``hook(method, when)`` is called ``before`` and ``after`` each method, so
that a test can raise, hang or kill there. Several of them with one ``fabric`` are hosts between
which guests move: see :mod:`virt.fake_state` and :mod:`virt.fake_moves`.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping

from compute.errors import Failed, Refused
from compute.model import states
from compute.model.guest import CachedImage, Disk, Guest, GuestState, HostFacts, Image, Nic
from compute.model.numa import HostCell
from compute.model.pci import HostDevice
from virt.driver import Cancel, ImageSource, Progress
from virt.fake_consoles import FakeConsoles
from virt.fake_copy import FakeCopy
from virt.fake_moves import ON, FakeMoves
from virt.fake_nics import FakeNics
from virt.fake_size import FakeSize, wanted
from virt.fake_state import Hook, hooked, replace
from virt.fake_tended import FakeTended
from virt.fake_volumes import FakeVolumes

__all__ = ["FakeDriver", "hooked", "replace"]


class FakeDriver(FakeMoves, FakeSize, FakeTended, FakeCopy, FakeNics, FakeVolumes, FakeConsoles):
    """See virt.driver.Driver.

    :param root: directory of all its state.
    :param hook: called around each method; raises to make it fail.
    :param clean_shutdown: whether guests obey :meth:`shutdown`.
    :param fabric: directory that it shares with the hosts to which guests can move.
    :param shared: whether guests' disks lie in the fabric, for all hosts.
    """

    name = "fake"
    huge_pages = 0
    pci: tuple[HostDevice, ...] = ()  # its PCI devices
    lacks: frozenset[str] = frozenset()  # names of extra specs that this host cannot fulfil

    def __init__(self, root: str | os.PathLike, hook: Hook | None = None, *,
                 vcpus: int = 8, memory_mb: int = 32768, disk_gb: int = 1000,
                 clean_shutdown: bool = True, hostname: str | None = None,
                 fabric: str | os.PathLike | None = None, shared: bool = False):
        super().__init__(root, hook, hostname or os.uname().nodename, fabric, shared)
        self.vcpus, self.memory_mb, self.disk_gb = vcpus, memory_mb, disk_gb
        self.clean_shutdown = clean_shutdown
        self.base = self.root / "_base"
        self.networks = self.root / "networks"
        for path in (self.base, self.networks):
            path.mkdir(parents=True, exist_ok=True)

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
            supported=(("x86_64", "fake", "hvm"), ("x86_64", "qemu", "hvm")), storage=self.storage,
            cells=self.cells(), devices=self.pci)

    def cells(self) -> tuple[HostCell, ...]:
        """Two cells with half of everything each, cores of two threads, and no huge pages but
        ``huge_pages`` of 2 MiB in each."""
        half = max(1, self.vcpus // 2)
        return tuple(
            HostCell(number, cpus, tuple(frozenset(sorted(cpus)[at:at + 2])
                                         for at in range(0, len(cpus), 2)),
                     self.memory_mb // 2, {4: self.memory_mb * 128, 2048: self.huge_pages}, number)
            for number, cpus in enumerate((frozenset(range(half)),
                                           frozenset(range(half, self.vcpus)))) if cpus)

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
        for path in self.domains.glob("*.json"):
            self.see_arrival(path.stem)
            self.see_save(path.stem)
        return {p.stem: state for p in self.domains.glob("*.json")
                if (state := self._state(p.stem)) is not None}

    @hooked
    def state(self, uuid: str) -> GuestState | None:
        self.see_arrival(uuid)
        self.see_save(uuid)
        return self._state(uuid)

    @hooked
    def host_devices(self, uuid: str) -> tuple[str, ...]:
        return tuple((self._read(uuid) or {}).get("host_devices", ()))

    @hooked
    def disks(self, uuid: str) -> tuple[Disk, ...]:
        return self._listed(self._dir(uuid))

    @hooked
    def guest_dirs(self) -> list[str]:
        return [p.name for p in self.place.iterdir() if len(p.name) == 36 and p.is_dir()]

    @hooked
    def console_log(self, uuid: str, max_bytes: int) -> bytes:
        return self._console(uuid).encode()[-max_bytes:]

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
        directory = self._dir(guest.uuid)
        directory.mkdir(exist_ok=True)
        if not self.copies(guest.uuid) or self._aside(guest.uuid).exists():  # or made anew
            self.fabric.set_written(guest.uuid, 0)
        path = directory / "disk"
        size = guest.flavor.root_gb << 30
        made = []
        if not guest.boots_from_volume:
            replace(path, json.dumps({"base": base.path if base else "", "size": size, "count": 0,
                                      "marker": guest.uuid}).encode())
            made.append(Disk("root", str(path), "qcow2", size))
        made += [self.make_file(guest.uuid, name, size) for name, size in wanted(guest).items()]
        if guest.config_drive:
            drive = directory / "disk.config"
            drive.write_text(json.dumps({"hostname": guest.hostname,
                                         "admin_pass": secrets.get("admin_pass")}))
            made.append(Disk("config", str(drive), "raw", drive.stat().st_size, "cdrom"))
        self._list(guest.uuid, made)
        return tuple(made)

    def copies(self, uuid: str) -> list[pathlib.Path]:
        """All root disks of a guest, on all hosts, those set aside and in quarantine too."""
        stores = {self.place, *filter(None, map(self.fabric.root, self.fabric.hosts()))}
        return sorted(path for store in stores for pattern in (
            f"{uuid}/disk", f"{uuid}_resize/disk", f"_quarantine/{uuid}.*/disk")
            for path in store.glob(pattern))

    @hooked
    def delete_disks(self, uuid: str) -> None:
        self._see_unused(uuid, "the disks are deleted of")
        shutil.rmtree(self._dir(uuid), ignore_errors=True)

    @hooked
    def quarantine_disks(self, uuid: str) -> str:
        self._see_unused(uuid, "the disks go to quarantine of")
        target = self.place / "_quarantine" / f"{uuid}.{int(self.now())}"
        target.parent.mkdir(exist_ok=True)
        self._dir(uuid).rename(target)
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
    def check_guest(self, guest: Guest) -> None:
        found = [f"no {name}" for name in guest.flavor.extra_specs if name in self.lacks]
        if found:
            raise Refused(f"This host cannot give the guest what its flavor and image ask for: "
                          f"{'; '.join(found)}.", now="Nothing was made on this host.",
                          next="Choose another host.", code="host_unfit")

    @hooked
    def define(self, guest: Guest, disks: Iterable[Disk], nics: Iterable[Nic], *,
               generation: int, operation: str) -> Mapping[str, str]:
        nics, found = tuple(nics), self._read(guest.uuid)
        if found is not None and not found.get("ours", True):
            raise Refused(f"A domain with uuid {guest.uuid} is there and is not ours.",
                          now="It was not touched.", code="uuid_in_use")
        size = {"vcpus": guest.flavor.vcpus, "memory_mb": guest.flavor.memory_mb}
        off = found is None or found["power_state"] not in ON
        self._write(guest.uuid, {
            "power_state": states.SHUTDOWN, **(found or {}), "persistent": True,
            "name": guest.name, "ours": True, "generation": generation, "operation": operation,
            **({"size": size, "boot_size": size} if off else {}),
            **self.redefined(found, nics), **self.with_volumes(found, guest.volumes),
            "disks": [os.path.basename(d.path) for d in disks],
            "serial_port": guest.serial_port,
            "place": guest.placement.to_plain() if guest.placement else None,
            "host_devices": [given.address for given in guest.devices]})
        return {"hw_machine_type": guest.prop("hw_machine_type", "fake-1.0") or "fake-1.0"}

    @hooked
    def undefine(self, uuid: str) -> None:
        (self.domains / f"{uuid}.json").unlink(missing_ok=True)

    @hooked
    def power_on(self, uuid: str) -> None:
        found = self._need(uuid)
        if found["power_state"] in ON:
            return
        self._boot(uuid, found)
        self._say(uuid, "UP")

    def _boot(self, uuid: str, found: dict) -> None:
        """Begin anew, or go on from the saved memory."""
        missing = [d for d in found.get("disks", ()) if not (self._dir(uuid) / d).exists()]
        if missing:
            raise Failed(f"Domain {uuid} cannot start: {missing} cannot be opened.",
                         code="hypervisor_error")
        self.see_connected(uuid, found)
        self._see_devices(uuid, found)
        power: int = found["saved_as"] if found.get("saved") else states.RUNNING
        self._see_whole(uuid, found.get("count", 0) if found.get("saved") else None)
        if not found.get("saved"):
            found["count"] = self.count_on_disk(uuid) or 0
            found.pop("live_nics", None)
            found.pop("live_volumes", None)
        self._write(uuid, {**found, "saved": False, "frozen": False})
        self._set_power(uuid, power, "started")
        self.work(uuid)

    def _see_devices(self, uuid: str, found: dict) -> None:
        """Two guests that run never have the same device of this host."""
        mine = set(found.get("host_devices", ()))
        for path in self.domains.glob("*.json") if mine else ():
            other = self._read(path.stem) or {}
            both = sorted(mine & set(other.get("host_devices", ())))
            if path.stem != uuid and other.get("power_state") in ON and both:
                self.fabric.accuse(f"{both} of {self.hostname} are {uuid}'s and {path.stem}'s")

    @hooked
    def shutdown(self, uuid: str) -> None:
        if self.clean_shutdown and self._need(uuid)["power_state"] == states.RUNNING:
            self.stop_domain(uuid)

    @hooked
    def power_off(self, uuid: str) -> None:
        if self._read(uuid) is not None:
            self.stop_domain(uuid)

    @hooked
    def resume(self, uuid: str) -> None:
        if self._need(uuid)["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        with self.fabric.lock():
            self._set_power(uuid, states.RUNNING, "resumed")
        self._see_alone(uuid)

    @hooked
    def pause(self, uuid: str) -> None:
        if self._need(uuid)["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        with self.fabric.lock():
            self._set_power(uuid, states.POWER_PAUSED, "paused")

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
