"""which, connection, volume, complete, attachment, record: one volume that comes to a guest or
leaves it, while it runs or is off.

A volume is in the volume service (an attachment), on this host (a connection), in the guest's
definition and in the running guest, and in the control plane's block device mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, Refused, Turned
from compute.model import devices, mappings
from compute.model.volume import Attached, Volume, VolumeSource
from compute.rpc.primitives import data as fields_of
from compute.steps import attached, hotplug
from compute.steps.attached import claimed, mapping, others, whole
from compute.steps.hotplug import need_domain
from compute.steps.record import FOR_EVER, reread

IN_SECONDS = 30.0
RESERVED = "reserved"  # kind of claim: a name is given, and the volume is still to come


# -- which volume ---------------------------------------------------------------------------------
def volume_of(run: Run, step: str = "which") -> Volume:
    """The volume that an earlier step of this operation found."""
    return Volume.from_plain(run.outcome(step))


def source_of(run: Run) -> VolumeSource:
    """Where this operation connected its volume."""
    return VolumeSource.from_plain(run.outcome("connection"))


# -- in the guest ---------------------------------------------------------------------------------
def is_in(run: Run, volume: Volume) -> bool:
    """Whether a volume is in the guest's definition, and in the guest if it runs."""
    stored, live = run.world.driver.volumes(run.row.guest)
    return volume.shown in stored and (live is None or volume.shown in live)


def is_out(run: Run, volume: Volume) -> bool:
    """Whether a volume is in neither."""
    stored, live = run.world.driver.volumes(run.row.guest)
    return volume.shown not in stored and volume.shown not in (live or ())


def let_go(run: Run, volume: Volume, attempts: int) -> bool:
    """Ask the guest to let go of a volume, so many times, and wait. Returns whether it did."""
    return hotplug.let_go(run, f"volume {volume.id}",
                          lambda: run.world.driver.detach_volume(run.row.guest, volume),
                          lambda: is_out(run, volume), attempts)


class Wanted(Step):
    """which: the volume, which this guest has not, under a name that is free."""

    name = "which"

    def do(self, run: Run) -> dict[str, Any]:
        fields = mappings.required(run.request["args"], "bdm")
        found = mappings.volume(fields)
        if not found.attachment_id:
            raise Refused(f"Volume {found.id} comes without an attachment.",
                          now="Nothing was changed.",
                          next="Ask Cinder for an attachment first (API 3.44).",
                          code="bad_request")
        shown = run.world.volumes.show(run.context, found.id)
        volume = replace(found, multiattach=bool(shown.get("multiattach")), connection={},
                         size_gb=int(shown.get("size") or found.size_gb),
                         bus=found.bus or run.guest.prop("hw_disk_bus") or "virtio")
        self.see_free(run, volume)
        return volume.to_plain()

    @staticmethod
    def see_free(run: Run, volume: Volume) -> None:
        """Raise Refused when the guest has it already, or something under its name."""
        need_domain(run, "volumes")
        guest, driver = run.row.guest, run.world.driver
        stored, live = driver.volumes(guest)
        if volume.id in {one.volume.id for one in claimed(run)}:
            raise Refused(f"Volume {volume.id} is attached to guest {guest} already.",
                          now="Nothing was changed.", next="It can be used.",
                          code="volume_attached")
        if volume.shown in stored | (live or frozenset()):
            raise Refused(f"Guest {guest} has a disk with the serial number {volume.shown}, which "
                          "is not known to be this volume.", now="Nothing was changed.",
                          next=f"Look at it with 'virsh dumpxml {guest}', and detach it there.",
                          code="volume_attached")
        if not volume.target or volume.target in driver.disk_targets(guest):
            raise Refused(f"The name '{volume.target}' is taken by another disk of guest {guest}.",
                          now="Nothing was changed.", next="Ask without a name, or for another.",
                          code="device_in_use")


class Connection(Step):
    """connection: this host may reach the volume, and does. Outcome: where. What is needed to take
    that back is in the claim before, and in the mapping."""

    name = "connection"

    def claims(self, run: Run) -> list:
        volume = volume_of(run)
        return [(attached.KIND, run.row.guest,
                 attached.plain([*others(run, volume.id), Attached(volume)]))]

    def do(self, run: Run) -> dict[str, Any]:
        volume = attached.granted(run, volume_of(run))
        attached.save_mapping(run, mapping(run, volume.id), mappings.changes(volume))
        attached.claim(run, [*others(run, volume.id), Attached(volume)])
        source = run.world.driver.connect_volume(volume, run.row.guest)
        attached.claim(run, [*others(run, volume.id), Attached(volume, source)])
        return asdict(source)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        volume = volume_of(run)
        disconnect(run, volume)
        attached.claim(run, others(run, volume.id))


