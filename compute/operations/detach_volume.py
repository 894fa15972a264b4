"""detach_volume: a volume is taken out of a guest, and given back (detach_volume)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import MagnetarError
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish
from compute.steps.volumes import (
    Condemned,
    Disconnected,
    Returned,
    StillAttached,
    Unshown,
    VolumeOut,
)


class DetachVolume(Operation):
    """Until ``connection`` a guest that does not let go of it keeps the volume."""

    verb = "detach_volume"
    event = "compute_detach_volume"
    steps = (
        Admission(),     # the guest is still here, and nothing else was asked of it
        Event(),         # the tenant sees that it began
        Condemned(),     # which volume it is
        VolumeOut(),     # out of the definition, and out of the running guest
        Disconnected(),  # this host does not reach it any more
        Returned(),      # the volume service has it back
        Unshown(),       # no mapping, no tag, no claim
        Finish(),        # the tenant sees that it ended
    )
    final = "connection"
    conclusion = (Fault(), StillAttached(), Finish())

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if not isinstance(args.get("volume_id"), str) or not args["volume_id"]:
            raise wire.malformed("Argument 'volume_id' has to be a volume's id.")
        if not isinstance(args.get("attachment_id"), str | None):
            raise wire.malformed("Argument 'attachment_id' has to be text or null.")

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        fault, still, finish = self.conclusion
        return (still,) if error.code in OVERTAKEN else (fault, still, finish)
