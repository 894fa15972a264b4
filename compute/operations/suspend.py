"""suspend: a guest's memory is written to disk, and the guest stopped (suspend_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish
from compute.steps.sleep import Save, Suspended, Unharmed, Unplug


class Suspend(Operation):
    """Undone, the guest goes on from its memory with all its devices, as if nothing had been."""

    verb = "suspend"
    event = "compute_suspend_instance"
    steps = (
        Admission(),   # the suspend is still wanted
        Event(),       # the tenant sees that it began
        Unplug(),      # what cannot be saved is taken out, and written down
        Save(),        # its memory is on disk, and it is off
        Suspended(),   # suspended, with what it was before
        Finish(),      # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Unharmed([states.SUSPENDING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.SUSPENDING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