def disconnect(run: Run, volume: Volume) -> None:
    """Take a volume's connection to this host away, by all that is known of it."""
    held = next((one.volume for one in claimed(run) if one.volume.id == volume.id), volume)
    known = whole(held, mapping(run, volume.id))
    if known.connection:
        run.world.driver.disconnect_volume(known, run.row.guest)


class VolumeIn(Step):
    """volume: into the guest, if it runs, and into its definition."""

    name = "volume"

    def probe(self, run: Run) -> Probe:
        need_domain(run, "volumes")
        return Probe.YES if is_in(run, volume_of(run)) else Probe.NO

    def do(self, run: Run) -> None:
        need_domain(run, "volumes")
        run.world.driver.attach_volume(run.guest, volume_of(run), source_of(run))

    def settle(self, run: Run) -> None:
        volume = volume_of(run)
        run.must(lambda: is_in(run, volume), IN_SECONDS,
                 f"Volume {volume.id} in guest {run.row.guest}")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        volume = volume_of(run)
        if run.world.driver.state(run.row.guest) is None or is_out(run, volume):
            return
        if not let_go(run, volume, 1):
            run.world.driver.attach_volume(run.guest, volume, source_of(run))
            raise Turned(f"The guest does not let go of volume {volume.id} any more: it keeps it.")


class Completed(Step):
    """complete: the volume service knows that the guest has it."""

    name = "complete"

    def do(self, run: Run) -> None:
        run.world.volumes.attachment_complete(run.context, volume_of(run).attachment_id)


class Shown(Step):
    """record: the mapping says what the guest has, and the metadata which tag it bears."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        volume = volume_of(run)
        prim = mapping(run, volume.id)
        attached.save_mapping(run, prim, mappings.changes(whole(volume, prim)))
        if volume.tag:
            show_tags(run, [one.volume for one in claimed(run)])
        unreserve(run, volume.id)


def show_tags(run: Run, volumes: Iterable[Volume]) -> None:
    """Save the tags of these volumes, and of the guest's NICs. Its deletion is not in the way."""
    if not reread(run):
        return
    before = fields_of(run.instance).get("device_metadata")
    told = devices.metadata(devices.of_volumes(before, volumes), run.guest.nics)
    try:
        run.save({"device_metadata": told})
    except Refused as error:
        if error.code not in ("deleting", "guest_not_found"):
            raise


class Unreserved(Step):
    """unreserve: the volume is given back, and the mapping that was made for it goes."""

    name = "unreserve"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        asked = mappings.volume(mappings.required(run.request["args"], "bdm"))
        has = {one.volume.attachment_id for one in claimed(run)}
        if asked.attachment_id in has:
            return  # the same message came before, and it has the volume
        forget(run, asked)


def forget(run: Run, volume: Volume) -> None:
    """Give an attachment back, and remove the mapping that names it."""
    if volume.attachment_id:
        run.world.volumes.attachment_delete(run.context, volume.attachment_id)
    prim = mapping(run, volume.id)
    if prim is not None and (fields_of(prim).get("attachment_id") or None) in (
            None, volume.attachment_id or None):
        run.world.conductor.destroy_bdm(run.context, prim)
    unreserve(run, volume.id)


def unreserve(run: Run, volume: str) -> None:
    """Nothing is to come any more of a volume that was given a name; others still are."""
    journal, guest = run.world.journal, run.row.guest
    held = journal.claims(kind=RESERVED, guest=guest)
    if any(one.data["volume"] == volume for one in held):
        journal.release(guest=guest, kind=RESERVED)
        for one in held:
            if one.data["volume"] != volume:
                journal.claim(RESERVED, one.key, guest, run.row.id, one.data)


