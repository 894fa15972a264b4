"""An operation: one verb, with a literal list of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compute.engine import crashpoints
from compute.engine.step import Step
from compute.errors import MagnetarError
from db.journal import StepRow, rows

if TYPE_CHECKING:
    from compute.engine.run import Run


# The control plane changed the guest meanwhile, deletes it, or has it no more.
OVERTAKEN = frozenset({"stale", "guest_not_found", "deleting"})


class Operation:
    """Base of all verbs.

    ``verb`` is its name, ``event`` the InstanceActionEvent that Nova's users know it by.
    ``steps`` is what it does, in order. ``final`` names the step that is the point of no return:
    once it is intended the operation only goes forward. ``conclusion`` is what is told to the
    control plane after everything was undone.
    """

    verb = ""
    event = ""
    steps: tuple[Step, ...] = ()
    final = ""
    conclusion: tuple[Step, ...] = ()
    # Codes of errors after which nobody waits for a word of ours.
    silent: frozenset[str] = frozenset()
    preempts = False  # whether it makes the guest's running operation abort
    # The step from which on other requests for the guest wait instead of being refused as busy.
    opens = "record"
    # Task states under which it is done although its message was lost.
    adopts: frozenset[str] = frozenset()
    pool = "operations"  # or "moves", whose operations mostly wait

    def seconds(self, conf: Any) -> float | None:
        """How long it may take before it is undone; None for no limit."""
        return None

    def event_name(self, request: Mapping[str, Any]) -> str:
        """The InstanceActionEvent's name for a request."""
        return self.event

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise Refused if the request cannot be understood. Touches nothing."""

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """Arguments for a request whose message was lost, besides the Instance; None when the
        record (Instance fields) does not tell them, or this verb does not fit it."""
        return {}

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        """Which conclusion steps to run for this error: all of them, unless it is a silent one."""
        return () if error.code in self.silent else self.conclusion

    def committed(self, begun: Iterable[StepRow]) -> bool:
        """Whether an operation with these steps begun is past its point of no return."""
        decided = {step.name for step in self.steps if step.decides}
        return any(row.phase == rows.FORWARD and (
            row.name == self.final or row.name in decided and row.state == rows.STEP_DONE)
            for row in begun)

    def undoable(self) -> tuple[Step, ...]:
        """The steps before the point of no return."""
        names = [step.name for step in self.steps]
        return self.steps[: names.index(self.final)] if self.final else self.steps

    def crash_points(self) -> Iterator[str]:
        """Names of all crash points that this operation passes, on any way that it can take."""
        undoable = self.undoable()
        for border in crashpoints.BORDERS:
            yield f"{self.verb}.operation.{border}"
        for step in self.steps:
            forward = crashpoints.FORWARD if step.completes else crashpoints.BEGUN
            backward = crashpoints.BACKWARD if step in undoable else ()
            for point in (*forward, *backward):
                yield f"{self.verb}.{step.name}.{point}"
        for step in self.conclusion:
            for point in crashpoints.FORWARD:
                yield f"{self.verb}.conclude-{step.name}.{point}"
