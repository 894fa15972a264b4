"""unpause: a paused guest goes on (unpause_instance).

Reconciliation asks for it as well, for a guest that QEMU paused because its storage failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish, Record, Restore
from compute.steps.sleep import Time
from compute.steps.sleep import Unpause as Unpaused


class Unpause(Operation):
    """A guest that runs already goes on running."""

    verb = "unpause"
    event = "compute_unpause_instance"
    steps = (
        Admission(),   # the guest is still to go on
        Event(),       # the tenant sees that it began
        Unpaused(),    # its CPUs go on
        Time(),        # its clock, where an agent answers
        Record(states.ACTIVE, [states.UNPAUSING]),
        Finish(),      # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore([states.UNPAUSING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.UNPAUSING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
