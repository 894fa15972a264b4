"""which, connection, copy, pivot, complete, old, record: a running guest gets another volume in the
place of one that it has, with all that is on it.

The copy follows the guest's writes. Until ``pivot`` the guest works with the old volume, and all
can be taken back; from then on the old one is behind, and only what is left of it is cleared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, Refused, Retryable, Turned
from compute.model import mappings
from compute.model.volume import Attached, Volume
from compute.rpc.primitives import data as fields_of
from compute.steps import attached
from compute.steps.attached import claimed, mapped, others
from compute.steps.disks import Progress
from compute.steps.hotplug import need_domain
from compute.steps.record import FOR_EVER
from compute.steps.sleep import is_awake
from compute.steps.volume_size import held
from compute.steps.volumes import disconnect, show_tags, source_of

MOVING = ("retyping", "migrating")  # the volume service itself asked for the copy


def old_of(run: Run) -> Volume:
    """The volume that the guest has."""
    return Volume.from_plain(run.outcome("which")["old"])


def new_of(run: Run) -> Volume:
    """The volume that takes its place."""
    return Volume.from_plain(run.outcome("which")["new"])


class Both(Step):
    """which: the old volume, which the guest has, and the new one, which it has not."""

    name = "which"

    def do(self, run: Run) -> dict[str, Any]:
        args, show = run.request["args"], run.world.volumes.show
        need_domain(run, "volumes")
        old = held(run, args["old_volume_id"]).volume
        if not is_awake(run):
            raise Refused(f"Guest {run.row.guest} does not run: a volume is exchanged by copying "
                          "it under a guest that does.", now="Nothing was changed.",
                          next="Start the guest, or detach the volume and attach the other.",
                          code="not_running")
        before, after = show(run.context, old.id), show(run.context, args["new_volume_id"])
        if args["new_volume_id"] in {one.volume.id for one in claimed(run)}:
            raise Refused(f"Volume {args['new_volume_id']} is attached to guest {run.row.guest}.",
                          now="Nothing was changed.", next="Choose another volume.",
                          code="volume_attached")
        if int(after.get("size") or 0) < int(before.get("size") or 0):
            raise Refused(f"Volume {after['id']} has {after.get('size')} GiB, the one that it "
                          f"shall take the place of {before.get('size')} GiB.",
                          now="Nothing was changed.", next="Use one that is as large.",
                          code="volume_too_small")
        if old.multiattach:
            raise Refused(f"Volume {old.id} may be other guests' too: what they write while it is "
                          "copied would be lost.", now="Nothing was changed.",
                          next="Detach it from the others, and attach the new one.",
                          code="volume_shared")
        new = replace(old, id=after["id"], attachment_id=args.get("new_attachment_id") or "",
                      connection={}, size_gb=int(after.get("size") or 0), serial=old.shown,
                      multiattach=bool(after.get("multiattach")))
        return {"old": old.to_plain(), "new": new.to_plain(),
                "moving": before.get("status") in MOVING or
                before.get("migration_status") in MOVING}


class NewConnection(Step):
    """connection: this host reaches the new volume. Outcome: where."""

    name = "connection"

    def claims(self, run: Run) -> list:
        new = new_of(run)
        return [(attached.KIND, run.row.guest,
                 attached.plain([*others(run, new.id), Attached(new)]))]

    def do(self, run: Run) -> dict[str, Any]:
        new = attached.granted(run, new_of(run))
        attached.claim(run, [*others(run, new.id), Attached(new)])
        source = run.world.driver.connect_volume(new, run.row.guest)
        attached.claim(run, [*others(run, new.id), Attached(new, source)])
        return asdict(source)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        new = new_of(run)
        disconnect(run, new)
        attached.claim(run, others(run, new.id))


class Copied(Step):
    """copy: the new volume is level with the old one, and follows each write."""

    name = "copy"

    def do(self, run: Run) -> None:
        run.world.driver.begin_swap(run.row.guest, old_of(run), source_of(run))

    def settle(self, run: Run) -> None:
        driver, old, progress = run.world.driver, old_of(run), Progress(run, "volume")
        seconds = float(run.world.conf.timeouts.snapshot)

        def over() -> bool:
            if driver.swapped(run.row.guest, old, source_of(run)):
                return True
            state = driver.swap_state(run.row.guest, old)
            if state is None:
                raise Retryable(f"The copy of volume {old.id} ended by itself, or the guest went "
                                "off.", now="The guest has the old volume.",
                                next="It is begun anew while the guest runs.", code="copy_lost")
            progress(state.done, state.total)
            return state.level

        if not run.wait(over, seconds):
            raise Failed(f"The copy of volume {old.id} was not level with it within {seconds:g} s: "
                         "the guest writes too much, or the storage is too slow.",
                         next="Ask for it while the guest is quieter; [timeouts] snapshot is the "
                              "limit.", code="copy_too_slow")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        run.world.driver.abort_swap(run.row.guest, old_of(run))


class Pivoted(Step):
    """pivot: the guest works with the new volume. An abort comes too late once that is so."""

    name = "pivot"
    decides = True

    def probe(self, run: Run) -> Probe:
        return Probe.YES if self.over(run) else Probe.NO

    @staticmethod
    def over(run: Run) -> bool:
        """Whether the new volume has the old one's place."""
        driver = run.world.driver
        return driver.state(run.row.guest) is not None and driver.swapped(
            run.row.guest, old_of(run), source_of(run))

    def do(self, run: Run) -> None:
        if self.over(run):
            return
        run.check()
        state = run.world.driver.swap_state(run.row.guest, old_of(run))
        if state is None or not state.level:
            Copied().do(run)
            Copied().settle(run)
        run.world.driver.finish_swap(run.row.guest, old_of(run), source_of(run))

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if self.over(run):
            raise Turned(f"Guest {run.row.guest} works with volume {new_of(run).id} already.")


