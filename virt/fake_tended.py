"""The fake hypervisor's guests as their owners tend them: interrupted, rescued, asked by agent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from compute.errors import Failed, Refused, Retryable
from compute.model import states
from compute.model.diagnostics import Diagnostics, DiskUse, NicUse, Usage
from compute.model.guest import CachedImage, Disk, Guest, Image
from virt.fake_moves import ON
from virt.fake_state import FakeState, hooked, read_json, replace
from virt.storage.rescuing import RECORD, ordered, place


class FakeTended(FakeState):
    """See virt.driver.Driver, "tended by its owner".

    ``agent`` says whether guests have an agent, ``agent_hangs`` whether it never answers.
    """

    agent = True
    agent_hangs = False

    @hooked
    def inject_nmi(self, uuid: str) -> None:
        found = self._need(uuid)
        if found["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        self._write(uuid, {**found, "interrupts": found.get("interrupts", 0) + 1})

    @hooked
    def diagnostics(self, uuid: str) -> Diagnostics:
        found = self._need(uuid)
        if found["power_state"] != states.RUNNING:
            raise Refused(f"Domain {uuid} does not run.", now="Nothing was changed.",
                          next="Ask again when it runs.", code="not_running")
        size, count = found["size"], found.get("count", 0)
        return Diagnostics(
            power_state=states.RUNNING, virt_type="fake",
            cpus=(count * 1_000_000,) * size["vcpus"],
            disks=tuple(DiskUse(name, 1, 4096, count, count * 512)
                        for name in found.get("disks", ())),
            nics=tuple(NicUse(f"tap{number}", mac, (100, 1, 0, 0), (200, 2, 0, 0))
                       for number, mac in enumerate(found.get("nics", ()))),
            memory_max=size["memory_mb"] << 10, memory_now=size["memory_mb"] << 10,
            memory={"rss": 4096})

    @hooked
    def usage(self) -> Mapping[str, Usage]:
        listed = ((path.stem, self._read(path.stem)) for path in self.domains.glob("*.json"))
        found = {uuid: one for uuid, one in listed
                 if one and one.get("ours", True) and one["power_state"] in ON}
        return {uuid: Usage(
            one["name"], one.get("count", 0) * 1_000_000, one["size"]["memory_mb"] << 10, 4096,
            (1 << 20) * len(one.get("disks", ())), 4096, one.get("count", 0) * 512,
            100 * len(one.get("nics", ())), 200 * len(one.get("nics", ())),
        ) for uuid, one in found.items()}

    # -- its agent --------------------------------------------------------------------------
    def _agent(self, uuid: str) -> dict:
        found = self._need(uuid)
        if found["power_state"] != states.RUNNING:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        if not self.agent:
            raise Failed(f"No agent runs in guest {uuid}.", now="Nothing was changed.",
                         next="Install and start it.", code="agent_missing")
        if self.agent_hangs:
            raise Retryable(f"The agent in guest {uuid} does not answer.", now="It hangs.",
                            next="Look into the guest.", code="agent_unresponsive")
        return found

    @hooked
    def set_password(self, uuid: str, user: str, password: str) -> None:
        found = self._agent(uuid)
        if user == "nobody":
            raise Failed(f"Guest {uuid} has no user {user}.", now="The password is as it was.",
                         next="Name another.", code="password_refused")
        self._write(uuid, {**found, "password": [user, password]})

    @hooked
    def freeze(self, uuid: str) -> None:
        self._write(uuid, {**self._agent(uuid), "frozen": True})

    @hooked
    def thaw(self, uuid: str) -> None:
        self._write(uuid, {**self._agent(uuid), "frozen": False})

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
