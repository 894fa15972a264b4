"""vacate: clear what a guest that belongs to another host by now has left on this one.

No message asks for this. Reconciliation does, when the control plane has the guest elsewhere: this
host came back after an evacuation, or lost its journal in a move. Nothing is touched before the
other host has proven that it has the guest, in a newer incarnation; disks go to quarantine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import NeedsOperator, Refused, Unknown
from compute.model import states, wire
from compute.operations.reap import DisksAside
from compute.rpc.primitives import clean, data
from compute.steps.claim import Release
from compute.steps.domain import DomainGone, PowerOff
from compute.steps.guest_volumes import VolumesLeft
from compute.steps.live_ends import PortsLeft
from compute.steps.record import FOR_EVER
from compute.steps.resize import holds_way_back
from compute.steps.resize_ends import AsideLeft


class Proof(Step):
    """proof: the other host has the guest, newer than the one here."""

    name = "proof"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        run.instance = run.world.conductor.instance(run.context, run.row.guest)
        fields = data(run.instance)
        host = fields.get("host")
        if host in (None, run.world.host):
            raise Refused(f"Guest {run.row.guest} belongs to this host after all.",
                          now="Nothing was done.", code="stale")
        waits = fields.get("vm_state") == states.RESIZED and \
            holds_way_back(run.world.journal.claims(guest=run.row.guest))
        if fields.get("task_state") is not None or waits:
            raise Refused(f"Guest {run.row.guest} is still on its way.", now="Nothing was done.",
                          code="stale")
        view = run.world.peers.look(host, run.row.guest)
        mine = run.world.driver.state(run.row.guest)
        if view.domain is None:
            raise Unknown(f"Host {host}, to which guest {run.row.guest} belongs, does not know it.",
                          now="Nothing is touched here.", code="no_proof")
        if mine is not None and mine.generation >= view.domain.generation:
            raise NeedsOperator(
                f"Guest {run.row.guest} is here in generation {mine.generation}, and on host "
                f"{host}, to which it belongs, in generation {view.domain.generation}.",
                now="Nothing was touched on either host.",
                next=f"Look which copy is the right one, stop the other with 'virsh destroy "
                     f"{run.row.guest}', then: magnetar op resolve {run.row.id} --as retry",
                code="two_copies")
        return {"host": host, "shared": self.shared(run)}

    @staticmethod
    def shared(run: Run) -> bool:
        """Whether this host's storage is one that the other sees as well."""
        host = data(run.instance)["host"]
        theirs = run.world.peers.ask(host, "peer_storage")
        return theirs is not None and \
            theirs == run.world.driver.incoming_facts().get("storage")


class DisksLeftBehind(DisksAside):
    """Disks into quarantine, unless they are the other host's as well."""

    def do(self, run: Run) -> None:
        if run.outcome("proof")["shared"]:
            run.world.journal.release(guest=run.row.guest, kind="disks")
        else:
            super().do(run)


class Completed(Step):
    """migration: evacuations from here are completed, now that this host knows of them. Nova's own
    agent, should it follow ours on this host, would remove the guest where one is only done."""

    name = "migration"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        conductor = run.world.conductor
        for ended in conductor.migrations(run.context, {
                "instance_uuid": run.row.guest, "source_compute": run.world.host,
                "migration_type": "evacuation", "status": "done"}):
            conductor.save(run.context, clean(ended), {"status": "completed"})


class Vacate(Operation):
    """From ``off`` it only goes forward."""

    verb = "vacate"
    event = "compute_terminate_instance"
    steps = (
        Proof(),            # the guest runs elsewhere, newer
        PowerOff(),         # this copy stops
        DomainGone(),       # definition and managed save
        VolumesLeft(),      # not connected here any more
        PortsLeft(),        # taps; the ports are the other host's
        AsideLeft(),        # disks that a resize had set aside, back to where they were
        DisksLeftBehind(),  # into quarantine
        Release(),          # claims
        Completed(),        # an evacuation's record
    )
    final = "off"
    silent = frozenset({"stale", "guest_not_found"})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
