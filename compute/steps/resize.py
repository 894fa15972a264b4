"""claim, check, begun, shutdown, off, aside, leave, vacate: a guest gets ready to change its size
or host. What follows on the other side is in :mod:`compute.steps.resize_arrive`, the ends in
:mod:`compute.steps.resize_ends`.

On each host a guest may hold two claims of room: ``resources`` as it is there, and
``resources-move`` for a way in that is not finished or a way back that is not given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Refused
from compute.model import states, wire
from compute.model.guest import Flavor, Nic
from compute.resources.tracker import HERE, MOVE, SPARE
from compute.rpc.primitives import Primitive, data
from compute.steps import stays
from compute.steps.claim import room_of
from compute.steps.domain import (
    OFF,
    START_SECONDS,
    PowerOff,
    Shutdown,
    generation,
    own,
    power,
    remove_domain,
)
from compute.steps.guest_volumes import park, settle
from compute.steps.migration_record import FOR_EVER, Moving, mark, migration_of, stale
from compute.steps.move_context import context_of
from compute.steps.record import publish
from db.journal import Claim, rows
from virt import topology

ASIDE = "aside"  # claim on the directory <uuid>_resize


def new_flavor(run: Run) -> Primitive:
    """The Flavor that the guest shall get: as sent, or as the Instance keeps it."""
    found = run.request["args"].get("flavor") or data(run.instance).get("new_flavor")
    if not found:
        raise Refused(f"Nobody says which flavor guest {run.row.guest} shall get.",
                      now="The guest was not touched.", code="bad_request")
    return found


def same_host(run: Run) -> bool:
    """Whether the guest stays on its host."""
    ends = migration_of(run)
    return ends.get("source_compute") == (ends.get("dest_compute") or run.world.host)


def room(flavor: Flavor, run: Run, way: str) -> dict[str, Any]:
    """Data of a claim for a move: sizes, whose, and ``in`` or ``back``."""
    return {**room_of(run, replace(run.guest, flavor=flavor)), "way": way,
            "migration": migration_of(run).get("uuid")}


def holds_way_back(claims: Iterable[Claim]) -> bool:
    """Whether this host is the one to which a resize can be reverted. What another one still has
    of a resized guest is of an earlier life of it."""
    return any(claim.kind in (MOVE, ASIDE) for claim in claims)


def without_move(run: Run) -> dict[str, Any]:
    """Changes of an Instance that forget a move: what was kept for it."""
    kept = dict(data(run.instance).get("system_metadata") or {})
    kept.pop("old_vm_state", None)
    return {"system_metadata": kept, "old_flavor": None, "new_flavor": None}


def drop_context(run: Run) -> None:
    """Take the MigrationContext off the Instance; quiet when the guest is gone."""
    try:
        run.instance = run.world.conductor.drop_migration_context(run.context, run.instance)
    except Refused as error:
        if error.code != "guest_not_found":
            raise


# -- destination: prep_resize ---------------------------------------------------------------------
class Room(Step):
    """claim: room for the new size on this host, beside the old one if the guest is here, and the
    control plane's word that this host is the destination."""

    name = "claim"

    def claims(self, run: Run) -> list:
        flavor = self.fits(run)
        run.world.driver.check_guest(replace(run.guest, flavor=flavor))
        return [(MOVE, run.row.guest, room(flavor, run, "in"))]

    def fits(self, run: Run) -> Flavor:
        """The new flavor, if it fits. Raises Refused."""
        ends, flavor = migration_of(run), wire.flavor(new_flavor(run))
        if ends.get("migration_type") == "migration" and \
                ends.get("source_compute") == run.world.host:
            raise Refused(f"Guest {run.row.guest} is on host {run.world.host} already and cannot "
                          "be migrated to it.", now="It was not touched.", code="same_host")
        if ends.get("source_compute") != run.world.host:
            stays.refuse(run.guest, f"move to host {run.world.host}")
        run.world.inventory.check_guest(replace(run.guest, flavor=flavor), moving=True)
        return flavor

    def do(self, run: Run) -> None:
        world = run.world
        after = replace(run.guest, flavor=self.fits(run))
        world.inventory.place(after, run.row.id, moving=True)
        fields = data(run.instance)
        run.save({
            "system_metadata": {**(fields.get("system_metadata") or {}),
                                "old_vm_state": fields.get("vm_state")},
            "new_flavor": new_flavor(run),
        }, expected_task_state=[states.RESIZE_PREP])
        mark(run, "pre-migrating", dest_compute=world.host, dest_node=world.inventory.node,
             dest_compute_id=world.inventory.compute_id(run.context),
             dest_host=world.inventory.address)
        run.save({"migration_context": context_of(run, after)},
                 expected_task_state=[states.RESIZE_PREP])

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        run.world.journal.release(guest=run.row.guest, kind=MOVE)
        drop_context(run)


