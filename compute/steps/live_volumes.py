"""volumes, mapping: the volumes of a guest that comes while another host has it, or had it when it
was lost. Until the guest is here, the record names the attachments of that host; this one's are
only claimed here, so that nothing is taken from a guest that stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.model import mappings
from compute.model.volume import Attached, Volume
from compute.rpc.primitives import data as fields_of
from compute.steps import attached
from compute.steps.attached import claimed, mapped, others, save_mapping
from compute.steps.guest_volumes import attachment_for, give_back_former, remember
from compute.steps.live_destination import must_be_absent, told
from compute.steps.record import FOR_EVER


class VolumesArrive(Step):
    """volumes: connected to this host besides the one that the guest is on."""

    name = "volumes"

    def coming(self, run: Run) -> list[Volume]:
        """The volumes, as the other host has them."""
        return [Attached.from_plain(plain).volume for plain in told(run).get("volumes") or ()]

    def do(self, run: Run) -> None:
        for there in self.coming(run):
            held = {one.volume.id: one.volume for one in claimed(run)}
            volume = replace(there, connection={}, attachment_id=held[there.id].attachment_id
                             if there.id in held else
                             attachment_for(run, there.id, there.attachment_id))
            attached.claim(run, [*others(run, volume.id), Attached(volume)])
            volume = attached.granted(run, volume)
            attached.claim(run, [*others(run, volume.id), Attached(volume)])
            source = run.world.driver.connect_volume(volume, run.row.guest)
            attached.claim(run, [*others(run, volume.id), Attached(volume, source)])

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        must_be_absent(run)
        for one in claimed(run):
            if one.volume.connection:
                run.world.driver.disconnect_volume(one.volume, run.row.guest)
            if one.volume.attachment_id:
                run.world.volumes.attachment_delete(run.context, one.volume.attachment_id)
            attached.claim(run, others(run, one.volume.id))


class VolumesEvacuated(VolumesArrive):
    """volumes: as the record has them, for the other host cannot be asked."""

    def coming(self, run: Run) -> list[Volume]:
        return [mappings.volume(fields_of(prim)) for prim in mapped(run).values()
                if fields_of(prim).get("volume_id")]


class VolumesMapped(Step):
    """mapping: the record names this host's attachments from now on. Those of a host that was lost
    are given back here; one that is there does so itself."""

    name = "mapping"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        held = claimed(run)
        known = mapped(run) if held else {}
        for one in held:
            volume = attached.granted(run, one.volume)  # anew, for what is secret of it
            run.world.volumes.attachment_complete(run.context, volume.attachment_id)
            prim = known.get(volume.id)
            former = fields_of(prim).get("attachment_id")
            if prim is not None and former != volume.attachment_id:
                if run.row.verb == "evacuate" and former:
                    remember(run, former)
                save_mapping(run, prim, mappings.changes(volume))
        give_back_former(run)
