"""claim: room on this host, and the control plane's word that the guest is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model import states
from compute.model.guest import Guest
from compute.model.numa import Placement
from compute.model.pci import Given
from compute.resources.devices import given_in
from compute.resources.places import content_of, need, placement_in, to_record
from compute.rpc.primitives import data


def placement_of(run: Run, guest: Guest) -> Placement | None:
    """The place that the guest has claimed on this host."""
    return placement_in(run.world.journal.claims(guest=guest.uuid), guest)


def devices_of(run: Run, guest: Guest) -> tuple[Given, ...]:
    """The devices that the guest has claimed on this host."""
    return given_in(run.world.journal.claims(guest=guest.uuid), guest)


def room_of(run: Run, guest: Guest) -> dict[str, Any]:
    """Data of a claim of room: what the guest takes, and the place and devices that it has claimed
    before."""
    return {**need(guest), **content_of(placement_of(run, guest), devices_of(run, guest))}


def told_place(run: Run, guest: Guest) -> dict[str, Any]:
    """Changes of an Instance: its numa_topology, unless there is none and was none."""
    told = to_record(guest, placement_of(run, guest))
    return {"numa_topology": told} if told or data(run.instance).get("numa_topology") else {}


class Claim(Step):
    """Check the room, write the claim down, and set host and node by compare-and-swap.

    The claim row is written with the intent; a guest that does not fit is refused before it. Since
    several may look at the same time, each looks again once its row is there.
    """

    name = "claim"

    def claims(self, run: Run) -> list:
        if run.world.journal.claims(kind="domain", guest=run.row.guest):
            raise Refused(f"Guest {run.row.guest} was built on this host already.",
                          now="It was not touched.", code="stale")
        run.world.driver.check_guest(run.guest)
        run.world.inventory.check_guest(run.guest)
        return [("resources", run.row.guest, room_of(run, run.guest))]

    def do(self, run: Run) -> None:
        world = run.world
        world.inventory.check(run.row.guest, need(run.guest))
        world.inventory.place(run.guest, run.row.id)
        kept = data(run.instance).get("system_metadata") or {}
        run.save(
            {
                "host": world.host, "node": world.inventory.node, "launched_on": world.host,
                "compute_id": world.inventory.compute_id(run.context),
                "system_metadata": {**kept, "boot_roles": ",".join(run.context.get("roles") or ())},
                "vm_state": states.BUILDING, "task_state": states.NETWORKING,
                **told_place(run, run.guest),
            },
            expected_vm_state=[states.BUILDING],
            expected_task_state=[states.NETWORKING] if self.ours_already(run)
            else [states.SCHEDULING, None],
        )

    def ours_already(self, run: Run) -> bool:
        """Whether the control plane took our word already and only its answer got lost; a task of
        networking alone may be another host's."""
        if not (run.resumed or run.row.attempts):
            return False
        fields = data(run.world.conductor.instance(run.context, run.row.guest))
        return fields.get("host") == run.world.host and \
            fields.get("task_state") == states.NETWORKING

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        run.world.journal.release(guest=run.row.guest, kind="resources")


class Release(Step):
    """release: give up everything that the journal says is the guest's."""

    name = "release"

    def do(self, run: Run) -> None:
        run.world.journal.release(guest=run.row.guest)
