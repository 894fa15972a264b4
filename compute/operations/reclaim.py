"""reclaim: a soft-deleted guest that nobody restored in time is deleted for good.

No message asks for this; reconciliation does, ``reclaim_instance_interval`` after the soft delete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model import states, wire
from compute.rpc.primitives import data
from compute.steps.admission import Admission
from compute.steps.claim import Release
from compute.steps.disks import DisksGone
from compute.steps.domain import DomainGone, PowerOff
from compute.steps.guest_volumes import VolumesGone
from compute.steps.ports import PortsGone
from compute.steps.record import Gone, publish, reread
from compute.steps.resize_ends import OwnAsideGone


class Doom(Step):
    """doom: from now on a restore is refused; the one that came first wins."""

    name = "doom"
    attempts = 1_000_000

    def do(self, run: Run) -> None:
        if not reread(run):
            return  # deleted by somebody else: what is here goes all the same
        if data(run.instance).get("task_state") == states.DELETING:
            return  # our own word, whose answer was lost, or a tenant's who is as tired of it
        run.save({"task_state": states.DELETING}, expected_task_state=[None],
                 expected_vm_state=[states.SOFT_DELETED])

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        """It can be restored again, unless its owner's own delete is waiting for this to end."""
        active = run.world.journal.find(guest=run.row.guest, active=True)
        if not any(row.verb == "delete" for row in active):
            publish(run, {"task_state": None}, [states.DELETING])


class StillDeleted(Admission):
    """admission: nobody restored it, and nobody is about to."""

    def do(self, run: Run) -> Any:
        found = super().do(run)
        if found["vm_state"] != states.SOFT_DELETED:
            raise Refused(f"Guest {run.row.guest} is not deleted any more; it is "
                          f"{found['vm_state']}.", now="Nothing was done.", code="stale")
        return found


class Reclaim(Operation):
    """From ``off`` it only goes forward, as a delete does."""

    verb = "reclaim"
    event = ""
    steps = (
        StillDeleted(),  # nobody restored it
        Doom(),          # nobody can any more
        PowerOff(),      # it is off already, unless somebody started it behind our back
        DomainGone(),    # definition and saved memory
        VolumesGone(),   # disconnected, given back; removed if they end with the guest
        PortsGone(),     # taps unplugged, addresses given back
        DisksGone(),     # overlay, config drive, console log
        OwnAsideGone(),  # former disks, kept for the way back of a resize
        Release(),       # claims
        Gone(),          # deleted in the control plane
    )
    final = "off"

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
