"""unsupported: answer a cast that this version cannot carry out.

As Nova's agent does when its driver cannot: no task any more, the states as they were, a fault and
a failed event, so that the tenant can go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model.wire import instance_of
from compute.rpc.primitives import data
from compute.steps.record import Event, Fault, Finish, publish


class Refuse(Step):
    """Always refuses, naming the method."""

    name = "refuse"
    completes = False

    def do(self, run: Run) -> None:
        method = run.request["args"]["method"]
        raise Refused(f"{method} is not implemented by this compute service (NotImplementedError).",
                      now="The guest was not touched.", next="Use another way to reach the same.",
                      code="not_implemented")


class NoTask(Step):
    """Clear the task_state that came with the message, if it is still set."""

    name = "restore"
    attempts = 1_000_000

    def do(self, run: Run) -> None:
        task = data(run.request["args"]["instance"]).get("task_state")
        if task is not None:
            publish(run, {"task_state": None}, [task])


class Unsupported(Operation):
    """Refuses, and says so where the tenant looks."""

    verb = "unsupported"
    event = "compute_unsupported"
    steps = (Event(), Refuse())
    conclusion = (Fault(), NoTask(), Finish())

    def check(self, request: Mapping[str, Any]) -> None:
        instance_of(request["args"])

    def event_name(self, request: Mapping[str, Any]) -> str:
        return f"compute_{request['args']['method']}"
