"""pause: the guest's CPUs stand, its memory stays (pause_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish, Record, Restore
from compute.steps.sleep import Pause as Paused


class Pause(Operation):
    """A guest that is paused already stays so."""

    verb = "pause"
    event = "compute_pause_instance"
    steps = (
        Admission(),   # the pause is still wanted
        Event(),       # the tenant sees that it began
        Paused(),      # its CPUs stand
        Record(states.PAUSED, [states.PAUSING]),
        Finish(),      # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore([states.PAUSING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.PAUSING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
