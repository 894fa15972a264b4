"""soft_delete: a deleted guest is powered off, and can be restored for a while
(soft_delete_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.domain import PowerOff
from compute.steps.record import Event, Fault, Finish, Record, Restore


class SoftDelete(Operation):
    """Everything that is the guest's stays: domain, disks, addresses and claims."""

    verb = "soft_delete"
    event = "compute_soft_delete_instance"
    steps = (
        Admission(),   # the delete is still wanted
        Event(),       # the tenant sees that it began
        PowerOff(),    # the guest stops
        Record(states.SOFT_DELETED, [states.SOFT_DELETING]),
        Finish(),      # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore([states.SOFT_DELETING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.SOFT_DELETING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
