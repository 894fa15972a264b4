"""What fake hosts tell each other before a guest moves, and what the destination makes for it."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from compute.errors import Failed, Refused
from compute.model.guest import CachedImage, Disk, Guest
from compute.model.move import Check
from virt.fake_state import (
    CONSOLE,
    CONSOLE_BEFORE,
    FILES,
    TARGETS,
    URI,
    FakeState,
    content_of,
    hooked,
    replace,
)


class FakeArrivals(FakeState):
    """See virt.driver.Driver: facts and checks of both ends, and the destination.

    ``verdicts`` lets a test add checks: ``{"in": (Check, ...), "out": (...)}``.
    """

    verdicts: Mapping[str, tuple[Check, ...]] = {}

    @property
    def uri(self) -> str:
        """This host's hypervisor as others reach it."""
        return URI + self.hostname

    # -- facts and checks ---------------------------------------------------------------------
    def _facts(self) -> dict[str, Any]:
        return {"host_uuid": self.hostname, "emulator_version": 1000000,
                "libvirt_version": 1000000, "tls": True, "storage": self.storage,
                "time": self.now()}

    @hooked
    def outgoing(self, uuid: str) -> Mapping[str, Any]:
        found = self._need(uuid)
        disks = [{"role": d.role, "target": TARGETS[d.role], "path": d.path, "format": d.format,
                  "size": d.size, "allocated": d.size, "backing_image": self._backing(d)}
                 for d in self._listed(self._dir(uuid))]
        more = {name: list(found.get(key, ())) for name, key in (
            ("immovable", "devices"), ("nics", "nics"))}
        return {**self._facts(), "disks": disks, **found.get("size", {}), "machine": "fake-1.0",
                "cpu": "<cpu/>", "console": self._console(uuid), **more}

    @hooked
    def outgoing_console(self, uuid: str) -> str:
        return self._console(uuid)

    def _backing(self, disk: Disk) -> str | None:
        base = (content_of(pathlib.Path(disk.path)) or {}).get("base")
        return os.path.basename(base) if base else None

    @hooked
    def check_outgoing(self, uuid: str, incoming: Mapping[str, Any]) -> tuple[Check, ...]:
        devices = self._need(uuid).get("devices", [])
        return (Check("devices", not devices, ", ".join(devices) or "none that cannot move",
                      "Detach them.", self.hostname),
                Check("tls", True, "certificates are here", host=self.hostname),
                *self.verdicts.get("out", ()))

    @hooked
    def incoming_facts(self) -> Mapping[str, Any]:
        return self._incoming()

    def _incoming(self) -> dict[str, Any]:
        full = self.hostname in self.fabric.faults()["disk_full"]
        return {**self._facts(), "uri": self.uri, "migrate_uri": "tcp://127.0.0.1",
                "listen": "127.0.0.1", "machine_types": ["fake-1.0"],
                "disk_free": 0 if full else 1 << 40}

    @hooked
    def check_incoming(self, guest: Guest, outgoing: Mapping[str, Any]) -> tuple[Check, ...]:
        here = self._incoming()
        other = outgoing["host_uuid"] != here["host_uuid"]
        need = 0 if outgoing["storage"] == here["storage"] else \
            sum(d["size"] for d in outgoing["disks"])
        return (Check("host", other, "another host" if other else "both are one host",
                      "Choose another host.", self.hostname),
                Check("disk", need <= here["disk_free"], f"{need} bytes of {here['disk_free']}",
                      "Free space.", self.hostname),
                *self.verdicts.get("in", ()))

    @hooked
    def prepare_incoming(self, guest: Guest, outgoing: Mapping[str, Any],
                         base: CachedImage | None) -> Mapping[str, Any]:
        if self.hostname in self.fabric.faults()["disk_full"]:
            raise Failed(f"{self.hostname} has no room for guest {guest.uuid}.", code="disk_full")
        shared = outgoing["storage"] == self.storage
        directory = self._dir(guest.uuid)
        if not shared:
            directory.mkdir(exist_ok=True)
            for disk in outgoing["disks"]:
                path = directory / os.path.basename(disk["path"])
                if not path.exists():
                    replace(path, json.dumps({"base": base.path if base else "", "count": 0,
                                              "size": disk["size"]}).encode())
            (directory / CONSOLE).touch()
            if not (directory / CONSOLE_BEFORE).exists():
                replace(directory / CONSOLE_BEFORE, outgoing.get("console", "").encode())
        return {**self._incoming(), "shared": shared, "incremental": base is not None,
                "copy_disks": [] if shared else [d["target"] for d in outgoing["disks"]],
                "rewrite": {"directory": str(directory), "place":
                            guest.placement.to_plain() if guest.placement else None}}

    @hooked
    def keep_console(self, uuid: str, packed: str) -> None:
        if not (self._dir(uuid) / "disks.json").exists():
            raise Refused(f"Guest {uuid} has no disks here.", code="guest_not_found")
        replace(self._dir(uuid) / CONSOLE_BEFORE, packed.encode())

    @hooked
    def arrived(self, guest: Guest) -> tuple[Disk, ...]:
        directory = self._dir(guest.uuid)
        with self.fabric.lock():  # the other host's look may be letting it run at this moment
            self._adopt(guest, directory)
        return self._listed(directory)

    def _adopt(self, guest: Guest, directory: pathlib.Path) -> None:
        found = self._need(guest.uuid)
        if not (directory / "disks.json").exists():
            made = []
            for name in found["disks"]:
                role, form, device, _ = FILES[name]
                path = directory / name
                size = (content_of(path) or {}).get("size") or path.stat().st_size
                made.append(Disk(role, str(path), form, size, device))
            self._list(guest.uuid, made)
        self._write(guest.uuid, {**found, "persistent": True,
                                 "announced": found.get("announced", 0) + 1})
