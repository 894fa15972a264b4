"""delete: remove a guest and everything that is its (terminate_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.claim import Release
from compute.steps.disks import DisksGone
from compute.steps.domain import DomainGone, PowerOff
from compute.steps.guest_volumes import VolumesGone
from compute.steps.ports import PortsGone
from compute.steps.record import Event, Finish, Gone
from compute.steps.resize_ends import OwnAsideGone


class Delete(Operation):
    """From ``off`` it only goes forward: each part is retried until it is gone."""

    verb = "delete"
    event = "compute_terminate_instance"
    steps = (
        Admission(if_gone=True),  # the delete is still wanted
        Event(),                  # the tenant sees that it began
        PowerOff(),               # the guest stops
        DomainGone(),             # definition and saved memory
        VolumesGone(),            # disconnected, given back; removed if they end with the guest
        PortsGone(),              # taps unplugged, addresses given back
        DisksGone(),              # overlay, config drive, console log
        OwnAsideGone(),           # former disks, kept for the way back of a resize
        Release(),                # claims
        Gone(),                   # deleted in the control plane
        Finish(),                 # the tenant sees that it ended
    )
    final = "off"
    conclusion = (Finish(),)
    silent = frozenset({"stale"})
    preempts = True
    adopts = frozenset({states.DELETING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
