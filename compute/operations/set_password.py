"""set_password: another password for a guest's administrator (set_admin_password)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.inside import Password, PasswordSet
from compute.steps.record import Event, Fault, Finish, Restore

SECONDS = 45.0  # less than the minute that the caller waits


class SetPassword(Operation):
    """Somebody waits for the answer, so it does not take long."""

    verb = "set_password"
    event = "compute_set_admin_password"
    steps = (
        Admission(),     # it is still wanted
        Event(),         # the tenant sees that it began
        Password(),      # the agent in the guest sets it
        PasswordSet(),   # no task any more
        Finish(),        # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore([states.UPDATING_PASSWORD]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.UPDATING_PASSWORD})

    def seconds(self, conf: Any) -> float:
        return SECONDS

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
