"""volumes: all volumes of a guest that is built, that leaves its host or that is removed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Failed, Refused
from compute.model import mappings
from compute.model.volume import Attached, Volume
from compute.rpc.primitives import Primitive
from compute.rpc.primitives import data as fields_of
from compute.steps import attached
from compute.steps.attached import claimed, mapped, others, save_mapping, whole
from compute.steps.reserving import names

LOG = logging.getLogger(__name__)
MAKING = ("creating", "downloading", "restoring-backup", "uploading")


# -- one of them ----------------------------------------------------------------------------------
def attachment_for(run: Run, volume: str, besides: str = "") -> str:
    """An attachment of the guest that no host has connected: one that is there already, since the
    answer to an earlier request may have been lost, or a new one."""
    for one in run.world.volumes.show(run.context, volume).get("attachments") or ():
        if one.get("server_id") == run.row.guest and not one.get("host_name") \
                and one.get("attachment_id") != besides:
            return one["attachment_id"]
    return run.world.volumes.attachment_create(run.context, volume, run.row.guest)


def connect(run: Run, prim: Primitive, volume: Volume) -> Attached:
    """Have this host reach a volume, by an attachment that its mapping names, and write it down."""
    world = run.world
    attached.claim(run, [*others(run, volume.id), Attached(replace(volume, connection={}))])
    volume = replace(attached.granted(run, volume), serial="")
    save_mapping(run, prim, mappings.changes(volume))
    attached.claim(run, [*others(run, volume.id), Attached(volume)])
    made = Attached(volume, world.driver.connect_volume(volume, run.row.guest))
    attached.claim(run, [*others(run, volume.id), made])
    world.volumes.attachment_complete(run.context, volume.attachment_id)
    return made


def park(run: Run) -> None:
    """The guest leaves this host: its volumes are not connected here any more, and stay reserved
    for it, by attachments that no host has connected."""
    known = mapped(run) if claimed(run) else {}
    for one in claimed(run):
        volume, prim = one.volume, known.get(one.volume.id)
        if volume.connection:
            run.world.driver.disconnect_volume(whole(volume, prim), run.row.guest)
        named = fields_of(prim).get("attachment_id")
        if prim is not None and named in (None, volume.attachment_id):
            fresh = attachment_for(run, volume.id, volume.attachment_id)
            save_mapping(run, prim, {"attachment_id": fresh, "connection_info": None})
        if volume.attachment_id:
            run.world.volumes.attachment_delete(run.context, volume.attachment_id)
        attached.claim(run, others(run, volume.id))


FORMER = "former-attachments"  # kind of claim: attachments of another host, to be given back


def settle(run: Run) -> None:
    """The guest comes to this host: its volumes are connected here, by attachments of this host's
    own. What it has here already stays; whether the service knows so is not known."""
    mine = {one.volume.attachment_id for one in claimed(run) if one.source}
    for prim in mapped(run).values():
        volume = mappings.volume(fields_of(prim))
        if not volume.id:
            continue
        if volume.attachment_id in mine:
            run.world.volumes.attachment_complete(run.context, volume.attachment_id)
            continue
        if volume.connection or not volume.attachment_id:  # another host's
            former = volume.attachment_id
            remember(run, former)
            volume = replace(volume, attachment_id=attachment_for(run, volume.id, former))
            save_mapping(run, prim, {"attachment_id": volume.attachment_id,
                                     "connection_info": None})
        connect(run, prim, volume)
    give_back_former(run)


def remember(run: Run, attachment: str) -> None:
    """Write down an attachment of a host that is gone, before nobody names it any more."""
    known = {one for claim in run.world.journal.claims(kind=FORMER, guest=run.row.guest)
             for one in claim.data["attachments"]}
    run.world.journal.claim(FORMER, run.row.guest, run.row.guest, run.row.id,
                            {"attachments": sorted(filter(None, {*known, attachment}))})


def give_back_former(run: Run) -> None:
    """Give those attachments back that no mapping names any more."""
    claims = run.world.journal.claims(kind=FORMER, guest=run.row.guest)
    if not claims:
        return
    named = {fields_of(prim).get("attachment_id") for prim in mapped(run).values()}
    for attachment in (one for claim in claims for one in claim.data["attachments"]):
        if attachment not in named:
            run.world.volumes.attachment_delete(run.context, attachment)
    run.world.journal.release(guest=run.row.guest, kind=FORMER)


class VolumesHere(Step):
    """volumes: connected to this host, by attachments of its own. Undone, they stay reserved for
    the guest, and no host is connected."""

    name = "volumes"

    def do(self, run: Run) -> None:
        settle(run)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        park(run)
        give_back_former(run)


class VolumesLeft(Step):
    """volumes: not connected here any more; another host has the guest by attachments of its own.
    """

    name = "volumes"

    def do(self, run: Run) -> None:
        park(run)


# -- built ----------------------------------------------------------------------------------------
def asked_for(run: Run) -> list[Primitive]:
    """The mappings of volumes that a guest to build was asked for with."""
    return mappings.listed(run.request["args"].get("block_device_mapping"))


class Volumes(Step):
    """volumes: each is made, if it is not there yet, and connected to this host. Undone, they stay
    reserved for the guest, which may be built elsewhere, and are removed with it."""

    name = "volumes"

    def do(self, run: Run) -> None:
        wanted = asked_for(run)
        if not wanted:
            return
        now = {fields_of(p)["uuid"]: p
               for p in run.world.conductor.bdms(run.context, run.row.guest)}
        fresh = [now.get(fields_of(prim)["uuid"], prim) for prim in wanted]
        for prim, target in zip(fresh, self.targets(run, fresh), strict=True):
            volume = mappings.volume(fields_of(prim))
            volume = replace(volume, target=target, bus=volume.bus or self.bus(run))
            if not volume.id:
                volume = replace(volume, id=self.made(run, prim))
            shown = self.ready(run, volume.id)
            volume = replace(volume, size_gb=int(shown.get("size") or volume.size_gb),
                             multiattach=bool(shown.get("multiattach")))
            if not volume.attachment_id:
                volume = replace(volume, attachment_id=self.reserved(run, prim, volume.id))
            connect(run, prim, volume)

    @staticmethod
    def bus(run: Run) -> str:
        return run.guest.prop("hw_disk_bus") or "virtio"

    def targets(self, run: Run, prims: list[Primitive]) -> list[str]:
        """A name for each: the one that was asked for, if it is free; else the next one after the
        guest's own disks. What it boots from comes first."""
        flavor = run.guest.flavor
        boots = any(mappings.volume(fields_of(p)).boots for p in prims)
        own = (not boots) + bool(flavor.ephemeral_gb) + bool(flavor.swap_mb)
        ordered = list(names(self.bus(run)))
        first = ordered[0]
        taken = set(ordered[boots:own + boots]) | ({first} if boots else set())
        given = []
        for prim in prims:
            volume = mappings.volume(fields_of(prim))
            free = [name for name in names(volume.bus or self.bus(run)) if name not in taken]
            name = first if volume.boots else \
                volume.target if volume.target in free else free[0]
            taken.add(name)
            given.append(name)
        return given

    @staticmethod
    def made(run: Run, prim: Primitive) -> str:
        """A new volume from an image, a snapshot or nothing; its id, which the mapping has then."""
        fields = fields_of(prim)
        made = run.world.volumes.create(
            run.context, int(fields.get("volume_size") or 1),
            f"{run.guest.display_name or run.row.guest}-{fields['uuid'][:8]}",
            image_id=fields.get("image_id") if fields.get("source_type") == "image" else None,
            snapshot_id=fields.get("snapshot_id") if fields.get("source_type") == "snapshot"
            else None, volume_type=fields.get("volume_type"))
        try:
            save_mapping(run, prim, {"volume_id": made})
        except (Failed, Refused):
            run.world.volumes.delete(run.context, made)
            raise
        return made

    @staticmethod
    def reserved(run: Run, prim: Primitive, volume: str) -> str:
        """An attachment for the guest, which the mapping names."""
        made = attachment_for(run, volume)
        try:
            save_mapping(run, prim, {"attachment_id": made})
        except (Failed, Refused):
            run.world.volumes.attachment_delete(run.context, made)
            raise
        return made

    @staticmethod
    def ready(run: Run, volume: str) -> Mapping[str, Any]:
        """A volume once it is whole. Raises Failed(volume_failed) when it never will be."""
        seconds = float(run.world.conf.timeouts.build)
        seen: list[Mapping[str, Any]] = []

        def whole_now() -> bool:
            seen[:] = [run.world.volumes.show(run.context, volume)]
            return seen[0].get("status") not in MAKING

        if not run.wait(whole_now, seconds) or "error" in str(seen[0].get("status")):
            raise Failed(f"Volume {volume} is {seen[0].get('status')}.",
                         next="See the volume service for the reason.", code="volume_failed")
        return seen[0]

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        park(run)


