"""unquiesce: a guest's file systems go on (unquiesce_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.inside import Thaw


class Unquiesce(Operation):
    """A guest whose agent does not answer is asked again later, by reconciliation."""

    verb = "unquiesce"
    steps = (
        Admission(),   # the guest is still here
        Thaw(),        # its agent lets them go on
    )
    silent = OVERTAKEN
    opens = "thaw"

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
