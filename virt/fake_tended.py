"""The fake hypervisor's guests as their owners tend them: interrupted, rescued, asked by agent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from compute.errors import Refused
from compute.model.guest import CachedImage, Disk, Guest, Image
from virt.fake_moves import ON
from virt.fake_state import FakeState, hooked, read_json, replace
from virt.storage.rescuing import RECORD, ordered, place


class FakeTended(FakeState):
    """See virt.driver.Driver, "tended by its owner"."""

    @hooked
    def inject_nmi(self, uuid: str) -> None:
        found = self._need(uuid)
        if found["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        self._write(uuid, {**found, "interrupts": found.get("interrupts", 0) + 1})

    # -- rescue -----------------------------------------------------------------------------
    @hooked
    def create_rescue_disks(self, guest: Guest, image: Image, base: CachedImage,
                            secrets: Mapping[str, str]) -> tuple[Disk, ...]:
        device, bus = place(image)
        directory = self._dir(guest.uuid)
        path, drive = directory / "disk.rescue", None
        replace(path, json.dumps({"base": base.path}).encode())
        system = Disk("rescue", str(path), "qcow2", base.virtual_size, device, bus or "")
        if guest.config_drive:
            config = directory / "disk.config.rescue"
            replace(config, json.dumps({"hostname": guest.hostname,
                                        "admin_pass": secrets.get("admin_pass")}).encode())
            drive = Disk("config", str(config), "raw", config.stat().st_size, "cdrom")
        made = ordered(system, self._listed(directory), drive, bus is not None)
        replace(directory / RECORD, json.dumps([vars(disk) for disk in made]).encode())
        return made

    @hooked
    def rescue_disks(self, uuid: str) -> tuple[Disk, ...]:
        directory = self._dir(uuid)
        return tuple(Disk(**{**disk, "path": str(directory / os.path.basename(disk["path"]))})
                     for disk in read_json(directory / RECORD) or ())

    @hooked
    def delete_rescue_disks(self, uuid: str) -> None:
        for name in (RECORD, "disk.rescue", "disk.config.rescue"):
            (self._dir(uuid) / name).unlink(missing_ok=True)
