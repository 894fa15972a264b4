"""unrescue: a rescued guest boots its own system again (unrescue_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.disks import DisksPresent
from compute.steps.domain import PowerOn
from compute.steps.ports import Plug
from compute.steps.record import Event, Fault, Finish, Record, Restore
from compute.steps.rescue import OffForNow, OwnDomain, RescueDisksGone
from compute.steps.sleep import Discard


class Unrescue(Operation):
    """Undone, the guest is rescued as before."""

    verb = "unrescue"
    event = "compute_unrescue_instance"
    steps = (
        Admission(),         # the unrescue is still wanted
        Event(),             # the tenant sees that it began
        DisksPresent(),      # its own disks are here
        OffForNow(),         # the rescue system is off
        Plug(),              # its networks are here
        OwnDomain(),         # defined to boot its own system
        Discard(),           # no saved memory: it boots
        PowerOn(),           # its own system runs
        Record(states.ACTIVE, [states.UNRESCUING]),
        RescueDisksGone(),   # the rescue system's disks are removed
        Finish(),            # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore([states.UNRESCUING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.UNRESCUING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
