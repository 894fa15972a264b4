"""resize_back: bring a guest back as it was before a resize or cold migration
(finish_revert_resize, source)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.migration_record import Moving
from compute.steps.record import Event, Finish
from compute.steps.resize_arrive import Bound, PowerAsBefore
from compute.steps.resize_ends import Back, BackAgain, DefinedBack, FormerSize


class ResizeBack(Operation):
    """There is no other place for the guest to be: from ``disks`` it only goes forward. Asked for
    by a revert, and by a destination at which the guest could not arrive."""

    verb = "resize_back"
    event = "compute_finish_revert_resize"
    steps = (
        Moving((states.RESIZE_REVERTING,), ("reverted", "reverting", "error"), "source_compute",
               "dest_compute"),
        Event(),          # the tenant sees that it began
        Back(),           # the former disks in their place
        FormerSize(),     # the former flavor, host and node
        Bound(),          # its ports and networks are here
        DefinedBack(),    # defined with its former size
        PowerAsBefore(),  # running, if it ran
        BackAgain(),      # active or stopped
        Finish(),         # the tenant sees that it ended
    )
    final = "disks"
    silent = OVERTAKEN
    adopts = frozenset({states.RESIZE_REVERTING})
    pool = "moves"

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
        if "migration" in request["args"]:  # else the message was lost
            wire.require(request["args"], "migration", "Migration")

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        return {} if fields.get("power_state") == states.NOSTATE else None
