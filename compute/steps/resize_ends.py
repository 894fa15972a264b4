"""way, disks, leave, record: a resize or cold migration is confirmed, or the guest goes back.

Disks are only deleted when the others are known to be there: the former ones after the control
plane has the guest as resized, the new ones after the source was seen to have the former.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, Refused
from compute.model import states, wire
from compute.resources.tracker import HERE, MOVE
from compute.rpc.primitives import data
from compute.steps.claim import room_of, told_place
from compute.steps.disks import remove_disks
from compute.steps.domain import (
    OFF,
    Domain,
    PowerOff,
    Shutdown,
    force_off,
    generation,
    power,
    remove_domain,
)
from compute.steps.guest_volumes import park
from compute.steps.migration_record import FOR_EVER, Moving, mark, migration_of, stale
from compute.steps.record import publish
from compute.steps.resize import (
    ASIDE,
    drop_context,
    leftover,
    same_host,
    seen_power,
    unplug,
    without_move,
)
from compute.steps.resize_arrive import machine_and_addresses, shall_run, sized

LOG = logging.getLogger(__name__)


# -- confirm, on the source -----------------------------------------------------------------------
class Confirming(Moving):
    """admission of a confirmation: only of a guest that is resized, or deleted."""

    def do(self, run: Run) -> dict[str, Any]:
        found = super().do(run)
        if not found["gone"] and found["vm_state"] != states.RESIZED:
            raise stale(run, f"it is {found['vm_state']} by now")
        return found


class AsideGone(Step):
    """aside: the former disks are deleted."""

    name = "aside"

    def do(self, run: Run) -> None:
        run.world.driver.delete_aside_disks(run.row.guest)
        run.world.journal.release(guest=run.row.guest, kind=ASIDE)


class OwnAsideGone(AsideGone):
    """aside: disks that this host kept for a way back are deleted, if a claim says so."""

    def do(self, run: Run) -> None:
        if run.world.journal.claims(kind=ASIDE, guest=run.row.guest):
            super().do(run)


class AsideLeft(Step):
    """aside: former disks of a guest that is another host's by now, though nobody confirmed its
    resize: they come back to where they were, so that what clears them keeps them in quarantine.
    """

    name = "aside"

    def do(self, run: Run) -> None:
        world, uuid = run.world, run.row.guest
        if not world.journal.claims(kind=ASIDE, guest=uuid):
            return
        if uuid in world.driver.guest_dirs():  # on storage that both hosts see: the other's disks
            world.driver.delete_aside_disks(uuid)
        else:
            world.driver.bring_back_disks(uuid)


class Cleared(Step):
    """vacate: nothing else of the guest stays on a host that it has left, and no room for the way
    back anywhere."""

    name = "vacate"

    def do(self, run: Run) -> None:
        journal, uuid = run.world.journal, run.row.guest
        if same_host(run):
            journal.release(guest=uuid, kind=MOVE)
            return
        leftover(run)
        unplug(run)
        journal.release(guest=uuid)


class Confirmed(Step):
    """record: migration ``confirmed``; the guest is active or stopped, and the move forgotten."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        mark(run, "confirmed")
        if (run.outcome("admission") or {}).get("gone"):
            return
        try:
            run.instance = run.world.conductor.instance(run.context, run.row.guest)
            if data(run.instance).get("vm_state") == states.RESIZED:
                drop_context(run)
                run.save({"vm_state": self.vm_state(run), "task_state": None,
                          **without_move(run)},
                         expected_vm_state=[states.RESIZED],
                         expected_task_state=[None, states.RESIZE_CONFIRMING])
        except Refused as error:  # deleted meanwhile, or somebody's next request is on its way
            if error.code not in ("guest_not_found", "stale", "deleting"):
                raise

    def vm_state(self, run: Run) -> str:
        """As the guest is by now: it may have been shut down while it waited."""
        seen = data(run.instance).get("power_state")
        if seen in (states.RUNNING, states.SHUTDOWN):
            return states.STOPPED if seen == states.SHUTDOWN else states.ACTIVE
        return states.ACTIVE if shall_run(run) else states.STOPPED


# -- revert, on the destination -------------------------------------------------------------------
class WayBack(Step):
    """way: the source has the former disks. A guest that was not stopped for its new size has only
    one set of them, and keeps it."""

    name = "way"

    def do(self, run: Run) -> dict[str, Any]:
        world, uuid, source = run.world, run.row.guest, migration_of(run)["source_compute"]
        aside: bool | None
        if same_host(run):
            aside = world.driver.aside_disks(uuid)
            if not aside and not world.journal.claims(kind=ASIDE, guest=uuid):
                flavor = wire.flavor(data(run.instance)["old_flavor"])
                return {"live": True, "why": self.why_not_live(run, flavor)}
        else:
            aside = self.there(run, source)
        if aside is False:
            raise Failed(f"Host {source} does not have the former disks of guest {uuid}.",
                         now="The guest stays as it is, resized.",
                         next="Confirm the resize, or look for the disks with "
                              f"'magnetar explain {uuid}' on that host.", code="disks_missing")
        return {"live": False}

    def there(self, run: Run, source: str) -> bool | None:
        """Whether the source has them; None when its agent is none of ours."""
        try:
            return run.world.peers.look(source, run.row.guest).aside
        except Refused as error:
            if error.code != "no_peer":
                raise
            return None

    def why_not_live(self, run: Run, flavor: Any) -> str | None:
        if power(run) != states.RUNNING:
            return "it does not run"
        return run.world.driver.why_not_live(run.row.guest, flavor)