# -- removed --------------------------------------------------------------------------------------
class VolumesGone(Step):
    """volumes: not connected here any more, given back, and removed if they were to end with the
    guest. Reached only for a guest of ours that is deleted."""

    name = "volumes"

    def do(self, run: Run) -> None:
        held = {one.volume.id: one.volume for one in claimed(run)}
        told = run.request["args"].get("bdms")
        if not held and told and not mappings.listed(told):
            return
        known = mapped(run)
        for uuid in {**held, **known}:
            self.remove(run, held.get(uuid), known.get(uuid))
        run.world.journal.release(guest=run.row.guest, kind=attached.KIND)

    def remove(self, run: Run, held: Volume | None, prim: Primitive | None) -> None:
        """Remove one, as the journal and as the control plane have it."""
        listed = mappings.volume(fields_of(prim)) if prim else None
        volume = whole(held or listed, prim)  # type: ignore[arg-type]
        if volume.connection:
            run.world.driver.disconnect_volume(volume, run.row.guest)
        for attachment in self.attachments(held, listed):
            run.world.volumes.attachment_delete(run.context, attachment)
        ends = volume.delete_on_termination or (listed and listed.delete_on_termination)
        if ends and volume.id:
            self.delete(run, volume.id)
        if prim is not None:
            run.world.conductor.destroy_bdm(run.context, prim)

    @staticmethod
    def attachments(*volumes: Volume | None) -> Iterable[str]:
        return sorted({one.attachment_id for one in volumes if one and one.attachment_id})

    @staticmethod
    def delete(run: Run, volume: str) -> None:
        """Delete a volume; one that the service does not let go is another's matter."""
        try:
            run.world.volumes.delete(run.context, volume)
        except Refused as error:
            LOG.warning("Volume %s was to be deleted with guest %s and stays: %s", volume,
                        run.row.guest, error)
