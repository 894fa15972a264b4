"""reap: remove a guest that the control plane positively knows as deleted.

No message asks for this; reconciliation does, for a domain that carries our metadata. Its disks go
to quarantine, since nobody on this host saw the delete.
"""

from __future__ import annotations

from compute.engine.operation import Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.steps.claim import Release
from compute.steps.domain import DomainGone, PowerOff
from compute.steps.guest_volumes import VolumesGone
from compute.steps.ports import PortsGone
from compute.steps.resize_ends import OwnAsideGone


class DisksAside(Step):
    """Move the guest's disks into quarantine."""

    name = "disks"

    def do(self, run: Run) -> None:
        if run.row.guest in run.world.driver.guest_dirs():
            run.world.driver.quarantine_disks(run.row.guest)
        run.world.journal.release(guest=run.row.guest, kind="disks")


class Reap(Operation):
    """From ``off`` it only goes forward."""

    verb = "reap"
    event = "compute_terminate_instance"
    steps = (
        PowerOff(),     # the guest stops
        DomainGone(),   # definition and managed save
        VolumesGone(),  # disconnected, given back; removed if they end with the guest
        PortsGone(),    # taps unplugged, addresses given back
        DisksAside(),   # into quarantine
        OwnAsideGone(),  # former disks, kept for the way back of a resize
        Release(),      # claims
    )
    final = "off"
