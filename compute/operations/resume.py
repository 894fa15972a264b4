"""resume: a suspended guest goes on from its saved memory (resume_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.disks import DisksPresent
from compute.steps.ports import Plug
from compute.steps.record import Event, Fault, Finish
from compute.steps.sleep import Replug, Resumed, Time, Unharmed, Wake


class Resume(Operation):
    """The domain is not defined anew: the saved memory fits the machine that it was saved from.

    Undone before ``devices``, the guest is suspended again, with the memory that it has then.
    """

    verb = "resume"
    event = "compute_resume_instance"
    steps = (
        Admission(),      # the resume is still wanted
        Event(),          # the tenant sees that it began
        DisksPresent(),   # its disks are here
        Plug(),           # its networks are here
        Wake(),           # it goes on from its memory
        Replug(),         # devices that were taken out are back
        Time(),           # its clock, where an agent answers
        Resumed(),        # what it was before
        Finish(),         # the tenant sees that it ended
    )
    final = "devices"
    conclusion = (Fault(), Unharmed([states.RESUMING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.RESUMING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
