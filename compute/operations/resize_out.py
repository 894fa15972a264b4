"""resize_out: stop a guest and set its disks aside, for its new size or host to take them
(resize_instance, source)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import MagnetarError
from compute.model import states, wire
from compute.steps.handover import HandOver
from compute.steps.migration_record import MigrationEnds
from compute.steps.record import Event, Fault, Finish
from compute.steps.resize import (
    Aside,
    Begun,
    Fits,
    Halt,
    Leave,
    Leaving,
    Off,
    Returned,
    Vacate,
)

TASKS = [states.RESIZE_PREP, states.RESIZE_MIGRATING]


def for_the_destination(run: Run) -> dict[str, Any]:
    """What finish_resize takes; ``disk_info`` is JSON text, as on Nova's wire."""
    args, facts = run.request["args"], run.outcome("check")
    return {"disk_info": json.dumps(facts), "image": args.get("image"),
            "request_spec": args.get("request_spec")}


class ResizeOut(Operation):
    """Until ``leave`` was saved everything can be undone: the disks come back and the guest is
    started again. From there it is the destination's."""

    verb = "resize_out"
    event = "compute_resize_instance"
    steps = (
        Leaving((states.RESIZE_PREP,), ("pre-migrating",), "source_compute", "source_compute"),
        Event(),            # the tenant sees that it began
        Fits(),             # nothing would have to shrink
        Begun(),            # resize_migrating
        Halt("shutdown"),   # asked, and given time
        Off(),              # forced, if it still runs
        Aside(),            # the disks are renamed
        Leave(),            # the record has the guest on the destination
        HandOver("finish_resize", "resize_in", "dest_compute", for_the_destination),
        Vacate(),           # nothing but the disks aside stays on a host that it left
        Finish(),           # the tenant sees that it ended
    )
    final = "handover"
    conclusion = (Fault(), MigrationEnds("error"), Returned(list(TASKS)), Finish())
    silent = OVERTAKEN
    opens = "handover"
    adopts = frozenset({states.RESIZE_PREP})
    pool = "moves"

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if "migration" in args:  # else the message was lost
            wire.require(args, "migration", "Migration")
        if args.get("flavor") is not None:
            wire.flavor(wire.require(args, "flavor", "Flavor"))

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        if error.code not in self.silent:
            return self.conclusion
        began = run.outcome("admission") is not None  # else the message was not for us
        return self.conclusion[1:2] if began else ()
