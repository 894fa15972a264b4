"""which, size, record: a volume that grew in its service, in the guest that has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model.volume import Attached
from compute.steps import attached
from compute.steps.attached import claimed, mapping, whole
from compute.steps.record import FOR_EVER
from compute.steps.volumes import volume_of

GIB = 1 << 30


def held(run: Run, wanted: str) -> Attached:
    """A volume of the guest, as this host has it. Raises Refused(volume_missing)."""
    for one in claimed(run):
        if one.volume.id == wanted and one.source is not None:
            return one
    raise Refused(f"Volume {wanted} is not attached to guest {run.row.guest}.",
                  now="Nothing was changed.",
                  next="'magnetar server volume list' shows the volumes of a guest.",
                  code="volume_missing")


class Which(Step):
    """which: the guest's volume."""

    name = "which"

    def do(self, run: Run) -> dict[str, Any]:
        return held(run, run.request["args"]["volume_id"]).volume.to_plain()


class Grown(Step):
    """size: this host sees the new size, and so does the guest. A volume never shrinks."""

    name = "size"

    def do(self, run: Run) -> int:
        volume = volume_of(run)
        wanted = int(run.world.volumes.show(run.context, volume.id).get("size") or 0)
        known = whole(held(run, volume.id).volume, mapping(run, volume.id))
        return run.world.driver.extend_volume(run.row.guest, known, wanted * GIB)


class SizeShown(Step):
    """record: the size in the mapping and in the claim."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        size = -(-int(run.outcome("size") or 0) // GIB)
        volume = volume_of(run)
        attached.claim(run, [
            one if one.volume.id != volume.id else
            replace(one, volume=replace(one.volume, size_gb=size)) for one in claimed(run)])
        attached.save_mapping(run, mapping(run, volume.id), {"volume_size": size})
