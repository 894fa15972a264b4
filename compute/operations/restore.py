"""restore: a soft-deleted guest runs again (restore_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps import record
from compute.steps.admission import Admission
from compute.steps.disks import DisksPresent
from compute.steps.domain import Domain, PowerOn
from compute.steps.ports import Plug
from compute.steps.record import Event, Fault, Finish, Record
from compute.steps.sleep import Discard


class Restore(Operation):
    """As a start; undone, the guest is soft-deleted again, and may be restored once more."""

    verb = "restore"
    event = "compute_restore_instance"
    steps = (
        Admission(),         # the restore is still wanted
        Event(),             # the tenant sees that it began
        DisksPresent(),      # its disks are here
        Plug(),              # its networks are here
        Domain(keep=True),   # defined anew
        Discard(),           # no saved memory: it boots
        PowerOn(),           # running
        Record(states.ACTIVE, [states.RESTORING]),
        Finish(),            # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), record.Restore([states.RESTORING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.RESTORING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
