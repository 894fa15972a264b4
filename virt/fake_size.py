"""The fake hypervisor's guests asleep, and guests that get another size."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from dataclasses import replace as changed

from compute.errors import Failed, NeedsOperator, Refused, Retryable, Unknown
from compute.model import states
from compute.model.guest import CachedImage, Disk, Flavor, Guest
from virt.driver import Cancel, Progress
from virt.fake_moves import ON
from virt.fake_state import CONSOLE, CONSOLE_BEFORE, FILES, URI, FakeState, hooked, replace

VARIABLES = 540672  # bytes of a file of UEFI variables


def wanted(guest: Guest) -> dict[str, int]:
    """The files that a guest has beside its root disk and config drive, and their sizes."""
    uefi = VARIABLES if guest.prop("hw_firmware_type") == "uefi" else 0
    sizes = {"disk.eph0": guest.flavor.ephemeral_gb << 30, "disk.swap": guest.flavor.swap_mb << 20,
             "nvram.fd": uefi}
    return {name: size for name, size in sizes.items() if size}


class FakeSize(FakeState):
    """See virt.driver.Driver, "asleep" and "another size".

    ``stubborn`` are devices that a guest does not let go; ``agent`` says whether guests have an
    agent; ``headroom`` is how many times its boot size a running guest can grow to.
    """

    stubborn: frozenset[str] = frozenset()
    agent = True
    headroom = 1

    # -- asleep -------------------------------------------------------------------------------
    @hooked
    def save(self, uuid: str, seconds: float) -> None:
        found = self._need(uuid)
        if found.get("saved"):
            return
        if found["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        if found.get("devices"):
            raise Failed(f"Domain {uuid} has devices that cannot be saved: {found['devices']}.",
                         now="It runs on.", code="unsupported")
        looks = found.get("save_looks") or self.fabric.faults()["save_looks"]
        self._write(uuid, {**found, "job": "save", "save_looks": looks})
        if looks:
            raise Unknown(f"The memory of {uuid} is still being written.", code="libvirt_timeout")
        self._saved(uuid)

    def _saved(self, uuid: str) -> None:
        found = self._need(uuid)
        self._write(uuid, {**found, "saved": True, "saved_as": found["power_state"], "job": "",
                           "power_state": states.SHUTDOWN, "reason": "saved"})
        self._on_event(uuid, "stopped")

    def see_save(self, uuid: str) -> None:
        """A look at a domain that is being saved brings that nearer to its end."""
        found = self._read(uuid)
        if found is None or found.get("job") != "save":
            return
        self._write(uuid, {**found, "save_looks": found["save_looks"] - 1})
        if found["save_looks"] <= 1:
            self._saved(uuid)

    @hooked
    def discard_saved(self, uuid: str) -> None:
        found = self._read(uuid)
        if found is not None and found.get("saved"):
            self._write(uuid, {**found, "saved": False})

    def attach(self, uuid: str, device: str) -> None:
        """Give a domain a device that can be neither saved nor moved; for tests."""
        found = self._need(uuid)
        self._write(uuid, {**found, "devices": [*found.get("devices", ()), device]})

    @hooked
    def unsaveable(self, uuid: str) -> tuple[str, ...]:
        return tuple(self._need(uuid).get("devices", ()))

    @hooked
    def unplug_device(self, uuid: str, device: str) -> None:
        found = self._need(uuid)
        if device not in found.get("devices", ()):
            return
        if device in self.stubborn:
            raise Failed(f"Guest {uuid} does not let go of {device}.", now="It is still in.",
                         code="device_stays")
        self._write(uuid, {**found, "devices": [d for d in found["devices"] if d != device]})

    @hooked
    def plug_device(self, uuid: str, device: str) -> None:
        found = self._need(uuid)
        if found["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        if device not in found.get("devices", ()):
            self._write(uuid, {**found, "devices": [*found.get("devices", ()), device]})

    @hooked
    def sync_time(self, uuid: str) -> bool:
        found = self._need(uuid)
        if not self.agent or found["power_state"] != states.RUNNING:
            return False
        self._write(uuid, {**found, "time_set": found.get("time_set", 0) + 1})
        return True

    # -- disks of another size ----------------------------------------------------------------
    def make_file(self, uuid: str, name: str, size: int) -> Disk:
        """A disk other than root, or the file of UEFI variables, which tells whose it is."""
        path, (role, form, device, _) = self._dir(uuid) / name, FILES[name]
        if not path.exists():
            replace(path, json.dumps({"size": size, "count": 0, "marker": uuid}).encode())
        return Disk(role, str(path), form, size, device)

    @hooked
    def check_resize(self, guest: Guest, flavor: Flavor) -> None:
        room = {"root": flavor.root_gb << 30, "ephemeral": flavor.ephemeral_gb << 30}
        for disk in self._listed(self._dir(guest.uuid)):
            if room.get(disk.role) and disk.size > room[disk.role]:
                raise Failed(f"Disk {disk.role} of guest {guest.uuid} has {disk.size} bytes; "
                             f"flavor {flavor.name} gives {room[disk.role]}.",
                             now="Nothing was changed.", next="Use a flavor with a larger disk.",
                             code="disk_shrink")

    @hooked
    def set_aside_disks(self, uuid: str) -> None:
        here, aside = self._dir(uuid), self._aside(uuid)
        if not here.exists() and aside.exists():
            return
        if aside.exists():
            raise NeedsOperator(f"{here} and {aside} are both there.",
                                now="Neither was touched.",
                                next=f"Look at both, and move {aside} away.",
                                code="disks_in_the_way")
        if not here.exists():
            raise Failed(f"Guest {uuid} has no disks on {self.hostname}.", code="disks_missing")
        self._see_unused(uuid, "the disks are set aside of")
        here.rename(aside)

    @hooked
    def bring_back_disks(self, uuid: str) -> None:
        here, aside = self._dir(uuid), self._aside(uuid)
        if not aside.exists():
            if not here.exists():
                raise Failed(f"Guest {uuid} has no disks on {self.hostname}.",
                             code="disks_missing")
            return
        if (here / "disks.json").exists():
            raise NeedsOperator(f"{here} is there, and would be replaced by {aside}.",
                                now="Neither was touched.",
                                next=f"Look at both, and move {here} away.",
                                code="disks_in_the_way")
        shutil.rmtree(here, ignore_errors=True)  # half made
        self._see_unused(uuid, "the former disks come back of")
        aside.rename(here)
        # What the guest wrote since on the disks of its new size is given up.
        self.fabric.set_written(uuid, self.count_on_disk(uuid) or 0)

    @hooked
    def aside_disks(self, uuid: str) -> bool:
        return self._aside(uuid).exists()

    @hooked
    def delete_aside_disks(self, uuid: str) -> None:
        shutil.rmtree(self._aside(uuid), ignore_errors=True)

    @hooked
    def copy_disks(self, guest: Guest, source: str | None, base: CachedImage | None,
                   progress: Progress, cancel: Cancel) -> tuple[Disk, ...]:
        found = self._listed(self._dir(guest.uuid))
        if found:
            return found
        listed = self._listed(self._reachable_aside(guest.uuid, source))
        if not listed:
            raise Failed(f"Guest {guest.uuid} has no disks set aside on {source or 'this host'}.",
                         now="Nothing was copied.", code="disks_missing")
        directory = self._dir(guest.uuid)
        directory.mkdir(exist_ok=True)
        for number, disk in enumerate(listed):
            cancel()
            self.hook("copy_disks", "during")
            aside = self._reachable_aside(guest.uuid, source)
            if self.hostname in self.fabric.faults()["disk_full"]:
                raise Failed(f"{self.hostname} has no room for {disk.path}.", code="disk_full")
            name = pathlib.Path(disk.path).name
            replace(directory / name, (aside / name).read_bytes())
            progress(number + 1, len(listed))
        self._copy_console(aside, directory)
        made = [changed(d, path=str(directory / pathlib.Path(d.path).name)) for d in listed]
        self._list(guest.uuid, made)
        return tuple(made)

    @staticmethod
    def _copy_console(source: pathlib.Path, directory: pathlib.Path) -> None:
        for name in (CONSOLE, CONSOLE_BEFORE):
            if (source / name).exists():
                replace(directory / name, (source / name).read_bytes())

    def _reachable_aside(self, uuid: str, source: str | None) -> pathlib.Path:
        """The directory to copy from. Raises Retryable when its host does not answer."""
        host = source.removeprefix(URI) if source else self.hostname
        faults = self.fabric.faults()
        root = self.fabric.root(host)
        away = host != self.hostname and (faults["cut"] or host in faults["down"])
        if away or root is None:
            raise Retryable(f"The hypervisor at {source} does not answer.",
                            now="What was copied is kept.", code="unreachable")
        mine = source is None or host == self.hostname or self.storage == "shared"
        return self._aside(uuid) if mine else root / f"{uuid}_resize"

    @hooked
    def grow_disks(self, guest: Guest) -> tuple[Disk, ...]:
        self._see_unused(guest.uuid, "the disks grow of")
        grown, more = [], wanted(guest)
        for disk in self._listed(self._dir(guest.uuid)):
            name = os.path.basename(disk.path)
            size = guest.flavor.root_gb << 30 if disk.role == "root" else \
                more.pop(name, None if disk.role == "swap" else disk.size)
            if size is None:
                pathlib.Path(disk.path).unlink()  # nothing on swap outlives a boot
                continue
            if size > disk.size:
                path = pathlib.Path(disk.path)
                replace(path, json.dumps({**json.loads(path.read_bytes()),
                                          "size": size}).encode())
                disk = changed(disk, size=size)
            grown.append(disk)
        grown += [self.make_file(guest.uuid, name, size) for name, size in more.items()]
        grown.sort(key=lambda disk: list(FILES).index(os.path.basename(disk.path)))
        self._list(guest.uuid, grown)
        return tuple(grown)

    # -- without a restart --------------------------------------------------------------------
    @hooked
    def why_not_live(self, uuid: str, flavor: Flavor) -> str | None:
        found = self._need(uuid)
        if found["power_state"] != states.RUNNING:
            return "The guest does not run."
        most = {key: found["boot_size"][key] * self.headroom for key in found["boot_size"]}
        wanted = {"vcpus": flavor.vcpus, "memory_mb": flavor.memory_mb}
        over = [f"{key} {wanted[key]} of at most {most[key]}" for key in wanted
                if wanted[key] > most[key]]
        return f"The guest was started for less: {', '.join(over)}." if over else None

    @hooked
    def resize_live(self, uuid: str, flavor: Flavor) -> None:
        found = self._need(uuid)
        self._write(uuid, {**found, "size": {"vcpus": flavor.vcpus,
                                             "memory_mb": flavor.memory_mb}})
