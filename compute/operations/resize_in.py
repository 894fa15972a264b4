"""resize_in: bring a guest up at its new size or host (finish_resize, destination)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import MagnetarError
from compute.model import states, wire
from compute.steps.migration_record import MigrationEnds, Moving
from compute.steps.record import Event, Fault, Finish
from compute.steps.resize_arrive import (
    Arrived,
    Base,
    Bound,
    Copied,
    HandBack,
    PowerAsBefore,
    Resized,
    Sized,
)


class ResizeIn(Operation):
    """Until ``record`` it can be undone: then the guest goes back, and its host starts it with its
    former flavor from the disks that were set aside."""

    verb = "resize_in"
    event = "compute_finish_resize"
    steps = (
        Moving((states.RESIZE_MIGRATED,), ("post-migrating",), "dest_compute", "dest_compute"),
        Event(),          # the tenant sees that it began
        Sized(),          # the new flavor; resize_finish
        Bound(),          # its ports and networks are here
        Base(),           # the image that overlays refer to
        Copied(),         # disks, at their new size
        Arrived(),        # defined
        PowerAsBefore(),  # running, if it ran
        Resized(),        # resized
        Finish(),         # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), MigrationEnds("error"), HandBack(), Finish())
    silent = OVERTAKEN
    pool = "moves"

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        wire.require(args, "migration", "Migration")
        if not isinstance(args.get("disk_info"), str):
            raise wire.malformed("Argument 'disk_info' has to be JSON text.")

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        if error.code not in self.silent:
            return self.conclusion
        began = run.outcome("admission") is not None  # else the message was not for us
        return self.conclusion[1:2] if began else ()
