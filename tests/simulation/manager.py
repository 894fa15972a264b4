"""The manager without its threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from sqlalchemy.exc import SQLAlchemyError

from compute.engine.operation import Operation
from compute.engine.run import Run, Signals
from compute.engine.runner import Runner
from compute.engine.world import World
from compute.errors import Parked
from compute.manager import Manager
from compute.operations import OPERATIONS
from db.journal import OperationRow


class SteppedManager(Manager):
    """Whoever owns it says which operation does its next thing, and when.

    Accepting, aborting, waking and what follows an end are the manager's own; only the worker is
    taken apart, into one :meth:`step` for each ``Runner.advance()``.
    """

    def __init__(self, world: World, operations: Mapping[str, Operation] = OPERATIONS,
                 ended: Callable[[OperationRow], None] = lambda row: None):
        super().__init__(world, 1, operations, ended)
        self._runners: dict[str, Runner | None] = {}
        self._due: dict[str, float] = {}
        self._stepping: set[str] = set()

    def start(self, row: OperationRow) -> None:
        """Keep an active operation to be stepped, unless it is."""
        if self._parked or row.id in self._signals:
            return
        self._signals[row.id] = signals = Signals()
        signals.abort = row.abort
        self._runners[row.id] = None
        self._due[row.id] = self.world.clock.now()

    def due(self) -> dict[str, float]:
        """When each operation may do its next thing; those in the middle of one are left out."""
        now = self.world.clock.now()
        return {operation: min(time, now) if self._signals[operation].wake.is_set() else time
                for operation, time in self._due.items() if operation not in self._stepping}

    def step(self, operation: str) -> None:
        """Let an operation do one thing."""
        signals = self._signals[operation]
        signals.wake.clear()
        self._stepping.add(operation)
        try:
            runner = self._runners[operation] or self._take(operation, signals)
            delay = runner.advance() if runner is not None else None
        except (Parked, SQLAlchemyError):  # without a journal the worker stops
            delay, runner = None, self._runners[operation]
        finally:
            self._stepping.discard(operation)
        if delay is not None:
            self._due[operation] = self.world.clock.now() + delay
            return
        del self._signals[operation], self._runners[operation], self._due[operation]
        with contextlib.suppress(SQLAlchemyError):
            if runner is not None:
                self._after(runner.run.row)
            else:
                self._again_if_free(operation)

    def describe(self, operation: str) -> str:
        """Where an operation is, for a log."""
        runner = self._runners[operation]
        if runner is None:
            return f"{operation[:4]} is taken up"
        row = runner.run.row
        return f"{row.verb} {row.guest[:8]} {row.state} {row.step or ''}"

    def _take(self, operation: str, signals: Signals) -> Runner | None:
        if not self.world.journal.take_lock(operation):
            return None
        row = self.world.journal.get(operation)
        runner = Runner(Run(self.world, self.operations[row.verb], row, signals))
        self._runners[operation] = runner
        return runner

    def drain(self) -> None:
        """Step until no operation is left to be stepped; time passes while all of them wait."""
        while due := self.due():
            operation = min(due, key=lambda o: due[o])
            self.world.clock.wait(max(due[operation] - self.world.clock.now(), 0))
            self.step(operation)
