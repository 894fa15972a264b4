"""quiesce: a guest's file systems stand still while its disks are copied (quiesce_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.inside import Freeze


class Quiesce(Operation):
    """Until the unquiesce, or for [timeouts] frozen at most."""

    verb = "quiesce"
    steps = (
        Admission(),   # the guest is still here
        Freeze(),      # its agent has them stand still
    )
    silent = OVERTAKEN
    opens = "freeze"

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
