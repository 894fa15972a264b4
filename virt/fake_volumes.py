"""The fake hypervisor's volumes: those that are connected, and those in domains."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Failed, Refused, Retryable
from compute.model.guest import CopyState, Guest
from compute.model.volume import Attached, Volume, VolumeSource
from virt.fake_moves import ON
from virt.fake_state import FILES, FakeState, hooked, replace

Listed = dict[str, dict[str, str]]  # by serial number: {path, target}
LOCAL = {file: target for file, (_, _, _, target) in FILES.items()}


class FakeVolumes(FakeState):
    """See virt.driver.Driver, "volumes".

    A domain's ``volumes`` are those of its definition; ``live_volumes``, those in it since it was
    started, are only there when they differ. A copy under way is in its ``swap``. What is connected
    is a file for each volume and guest in ``connected``. ``clinging`` are serial numbers of what no
    guest lets go; ``crowded`` says that no guest has a free slot.
    """

    clinging: frozenset[str] = frozenset()
    crowded = False
    unreachable: frozenset[str] = frozenset()  # ids of volumes that cannot be connected

    @property
    def connections(self) -> pathlib.Path:
        """Where it is written down what is connected."""
        return self.root / "connected"

    def connected_volumes(self) -> set[tuple[str, str]]:
        """What is connected, as (path, guest)."""
        return {(json.loads(path.read_bytes()), path.name)
                for path in self.connections.glob("*/*")}

    # -- on the host --------------------------------------------------------------------------
    @hooked
    def volume_connector(self) -> Mapping[str, Any]:
        return {"host": self.hostname, "ip": "127.0.0.1", "initiator": f"iqn.{self.hostname}"}

    @hooked
    def connect_volume(self, volume: Volume, uuid: str) -> VolumeSource:
        data = volume.connection.get("data") or {}
        path = data.get("device_path")
        if not path or volume.id in self.unreachable:
            raise Failed(f"Volume {volume.id} cannot be reached from {self.hostname}.",
                         now="It is not connected.", next="See the volume service.",
                         code="volume_unreachable")
        (self.connections / volume.id).mkdir(parents=True, exist_ok=True)
        replace(self.connections / volume.id / uuid, json.dumps(path).encode())
        return VolumeSource(kind="file", path=path, format=data.get("format") or "raw",
                            serial=volume.id)

    @hooked
    def disconnect_volume(self, volume: Volume, uuid: str) -> None:
        found = self._read(uuid)
        if found and found["power_state"] in ON and self._path(volume) in {
                one["path"] for one in self._live(found).values()}:
            self.fabric.accuse(f"volume {volume.id} is taken away under {uuid}, which runs")
        (self.connections / volume.id / uuid).unlink(missing_ok=True)

    @staticmethod
    def _path(volume: Volume) -> str | None:
        return (volume.connection.get("data") or {}).get("device_path")

    # -- in a domain --------------------------------------------------------------------------
    @staticmethod
    def _live(found: Mapping[str, Any]) -> Listed:
        return found.get("live_volumes", found.get("volumes", {}))

    def _set_volumes(self, uuid: str, stored: Listed, live: Listed | None) -> None:
        found = {k: v for k, v in self._need(uuid).items() if k != "live_volumes"}
        differs = live is not None and live != stored
        self._write(uuid, {**found, "volumes": stored, **({"live_volumes": live} if differs else
                                                          {})})

    @staticmethod
    def with_volumes(found: Mapping[str, Any] | None, volumes: Iterable[Attached]) -> dict:
        """What a definition with these volumes says; a running domain keeps those it has."""
        stored = {one.volume.shown: {"path": one.source.path, "target": one.volume.target}
                  for one in volumes if one.source}
        before = found or {}
        live = FakeVolumes._live(before)
        differs = before.get("power_state") in ON and live != stored
        return {"volumes": stored, **({"live_volumes": live} if differs else {})}

    def see_connected(self, uuid: str, found: Mapping[str, Any]) -> None:
        """A domain cannot start without its volumes."""
        there = {json.loads(path.read_bytes()) for path in self.connections.glob(f"*/{uuid}")}
        missing = [serial for serial, one in found.get("volumes", {}).items()
                   if one["path"] not in there]
        if missing:
            raise Failed(f"Domain {uuid} cannot start: volumes {missing} cannot be opened.",
                         code="hypervisor_error")

    @hooked
    def attach_volume(self, guest: Guest, volume: Volume, source: VolumeSource) -> None:
        found = self._need(guest.uuid)
        if not (self.connections / volume.id / guest.uuid).exists():
            raise Failed(f"Volume {volume.id} cannot be opened.", code="hypervisor_error")
        if self.crowded and volume.shown not in self._live(found):
            raise Failed(f"Guest {guest.uuid} has no free slot for a disk.",
                         now="It has none more.", next="Stop it and ask again.",
                         code="hypervisor_error")
        one = {volume.shown: {"path": source.path, "target": volume.target}}
        runs = found["power_state"] in ON
        self._set_volumes(guest.uuid, {**found.get("volumes", {}), **one},
                          {**self._live(found), **one} if runs else None)

    @hooked
    def detach_volume(self, uuid: str, volume: Volume) -> None:
        found = self._need(uuid)
        live, runs = self._live(found), found["power_state"] in ON
        stays = volume.shown in self.clinging
        self._set_volumes(uuid, _without(found.get("volumes", {}), volume.shown),
                          (live if stays else _without(live, volume.shown)) if runs else None)

    @hooked
    def volumes(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        found = self._need(uuid)
        return (frozenset(found.get("volumes", {})),
                frozenset(self._live(found)) if found["power_state"] in ON else None)

    @hooked
    def disk_targets(self, uuid: str) -> frozenset[str]:
        found = self._need(uuid)
        return frozenset((*(LOCAL.get(name, name) for name in found.get("disks", ())),
                          *(one["target"] for one in found.get("volumes", {}).values()),
                          *(one["target"] for one in self._live(found).values())))

    @hooked
    def extend_volume(self, uuid: str, volume: Volume, size: int) -> int:
        found = self._need(uuid)
        sizes = {**found.get("sizes", {}), volume.shown: size}
        self._write(uuid, {**found, "sizes": sizes})
        return size

    # -- another one in its place -------------------------------------------------------------
    @hooked
    def begin_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        found = self._need(uuid)
        if found["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", code="not_running")
        if volume.shown in found.get("swap", {}) \
                or self._live(found).get(volume.shown, {}).get("path") == source.path:
            return
        self._write(uuid, {**found, "swap": {
            volume.shown: {"to": source.path, "left": self.fabric.faults()["copy_looks"]}}})

    @hooked
    def swap_state(self, uuid: str, volume: Volume) -> CopyState | None:
        found = self._read(uuid)
        copy = (found or {}).get("swap", {}).get(volume.shown)
        if found is None or copy is None:
            return None
        left, total = copy["left"], self.fabric.faults()["copy_looks"] + 1
        self._write(uuid, {**found, "swap": {volume.shown: {**copy, "left": max(left - 1, 0)}}})
        return CopyState(max(total - left, 0), total, left == 0)

    @hooked
    def finish_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        found = self._need(uuid)
        live = self._live(found)
        serial = volume.shown
        copy = found.get("swap", {}).get(serial)
        if live.get(serial, {}).get("path") != source.path:
            if copy is None or copy["left"] or found["power_state"] not in ON:
                raise Retryable(f"There is no copy of volume {volume.id} that is level with it.",
                                now="The guest goes on with the old one.", code="copy_lost")
            live = {**live, serial: {**live[serial], "path": source.path}}
        stored = {**found["volumes"], serial: {**found["volumes"][serial], "path": source.path}}
        self._write(uuid, {k: v for k, v in found.items() if k != "swap"})
        self._set_volumes(uuid, stored, live)

    @hooked
    def swapped(self, uuid: str, volume: Volume, source: VolumeSource) -> bool:
        found = self._need(uuid)
        listed = [found.get("volumes", {}), *([self._live(found)] if found["power_state"] in ON
                                              else [])]
        return all(one.get(volume.shown, {}).get("path") == source.path for one in listed)

    @hooked
    def abort_swap(self, uuid: str, volume: Volume) -> None:
        found = self._read(uuid)
        if found is not None and "swap" in found:
            self._write(uuid, {k: v for k, v in found.items() if k != "swap"})


def _without(listed: Listed, serial: str) -> Listed:
    return {key: value for key, value in listed.items() if key != serial}