# -- source: resize_instance ----------------------------------------------------------------------
class Leaving(Moving):
    """admission on the source. A request that was lost on its way to the destination is found by
    its task; it is only given up when no destination works on it."""

    def wanted(self, run: Run) -> tuple[str, ...]:
        # A destination that handed the guest back had ended its migration; that was lost then.
        return (*self.statuses, "error") if lost(run) else self.statuses

    def do(self, run: Run) -> dict[str, Any]:
        found = super().do(run)
        if not lost(run):
            return found
        ends = data(found["migration"])
        host = ends.get("dest_compute")
        if host is None:
            return found
        try:
            view = run.world.peers.look(host, run.row.guest)
        except Refused as error:
            if error.code != "no_peer":
                raise
            raise stale(run, f"host {host} may be at it") from error
        if any(row["verb"] == "resize_prep" and row["state"] != rows.UNDONE
               for row in view.operations):
            raise stale(run, f"host {host} is at it")
        return found


def lost(run: Run) -> bool:
    """Whether the message was lost: nothing but the guest's task asks for this."""
    return "migration" not in run.request["args"]


class Fits(Step):
    """check: the guest's disks fit into the new flavor; what the destination must know of them."""

    name = "check"

    def do(self, run: Run) -> dict[str, Any]:
        if lost(run):
            raise Refused(
                f"The request to resize guest {run.row.guest} was lost on its way.",
                now="The guest was not touched.", next="Ask for the resize again.",
                code="lost_cast")
        world, uuid = run.world, run.row.guest
        flavor = wire.flavor(new_flavor(run))
        world.driver.check_resize(run.guest, flavor)
        facts = world.driver.incoming_facts()
        why = why_not_live(run, flavor)
        if why and world.conf.live_resize and same_host(run):
            run.say(f"the guest is restarted for its new size: {why}")
        return {"live": why is None, "uri": facts.get("uri"), "storage": facts.get("storage"),
                "generation": generation(run),
                "disks": [asdict(disk) for disk in world.driver.disks(uuid)]}


def why_not_live(run: Run, flavor: Flavor) -> str | None:
    """Why the guest has to be restarted for a flavor; None when it has not."""
    before = run.guest.flavor
    if not run.world.conf.live_resize or not same_host(run):
        return "it changes its host, or live_resize is off"
    if power(run) != states.RUNNING:
        return "it does not run"
    if dict(flavor.extra_specs) != dict(before.extra_specs):
        return "its flavors ask for different hardware"
    if topology.wish(run.guest) or topology.wish(replace(run.guest, flavor=flavor)):
        return "its CPUs and memory have a place on the host's NUMA cells"
    if (flavor.root_gb, flavor.ephemeral_gb, flavor.swap_mb) != \
            (before.root_gb, before.ephemeral_gb, before.swap_mb):
        return "its disks change"
    return run.world.driver.why_not_live(run.row.guest, flavor)


def live(run: Run) -> bool:
    """Whether this resize goes without a restart, as the source decided."""
    return bool((run.outcome("check") or {}).get("live"))


class Begun(Step):
    """begun: migration ``migrating``, task ``resize_migrating``."""

    name = "begun"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        mark(run, "migrating")
        if not publish(run, {"task_state": states.RESIZE_MIGRATING}, [states.RESIZE_PREP]):
            raise Refused(f"Guest {run.row.guest} is no longer to be resized: its task changed.",
                          now="Nothing was done to the guest.", code="deleting")


class Halt(Shutdown):
    """Ask the guest to shut down, unless it may stay up; it is started again when undone."""

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"ran": power(run) == states.RUNNING}

    def do(self, run: Run) -> dict[str, Any]:
        return {"clean": True} if live(run) else super().do(run)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        if (run.row.error or {}).get("code") in ("deleting", "guest_not_found"):
            return
        if kept.get("ran") and power(run) != states.RUNNING:
            run.world.driver.power_on(run.row.guest)
            run.must(lambda: power(run) == states.RUNNING, START_SECONDS,
                     f"Guest {run.row.guest} running")


class Off(PowerOff):
    """Stop the guest by force, if it still runs and may not."""

    def probe(self, run: Run) -> Probe:
        return Probe.YES if live(run) else super().probe(run)

    def do(self, run: Run) -> None:
        if not live(run):
            super().do(run)

    def settle(self, run: Run) -> None:
        if not live(run):
            super().settle(run)


class Aside(Step):
    """aside: the disks are renamed; from ``<uuid>_resize`` the other side takes them, and it stays
    as the way back. The volumes are not connected here any more, and reserved for the guest."""

    name = "aside"

    def claims(self, run: Run) -> list:
        return [] if live(run) else [(ASIDE, run.row.guest, {"generation": generation(run)})]

    def do(self, run: Run) -> None:
        if not live(run):
            run.world.driver.discard_saved(run.row.guest)  # of a guest stopped while suspended
            run.world.driver.set_aside_disks(run.row.guest)
            run.world.journal.release(guest=run.row.guest, kind="disks")
            if not same_host(run):
                park(run)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        if not live(run):
            if not same_host(run):
                settle(run)
            run.world.journal.claim("disks", run.row.guest, run.row.guest, run.row.id, {})
            run.world.driver.bring_back_disks(run.row.guest)
            run.world.journal.release(guest=run.row.guest, kind=ASIDE)