def stays_up(run: Run) -> bool:
    """Whether the guest goes back without being stopped."""
    way = run.outcome("way") or {}
    return bool(way.get("live")) and way.get("why") is None


def keeps_disks(run: Run) -> bool:
    """Whether the guest has only one set of disks."""
    return bool((run.outcome("way") or {}).get("live"))


class Quiet(Shutdown):
    """shutdown: asked and given time, if the disks that it writes to are kept."""

    def do(self, run: Run) -> dict[str, Any]:
        if stays_up(run) or not keeps_disks(run):
            return {"clean": False}
        return super().do(run)


class OffToGo(PowerOff):
    """off: forced off, unless it may stay up."""

    def probe(self, run: Run) -> Probe:
        return Probe.YES if stays_up(run) else super().probe(run)

    def do(self, run: Run) -> None:
        if not stays_up(run):
            super().do(run)

    def settle(self, run: Run) -> None:
        if not stays_up(run):
            super().settle(run)


class NewGone(Step):
    """disks: domain, interfaces and disks of the new size are gone from this host. On the source
    itself the domain stays, to be defined with its former size."""

    name = "disks"

    def do(self, run: Run) -> None:
        if not same_host(run):
            remove_domain(run)
            unplug(run)
            park(run)
            remove_disks(run)
            run.world.journal.release(guest=run.row.guest)
        elif not keeps_disks(run) and run.world.driver.aside_disks(run.row.guest):
            remove_disks(run)


class Reverted(Step):
    """leave: migration ``reverted``; the record has the guest on its former host, where it does
    not exist yet: by that (no power state) it is known what its task asks for, should all else be
    lost."""

    name = "leave"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        mark(run, "reverted")
        return {"published": publish(
            run, {"host": migration_of(run)["source_compute"], "power_state": states.NOSTATE,
                  "task_state": states.RESIZE_REVERTING}, [states.RESIZE_REVERTING])}


class StillResized(Step):
    """restore: nothing was touched; the guest stays resized and can be confirmed or reverted."""

    name = "restore"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        mark(run, "finished")
        publish(run, {"task_state": None, "power_state": seen_power(run)},
                [states.RESIZE_REVERTING])


# -- back on the source ---------------------------------------------------------------------------
class Back(Step):
    """disks: the former disks are in their place again."""

    name = "disks"

    def claims(self, run: Run) -> list:
        return [("disks", run.row.guest, {})]

    def do(self, run: Run) -> None:
        if run.world.driver.aside_disks(run.row.guest):
            run.world.driver.bring_back_disks(run.row.guest)


class FormerSize(Step):
    """flavor: the record has the former flavor, and this host and node."""

    name = "flavor"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        world, former = run.world, data(run.instance).get("old_flavor")
        changes = {"host": world.host, "node": world.inventory.node,
                   "compute_id": world.inventory.compute_id(run.context),
                   "task_state": states.RESIZE_REVERTING, **(sized(former) if former else {})}
        publish(run, changes, [states.RESIZE_REVERTING])


class DefinedBack(Domain):
    """domain: defined with its former size; two generations on when it was on another host."""

    def claims(self, run: Run) -> list:
        claimed = run.world.journal.claims(kind="domain", guest=run.row.guest)
        aside = run.world.journal.claims(kind=ASIDE, guest=run.row.guest)
        number = generation(run)
        if not claimed and aside:
            number = int(aside[0].data.get("generation") or 1) + 2
        return [("domain", run.row.guest, {"generation": number, "name": run.guest.name})]

    def do(self, run: Run) -> dict[str, str]:
        if power(run) == states.RUNNING:
            self.shrink(run)
        return super().do(run)

    def shrink(self, run: Run) -> None:
        """Give a guest that was not stopped its former size; stop it when that does not work."""
        driver, uuid, flavor = run.world.driver, run.row.guest, run.guest.flavor
        try:
            if driver.why_not_live(uuid, flavor) is None:
                driver.resize_live(uuid, flavor)
                return
        except Failed as error:
            LOG.warning("Guest %s is restarted to get its former size: %s", uuid, error)
        force_off(run)


class BackAgain(Step):
    """record: active or stopped, as before; room, claims and record forget the move."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        journal, uuid = run.world.journal, run.row.guest
        journal.claim(HERE, uuid, uuid, run.row.id, room_of(run, run.guest))
        for kind in (MOVE, ASIDE):
            journal.release(guest=uuid, kind=kind)
        added, forgotten = machine_and_addresses(run), without_move(run)
        kept = {key: value for key, value in added.pop("system_metadata").items()
                if key != "old_vm_state"}
        seen = seen_power(run)
        changes: Mapping[str, Any] = {
            **forgotten, **added, **told_place(run, run.guest), "system_metadata": kept,
            "task_state": None, "power_state": seen,
            "vm_state": states.STOPPED if seen in OFF else states.ACTIVE,
        }
        published = publish(run, changes, [states.RESIZE_REVERTING])
        if published:
            drop_context(run)
        return {"published": published}
