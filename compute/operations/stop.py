"""stop: shut a guest down, cleanly if it will (stop_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.domain import PowerOff, Shutdown
from compute.steps.record import Event, Fault, Finish, Record, Restore

TASKS = [states.POWERING_OFF, None]


class Stop(Operation):
    """A guest that does not shut down within its time is powered off."""

    verb = "stop"
    event = "compute_stop_instance"
    steps = (
        Admission(),            # the stop is still wanted
        Event(),                # the tenant sees that it began
        Shutdown("shutdown"),   # asked, and given time
        PowerOff(),             # forced, if it still runs
        Record(states.STOPPED, TASKS),
        Finish(),               # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore(TASKS), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.POWERING_OFF})

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if not isinstance(args.get("clean_shutdown", True), bool):
            raise wire.malformed("Argument 'clean_shutdown' has to be true or false.")
