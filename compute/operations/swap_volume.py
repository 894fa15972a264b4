"""swap_volume: another volume in the place of one that a running guest has (swap_volume)."""

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
from compute.steps.volume_swap import (
    Both,
    Copied,
    NewConnection,
    NotSwapped,
    OldGone,
    Pivoted,
    SwapCompleted,
    SwapShown,
)


class SwapVolume(Operation):
    """Can be aborted until ``pivot`` has happened: until then the guest works with the old one."""

    verb = "swap_volume"
    event = "compute_swap_volume"
    pool = "moves"
    steps = (
        Admission(),      # the guest is still here, and nothing else was asked of it
        Event(),          # the tenant sees that it began
        Both(),           # which volumes they are
        NewConnection(),  # this host reaches the new one
        Copied(),         # the new one follows each write to the old one
        Pivoted(),        # the guest works with the new one
        SwapCompleted(),  # it is in use, and the mapping names it
        OldGone(),        # nothing is left of the old one
        SwapShown(),      # under the id with which it goes on
        Finish(),         # the tenant sees that it ended
    )
    final = "complete"
    conclusion = (Fault(), NotSwapped(), Finish())

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        for name in ("old_volume_id", "new_volume_id", "new_attachment_id"):
            if not isinstance(args.get(name), str) or not args[name]:
                raise wire.malformed(f"Argument '{name}' has to be an id.")
        if args["old_volume_id"] == args["new_volume_id"]:
            raise wire.malformed("A volume cannot take its own place.")

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        fault, restore, finish = self.conclusion
        return (restore,) if error.code in OVERTAKEN else (fault, restore, finish)
