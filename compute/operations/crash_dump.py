"""crash_dump: interrupt a guest so that its kernel writes a dump of itself (trigger_crash_dump)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.nmi import Nmi
from compute.steps.record import Event, Fault, Finish


class CrashDump(Operation):
    """What the guest makes of it is the guest's matter; its states do not change."""

    verb = "crash_dump"
    event = "compute_trigger_crash_dump"
    steps = (
        Admission(),   # the guest is still here
        Event(),       # the tenant sees that it began
        Nmi(),         # the guest is interrupted, once
        Finish(),      # the tenant sees that it ended
    )
    final = "finish"
    conclusion = (Fault(), Finish())
    silent = OVERTAKEN
    opens = "finish"

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
