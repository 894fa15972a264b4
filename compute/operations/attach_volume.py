"""attach_volume: a guest gets a volume, while it runs or is off (attach_volume)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import MagnetarError
from compute.model import mappings, wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish
from compute.steps.volumes import Completed, Connection, Shown, Unreserved, VolumeIn, Wanted


class AttachVolume(Operation):
    """Until ``record`` everything can be undone, unless the guest does not let go of the volume.
    Undone, the volume is given back and its mapping goes, whoever was waiting."""

    verb = "attach_volume"
    event = "compute_attach_volume"
    steps = (
        Admission(),   # the guest is still here, and nothing else was asked of it
        Event(),       # the tenant sees that it began
        Wanted(),      # which volume it is, and that the guest has it not
        Connection(),  # this host reaches it
        VolumeIn(),    # in the running guest, and in its definition
        Completed(),   # in use, says the volume service
        Shown(),       # its mapping is true, its tag is told
        Finish(),      # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Unreserved(), Finish())

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
        mappings.volume(mappings.required(request["args"], "bdm"))

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        fault, unreserved, finish = self.conclusion
        return (unreserved,) if error.code in OVERTAKEN else (fault, unreserved, finish)