class Leave(Step):
    """leave: the record has the guest on the destination, which is the point of no return. While
    nobody knows whether it was saved, it is asked for again; refused, all is undone."""

    name = "leave"
    attempts = FOR_EVER
    decides = True

    def do(self, run: Run) -> dict[str, Any]:
        ends = migration_of(run)
        mark(run, "post-migrating")
        changes = {
            "host": ends["dest_compute"], "node": ends["dest_node"],
            "compute_id": ends["dest_compute_id"], "old_flavor": data(run.instance).get("flavor"),
            "task_state": states.RESIZE_MIGRATED, "power_state": seen_power(run),
        }
        if publish(run, changes, [states.RESIZE_MIGRATING]):
            return {"published": True}
        run.instance = run.world.conductor.instance(run.context, run.row.guest)
        if not same_host(run) and data(run.instance).get("host") == ends["dest_compute"]:
            return {"published": False}  # it was heard; meanwhile the guest is being deleted there
        raise Refused(f"Guest {run.row.guest} is no longer to be resized: its task changed.",
                      now="It stays on this host.", code="deleting")


def seen_power(run: Run) -> int:
    """The guest's power state on this host."""
    return power(run) or states.NOSTATE


class Vacate(Step):
    """vacate: no domain and no network interface stay on a host that the guest has left; its room
    is kept for the way back."""

    name = "vacate"

    def do(self, run: Run) -> None:
        journal, uuid = run.world.journal, run.row.guest
        if same_host(run):
            return
        unplug(run)
        remove_domain(run)
        for held in journal.claims(kind=HERE, guest=uuid):  # its former size
            journal.claim(MOVE, uuid, uuid, run.row.id, {
                **held.data, "migration": migration_of(run).get("uuid"), "way": "back"})
        for kind in (HERE, "disks"):
            journal.release(guest=uuid, kind=kind)


def unplug(run: Run) -> None:
    """Remove what the guest's NICs have on this host; its ports stay its own."""
    for nic in plugged(run):
        run.world.driver.unplug(run.row.guest, nic)
        if nic.kind == "network":
            run.world.driver.release_address(nic.source, nic.mac)
    run.world.journal.release(guest=run.row.guest, kind="ports")


def plugged(run: Run) -> tuple[Nic, ...]:
    """The NICs as they are on this host, which the record may have on another one by now."""
    claims = run.world.journal.claims(kind="ports", guest=run.row.guest)
    found = tuple(Nic.from_plain(p) for claim in claims for p in claim.data.get("nics", ()))
    return found or run.guest.nics


def keep_room(run: Run, flavor: Flavor, here: Mapping[str, Any]) -> None:
    """Claim the guest's former size for the way back, and its new one as what it has here. Each of
    its two places, and of its devices, is in some claim at every moment."""
    journal, uuid = run.world.journal, run.row.guest
    back = room(flavor, run, "back")
    spare = {SPARE[name]: back[name] for name in SPARE if name in back}
    if spare:
        journal.claim(HERE, uuid, uuid, run.row.id, {**here, **spare})
    journal.claim(MOVE, uuid, uuid, run.row.id, back)
    journal.claim(HERE, uuid, uuid, run.row.id, here)


class Returned(Step):
    """restore: after a failure the guest is what it was; in error only if it ran and does not.

    :param expected: task_states that the part ran under.
    :param here: whether the guest is on this host, so that its power state is seen.
    """

    name = "restore"
    attempts = FOR_EVER

    def __init__(self, expected: list[str | None], here: bool = True):
        self.expected, self.here = expected, here

    def do(self, run: Run) -> None:
        try:
            run.instance = run.world.conductor.instance(run.context, run.row.guest)
        except Refused as error:
            if error.code != "guest_not_found":
                raise
            return
        changes: dict[str, Any] = {"task_state": None, **without_move(run)}
        if self.here:
            changes["power_state"] = seen_power(run)
            if data(run.instance).get("vm_state") == states.ACTIVE and seen_power(run) in OFF:
                changes["vm_state"] = states.ERROR
        if self.here and same_host(run):
            run.world.journal.release(guest=run.row.guest, kind=MOVE)  # as destination, too
        if publish(run, changes, self.expected):
            drop_context(run)


def leftover(run: Run) -> None:
    """Remove a definition that an earlier life of the guest left on a host that it is not on.

    Raises NeedsOperator when it is not ours.
    """
    found = run.world.driver.state(run.row.guest)
    if found is not None:
        own(run, found)
        run.world.driver.power_off(run.row.guest)
        remove_domain(run)
