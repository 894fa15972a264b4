"""extend_volume: a volume grew, and so it does in the guest that has it (external_instance_event).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish
from compute.steps.volume_size import Grown, SizeShown, Which


class ExtendVolume(Operation):
    """Nothing of it is ever undone: the volume has grown, whatever becomes of this."""

    verb = "extend_volume"
    event = "compute_extend_volume"
    steps = (
        Admission(),  # the guest is still here, and nothing else was asked of it
        Event(),      # the tenant sees that it began
        Which(),      # the guest's volume
        Grown(),      # this host and the guest see the new size
        SizeShown(),  # so does the control plane
        Finish(),     # the tenant sees that it ended
    )
    conclusion = (Fault(), Finish())
    silent = OVERTAKEN

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
        if not isinstance(request["args"].get("volume_id"), str):
            raise wire.malformed("Argument 'volume_id' has to be a volume's id.")
