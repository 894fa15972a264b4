"""Made-up operations on a world of fakes, and a clock that tests own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import fixtures
import testtools

from compute.engine.operation import Operation
from compute.engine.run import Run, Signals
from compute.engine.runner import Runner
from compute.engine.step import Probe, Step
from compute.manager import Manager
from db.journal import OperationRow
from tests import fakes
from tests.waiting import PATIENCE

GUEST = "aaaaaaaa-0000-4000-8000-000000000001"


class TestClock:
    """Time that passes only when somebody waits."""

    def __init__(self, start: float = 1_000_000.0):
        self.time = start
        self.waited: list[float] = []

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, wake: threading.Event | None = None) -> None:
        if wake is not None and wake.is_set():
            return
        self.waited.append(seconds)
        self.time += seconds


class Say(Step):
    """A step that notes what is done with it, and does what it is told.

    :param script: errors to raise by the part that raises them (``do``, ``undo``, ``settle``),
        one after the other; None lets it pass.
    """

    def __init__(self, name: str, said: list[str], **script: list[Exception | None]):
        self.name, self.said, self.script = name, said, script
        self.answer: Probe | Exception = Probe.NO
        self.during: Callable[[Run], None] = lambda run: None

    def _part(self, part: str) -> None:
        self.said.append(f"{part} {self.name}")
        errors = self.script.get(part) or [None]
        error = errors.pop(0) if len(errors) > 1 else errors[0]
        if error is not None:
            raise error

    def claims(self, run: Run) -> list:
        return [("disks", f"{run.row.guest}/{self.name}", {})]

    def before(self, run: Run) -> dict:
        return {"was": self.name}

    def probe(self, run: Run) -> Probe:
        self._part("probe")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def do(self, run: Run) -> Any:
        self.during(run)
        self._part("do")
        return {"made": self.name}

    def settle(self, run: Run) -> None:
        if "settle" in self.script:
            self._part("settle")

    def undo(self, run: Run, data: Any) -> None:
        if data != {"was": self.name}:
            raise AssertionError(f"undo data of another step: {data}")
        self._part("undo")


class Verb(Operation):
    """An operation made of given steps."""

    def __init__(self, verb: str, steps: list[Step], final: str = "", conclusion: tuple = (),
                 preempts: bool = False, limit: float | None = None):
        self.verb, self.event, self.steps = verb, f"compute_{verb}", tuple(steps)
        self.final, self.conclusion, self.preempts = final, conclusion, preempts
        self.limit = limit

    def seconds(self, conf: Any) -> float | None:
        return self.limit


class EngineTest(testtools.TestCase):
    """A world, and what the steps said."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.root = self.useFixture(fixtures.TempDir()).path
        self.clock = TestClock()
        self.world = fakes.world(self.root, clock=self.clock)
        self.addCleanup(self.world.journal.engine.dispose)
        self.journal = self.world.journal
        self.said: list[str] = []

    def step(self, name: str, **script: list[Exception | None]) -> Say:
        return Say(name, self.said, **script)

    def row(self, verb: str = "act", request_id: str = "req", **request: Any) -> OperationRow:
        return self.journal.accept(verb, GUEST, request_id,
                                   {"args": {}, "context": {}, **request})[0]

    def runner(self, operation: Operation, row: OperationRow | None = None,
               signals: Signals | None = None) -> Runner:
        row = row or self.row(operation.verb)
        return Runner(Run(self.world, operation, self.journal.get(row.id), signals))

    def run_it(self, operation: Operation, row: OperationRow | None = None,
               signals: Signals | None = None) -> OperationRow:
        """Carry it out on this thread as far as it goes; returns its row."""
        runner = self.runner(operation, row, signals)
        runner.to_end()
        return self.journal.get(runner.run.row.id)

    def states(self, row: OperationRow) -> dict[str, str]:
        return {f"{s.phase}:{s.name}": s.state for s in self.journal.steps(row.id)}

    def manager(self, *operations: Operation, **kwargs: Any) -> Manager:
        """A manager of these operations; it is parked with the test."""
        made = Manager(self.world, 2, {o.verb: o for o in operations}, **kwargs)
        self.addCleanup(made.park, PATIENCE)
        return made
