"""mapping: a name in the guest for a volume that is to be attached."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model import mappings
from compute.rpc.primitives import Primitive
from compute.rpc.primitives import data as fields_of
from compute.steps.attached import claimed, mapped
from compute.steps.hotplug import need_domain
from compute.steps.volumes import RESERVED, unreserve

PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd", "fdc": "fd"}


def names(bus: str) -> Iterable[str]:
    """The names of disks on a bus, in their order: vda … vdz, vdaa …"""
    letters = string.ascii_lowercase
    for first in ("", *letters):
        for last in letters:
            yield PREFIXES.get(bus, "vd") + first + last


class Reserved(Step):
    """mapping: a block device mapping with the operation's id, so that it is the same when it is
    made again. Outcome: the mapping, as the caller gets it."""

    name = "mapping"

    def claims(self, run: Run) -> list:
        args = run.request["args"]
        return [(RESERVED, f"{run.row.guest}/{args['volume_id']}",
                 {"volume": args["volume_id"], "since": run.world.clock.now()})]

    def do(self, run: Run) -> Primitive:
        args = run.request["args"]
        known = mapped(run)
        mine = [prim for prim in known.values() if fields_of(prim).get("uuid") == run.row.id]
        if mine:
            return mine[0]
        volume = args["volume_id"]
        if volume in known or volume in {one.volume.id for one in claimed(run)}:
            raise Refused(f"Volume {volume} is attached to guest {run.row.guest} already, or on "
                          "its way.", now="Nothing was changed.",
                          next="'magnetar server volume list' shows the volumes of a guest.",
                          code="volume_attached")
        bus = args.get("disk_bus") or run.guest.prop("hw_disk_bus") or "virtio"
        return run.world.conductor.create_bdm(run.context, {
            "uuid": run.row.id, "instance_uuid": run.row.guest, "source_type": "volume",
            "destination_type": "volume", "volume_id": volume, "guest_format": None,
            "device_name": mappings.DEVICES + self.name_for(run, bus, known.values()),
            "disk_bus": bus, "device_type": args.get("device_type") or "disk",
            "boot_index": None, "tag": args.get("tag"), "delete_on_termination": False,
            "no_device": False, "attachment_id": None, "connection_info": None})

    @staticmethod
    def name_for(run: Run, bus: str, known: Iterable[Primitive]) -> str:
        """The name that was asked for, if it is one of the bus and free; else the next free one."""
        need_domain(run, "volumes")
        taken = set(run.world.driver.disk_targets(run.row.guest)) | {
            (fields_of(prim).get("device_name") or "").removeprefix(mappings.DEVICES)
            for prim in known} | {one.volume.target for one in claimed(run)}
        most = run.world.conf.compute.max_disk_devices_to_attach
        if 0 <= most <= len(taken - {""}):
            raise Refused(f"Guest {run.row.guest} has {len(taken - {''})} disks, and no guest of "
                          f"this host has more than {most}.", now="Nothing was changed.",
                          next="Detach another one, or see [compute] max_disk_devices_to_attach.",
                          code="too_many_disks")
        asked = (run.request["args"].get("device") or "").removeprefix(mappings.DEVICES)
        if asked in taken and asked:
            raise Refused(f"The name '{asked}' is taken by another disk of guest {run.row.guest}.",
                          now="Nothing was changed.", next="Ask without a name, or for another.",
                          code="device_in_use")
        free = [name for name in names(bus) if name not in taken]
        return asked if asked in free else free[0]

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        for prim in mapped(run).values():
            if fields_of(prim).get("uuid") == run.row.id:
                run.world.conductor.destroy_bdm(run.context, prim)
        unreserve(run, run.request["args"]["volume_id"])
