"""resize_revert: remove a resized guest, for its former host to bring back what it was
(revert_resize, destination)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.model import states, wire
from compute.steps.handover import HandOver
from compute.steps.migration_record import Moving
from compute.steps.record import Event, Fault, Finish
from compute.steps.resize_ends import NewGone, OffToGo, Quiet, Reverted, StillResized, WayBack


def for_the_source(run: Run) -> dict[str, Any]:
    """What finish_revert_resize takes."""
    return {"request_spec": run.request["args"].get("request_spec")}


class ResizeRevert(Operation):
    """Once the source is known to have the former disks, what the guest wrote since is given up:
    from ``off`` it only goes forward."""

    verb = "resize_revert"
    event = "compute_revert_resize"
    steps = (
        Moving((states.RESIZE_REVERTING,), ("reverting", "finished", "reverted"),
               "dest_compute", "dest_compute"),
        Event(),            # the tenant sees that it began
        WayBack(),          # the former disks are there
        Quiet("shutdown"),  # asked, if its disks are kept
        OffToGo(),          # it stops
        NewGone(),          # domain, interfaces and disks of the new size
        Reverted(),         # the record has the guest on its former host
        HandOver("finish_revert_resize", "resize_back", "source_compute", for_the_source),
        Finish(),           # the tenant sees that it ended
    )
    final = "off"
    conclusion = (Fault(), StillResized(), Finish())
    silent = OVERTAKEN
    opens = "handover"
    adopts = frozenset({states.RESIZE_REVERTING})
    pool = "moves"

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
        if "migration" in request["args"]:  # else the message was lost
            wire.require(request["args"], "migration", "Migration")

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        return None if fields.get("power_state") == states.NOSTATE else {}