# -- out ------------------------------------------------------------------------------------------
class Condemned(Step):
    """which: the volume that is to go, as the journal or the control plane has it."""

    name = "which"

    def do(self, run: Run) -> dict[str, Any]:
        wanted = run.request["args"]["volume_id"]
        held = {one.volume.id: one.volume for one in claimed(run)}
        prim = mapping(run, wanted)
        if wanted not in held and prim is None:
            raise Refused(f"Volume {wanted} is not attached to guest {run.row.guest}.",
                          now="Nothing was changed.",
                          next="'magnetar server volume list' shows the volumes of a guest.",
                          code="volume_missing")
        volume = held.get(wanted) or mappings.volume(fields_of(prim))
        if volume.boots:
            raise Refused(f"Guest {run.row.guest} boots from volume {wanted}.",
                          now="It was not detached.", next="Delete the guest, or offload it.",
                          code="root_volume")
        asked = run.request["args"].get("attachment_id")
        return replace(volume, attachment_id=asked or volume.attachment_id).to_plain()


class VolumeOut(Step):
    """volume: out of the guest's definition, and out of the guest, which has to let it go."""

    name = "volume"

    def probe(self, run: Run) -> Probe:
        if run.world.driver.state(run.row.guest) is None:
            return Probe.YES
        return Probe.YES if is_out(run, volume_of(run)) else Probe.NO

    def do(self, run: Run) -> None:
        volume = volume_of(run)
        if run.world.driver.state(run.row.guest) is None or is_out(run, volume):
            return
        need_domain(run, "volumes")
        if not let_go(run, volume, run.world.conf.libvirt.device_detach_attempts):
            raise Failed(
                f"Guest {run.row.guest} does not let go of volume {volume.id} "
                f"({volume.target}).", now="The volume is still in the guest, and in use.",
                next="Unmount it in the guest (a paused or booting guest cannot let go), or stop "
                     "the guest, then ask again.", code="device_stays")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        volume = volume_of(run)
        held = next((one for one in claimed(run) if one.volume.id == volume.id), None)
        if held is None or held.source is None:
            return
        if run.world.driver.state(run.row.guest) is not None and not is_in(run, volume):
            run.world.driver.attach_volume(run.guest, held.volume, held.source)


class Disconnected(Step):
    """connection: this host does not reach the volume any more."""

    name = "connection"

    def do(self, run: Run) -> None:
        disconnect(run, volume_of(run))


class Returned(Step):
    """attachment: the volume service has it back."""

    name = "attachment"

    def do(self, run: Run) -> None:
        attachment = volume_of(run).attachment_id
        if attachment:
            run.world.volumes.attachment_delete(run.context, attachment)


class Unshown(Step):
    """record: no mapping of it any more, no tag, no claim."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        volume = volume_of(run)
        prim = mapping(run, volume.id)
        if prim is not None:
            run.world.conductor.destroy_bdm(run.context, prim)
        left = others(run, volume.id)
        if volume.tag:
            show_tags(run, [one.volume for one in left])
        attached.claim(run, left)
        unreserve(run, volume.id)


class StillAttached(Step):
    """restore: a volume that was to go and stays is in use."""

    name = "restore"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        wanted = run.request["args"]["volume_id"]
        if mapping(run, wanted) is None:
            unreserve(run, wanted)
        try:
            run.world.volumes.roll_detaching(run.context, wanted)
        except Refused:
            return  # the volume service does not know it, or not as one that is to go


class ConnectionGone(Step):
    """connection: this host does not reach the volume any more. Refused while the guest has it
    here: a guest's disk is never taken away under it."""

    name = "connection"

    def claims(self, run: Run) -> list:
        wanted = run.request["args"]["volume_id"]
        if run.world.driver.state(run.row.guest) is None:
            return []
        stored, live = run.world.driver.volumes(run.row.guest)
        held = next((one.volume for one in claimed(run) if one.volume.id == wanted), None)
        serial = held.shown if held else wanted
        if serial in stored | (live or frozenset()):
            raise Refused(f"Guest {run.row.guest} is on this host, and has volume {wanted}.",
                          now="It stays connected.", next="Detach it, or move the guest first.",
                          code="volume_in_use")
        return []

    def do(self, run: Run) -> None:
        args = run.request["args"]
        prim = mapping(run, args["volume_id"])
        held = next((one.volume for one in claimed(run) if one.volume.id == args["volume_id"]),
                    None)
        volume = held or (mappings.volume(fields_of(prim)) if prim else None)
        if volume is None:
            return
        disconnect(run, volume)
        attached.claim(run, others(run, volume.id))
        if args.get("delete_attachment") and volume.attachment_id:
            run.world.volumes.attachment_delete(run.context, volume.attachment_id)
