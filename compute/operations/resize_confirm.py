"""resize_confirm: give up the way back (confirm_resize, source)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import Operation
from compute.model import states, wire
from compute.steps.record import Event, Finish
from compute.steps.resize_ends import AsideGone, Cleared, Confirmed, Confirming


class ResizeConfirm(Operation):
    """From ``aside`` it only goes forward. The guest is never touched, and never in error for what
    cannot be cleaned up here: that is tried again."""

    verb = "resize_confirm"
    event = "compute_confirm_resize"
    steps = (
        Confirming((None, states.RESIZE_CONFIRMING, states.DELETING, "soft-deleting"),
                   ("finished", "confirming"), "source_compute", "dest_compute", if_gone=True),
        Event(),      # the tenant sees that it began
        AsideGone(),  # the former disks
        Cleared(),    # what else was left, and the room
        Confirmed(),  # active or stopped
        Finish(),     # the tenant sees that it ended
    )
    final = "aside"
    conclusion = (Finish(),)
    silent = frozenset({"stale"})
    adopts = frozenset({states.RESIZE_CONFIRMING})
    pool = "moves"

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
        if "migration" in request["args"]:  # else the message was lost
            wire.require(request["args"], "migration", "Migration")
