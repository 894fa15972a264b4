"""The fake hypervisor's copies of root disks."""

from __future__ import annotations

import json
import os
from dataclasses import replace as changed

from compute.errors import Failed, Refused, Retryable
from compute.model import states
from compute.model.guest import CopyState, Disk
from virt.driver import Cancel, Progress
from virt.fake_state import FakeState, content_of, hooked, replace

COPYING, COPY = "disk.copying", "disk.copy"
ON = (states.RUNNING, states.POWER_PAUSED)


class FakeCopy(FakeState):
    """See virt.driver.Driver, "a copy of its root disk". A copy is level after ``copy_looks`` looks
    at it (see Fabric.set), and lost when its domain goes off."""

    @hooked
    def begin_copy(self, uuid: str) -> None:
        found = self._need(uuid)
        if found["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
        if found.get("copy") is not None:
            return
        self._root(uuid)
        self._remove_copies(uuid)
        replace(self._dir(uuid) / COPYING, b"{}")
        self._write(uuid, {**found, "copy": self.fabric.faults()["copy_looks"]})

    @hooked
    def copy_state(self, uuid: str) -> CopyState | None:
        found = self._read(uuid)
        if found is None or found.get("copy") is None:
            return None
        left, total = found["copy"], self.fabric.faults()["copy_looks"] + 1
        self._write(uuid, {**found, "copy": max(left - 1, 0)})
        return CopyState(max(total - left, 0), total, left == 0)

    @hooked
    def finish_copy(self, uuid: str) -> None:
        found = self._need(uuid)
        if found.get("copy") != 0:
            raise Retryable(f"There is no copy of the disk of {uuid} that is level with it.",
                            now="The guest goes on.", next="It is begun anew.", code="copy_lost")
        replace(self._dir(uuid) / COPYING, (self._dir(uuid) / "disk").read_bytes())
        self._write(uuid, {key: value for key, value in found.items() if key != "copy"})
        os.replace(self._dir(uuid) / COPYING, self._dir(uuid) / COPY)

    @hooked
    def copy_off(self, uuid: str, progress: Progress, cancel: Cancel) -> None:
        self._see_unused(uuid, "a disk is copied as if it stood still of")
        self._root(uuid)
        cancel()
        self._remove_copies(uuid)
        self.hook("copy_off", "during")
        if self.hostname in self.fabric.faults()["disk_full"]:
            raise Retryable(f"{self.hostname} has no room for a copy.", code="disk_full")
        replace(self._dir(uuid) / COPY, (self._dir(uuid) / "disk").read_bytes())
        progress(1, 1)

    @hooked
    def copied(self, uuid: str) -> Disk | None:
        for name in (f"{COPY}.raw", f"{COPY}.qcow2", COPY):
            path = self._dir(uuid) / name
            if path.exists():
                made = self._root(uuid)
                return changed(made, path=str(path), format=name.removeprefix(COPY)[1:]
                               or made.format)
        return None

    @hooked
    def shape_copy(self, uuid: str, format: str, compress: bool, cancel: Cancel) -> None:  # noqa: A002
        cancel()
        path = self._dir(uuid) / COPY
        if path.exists():
            os.replace(path, self._dir(uuid) / f"{COPY}.{format}")

    @hooked
    def discard_copy(self, uuid: str) -> None:
        found = self._read(uuid)
        if found is not None and "copy" in found:
            self._write(uuid, {key: value for key, value in found.items() if key != "copy"})
        self._remove_copies(uuid)

    @hooked
    def detach_base(self, uuid: str) -> None:
        self._see_unused(uuid, "the base is taken away of")
        path = self._dir(uuid) / "disk"
        replace(path, json.dumps({**(content_of(path) or {}), "base": ""}).encode())

    def _root(self, uuid: str) -> Disk:
        root = next((d for d in self._listed(self._dir(uuid)) if d.role == "root"), None)
        if root is None:
            raise Failed(f"Guest {uuid} has no root disk on {self.hostname}.",
                         now="Nothing was copied.", code="disks_missing")
        return root

    def _remove_copies(self, uuid: str) -> None:
        for name in (COPYING, COPY, f"{COPY}.raw", f"{COPY}.qcow2"):
            (self._dir(uuid) / name).unlink(missing_ok=True)