class SwapCompleted(Step):
    """complete: the new volume is in use, and the mapping names it."""

    name = "complete"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        old = old_of(run)
        new = attached.granted(run, new_of(run))  # anew, for what the journal must not have
        run.world.volumes.attachment_complete(run.context, new.attachment_id)
        known = mapped(run)
        attached.save_mapping(run, known.get(old.id) or known.get(new.id), mappings.changes(new))


class OldGone(Step):
    """old: this host does not reach the old volume any more, and the guest holds no attachment to
    it. When the volume service asked for the copy, it says under which id it goes on."""

    name = "old"

    def do(self, run: Run) -> dict[str, Any]:
        old, new = old_of(run), new_of(run)
        if old.id in {one.volume.id for one in claimed(run)}:
            disconnect(run, old)
            attached.claim(run, others(run, old.id))
        kept = new.id
        if run.outcome("which")["moving"]:
            kept = self.told(run, old.id, new.id)
        if old.attachment_id:
            run.world.volumes.attachment_delete(run.context, old.attachment_id)
        return {"id": kept}

    @staticmethod
    def told(run: Run, old: str, new: str) -> str:
        """The id with which the volume goes on. Told before, the service may say no."""
        volumes = run.world.volumes
        try:
            answer = volumes.migrate_completion(run.context, old, new, False)
            return answer.get("save_volume_id") or new
        except Refused:
            try:
                return volumes.show(run.context, new)["id"]
            except Refused:
                return old


class SwapShown(Step):
    """record: mapping and claim have the id with which the new volume goes on."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        old, new, kept = old_of(run), new_of(run), run.outcome("old")["id"]
        known = mapped(run)
        prim = known.get(new.id) or known.get(kept)
        if prim is not None and kept != new.id:
            connection = {**mappings.connection_of(fields_of(prim)), "serial": kept}
            attached.save_mapping(run, prim, {
                "volume_id": kept, "connection_info": json.dumps(connection)})
        now = next((one for one in claimed(run) if one.volume.id in (new.id, kept)), None)
        if now is not None:
            volume = replace(now.volume, id=kept,
                             connection={**now.volume.connection, "serial": kept})
            attached.claim(run, [*others(run, new.id, kept),
                                 replace(now, volume=volume).seen_as(now.volume.shown)])
        if old.tag:
            show_tags(run, [one.volume for one in claimed(run)])


class NotSwapped(Step):
    """restore: the new volume is given back, the old one stays in use."""

    name = "restore"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        args, volumes = run.request["args"], run.world.volumes
        attachment = args.get("new_attachment_id")
        if attachment in {one.volume.attachment_id for one in claimed(run)}:
            return  # the same message came before, and it has the volume
        if attachment:
            volumes.attachment_delete(run.context, attachment)
        try:
            if (run.outcome("which") or {}).get("moving"):
                volumes.migrate_completion(run.context, args["old_volume_id"],
                                           args["new_volume_id"], True)
            else:
                volumes.roll_detaching(run.context, args["old_volume_id"])
        except Refused:
            return  # the volume service does not know them, or has not begun anything

