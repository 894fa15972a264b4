"""Every call that an operation makes to the world outside, and everything that can become of it.

An undisturbed run is recorded first: each call of the driver, the conductor and the networks, in
order. Then one case for each call and each outcome; the operation is carried on, restarted after a
kill, until all is at rest.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from compute.engine import crashpoints
from compute.engine.world import World
from compute.errors import Failed, MagnetarError, Retryable, Unknown
from compute.model import states
from compute.operator.verbs import OperatorVerbs
from compute.recovery.reconcile import Reconciler
from db.journal import OperationRow, rows
from tests import fakes
from tests.crash import devices, matrix
from tests.simulation.clock import FakeClock
from tests.simulation.manager import SteppedManager
from virt.fake import FakeDriver

# Calls that would do harm while the guest runs.
UNSAFE = ("driver.undefine", "driver.delete_disks", "driver.quarantine_disks",
          "conductor.build_instances")
NOT_AN_AGENTS = ("add", "set")  # what tests do with the control plane's record


class Fate(enum.Enum):
    """What becomes of one call."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    RETRYABLE = "retryable before"
    ANSWER_LOST = "answer lost"
    FAILED = "failed before"

    @property
    def kills(self) -> bool:
        return self in (Fate.KILLED_BEFORE, Fate.KILLED_AFTER)

    @property
    def when(self) -> str:
        return "after" if self in (Fate.KILLED_AFTER, Fate.ANSWER_LOST) else "before"

    def error(self) -> MagnetarError:
        """What the caller gets to see."""
        return {
            Fate.RETRYABLE: Retryable("It does not answer now.", code="unreachable"),
            Fate.ANSWER_LOST: Unknown("The answer was lost.", code="timeout"),
            Fate.FAILED: Failed("It was made to fail.", code="made_to_fail"),
        }[self]


@dataclass(frozen=True)
class Way:
    """A way through an operation: straight, or ``fail_at`` fails it so that it is undone."""

    verb: str
    fail_at: str | None = None
    code: str = "made_to_fail"


@dataclass(frozen=True)
class CallCase:
    """The ``number``-th call of ``call`` (port.method) on a way meets its fate."""

    way: Way
    call: str
    number: int
    fate: Fate

    @property
    def id(self) -> str:
        """The case as a test's name."""
        back = f"undoing_{self.way.code}_" if self.way.fail_at else ""
        return (f"{self.way.verb}_{back}{self.call}_{self.number}_{self.fate.value}"
                .replace(".", "_").replace(" ", "_"))


def ways(verb: str) -> Iterator[Way]:
    """The straight way; and if the operation can be undone, failed at the last step that can."""
    yield Way(verb)
    failing = matrix.failing_point(matrix.OPERATIONS[verb])
    if failing:
        yield Way(verb, failing)
        if verb == "spawn":
            yield Way(verb, failing, "image_unacceptable")


class Tap:
    """Sits on all ports: writes the calls down, and lets one of them meet its fate, once."""

    def __init__(self, case: CallCase | None = None):
        self.case = case
        self.calls: list[str] = []
        self.met = False
        self.unsafe: list[str] = []
        self._driver: FakeDriver | None = None

    def __call__(self, call: str, when: str) -> None:
        if when == "before":
            self.calls.append(call)
            self._see_safe(call)
        case = self.case
        if case is None or self.met or (call, when) != (case.call, case.fate.when):
            return
        if self.calls.count(call) != case.number:
            return
        self.met = True
        if case.fate.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        raise case.fate.error()

    def _see_safe(self, call: str) -> None:
        """No guest loses its disks or its definition while it runs, and no build is handed on while
        something of it is left here."""
        if call not in UNSAFE:
            return
        power, root = power_state(self._driver), self._driver.root / matrix.GUEST
        if power == states.RUNNING:
            self.unsafe.append(f"{call} while the guest runs")
        elif call == "conductor.build_instances" and (power is not None or root.exists()):
            self.unsafe.append("handed back while something of it is here")

    def world(self, root: pathlib.Path) -> World:
        """A world in ``root`` with this tap on its ports."""
        def conductor(when: str) -> Callable[[str], None]:
            def hook(method: str) -> None:
                if method not in NOT_AN_AGENTS:
                    self(f"conductor.{method}", when)
            return hook

        made = devices.offer(fakes.world(
            root, clock=FakeClock(), fail=conductor("before"), after=conductor("after"),
            image_hook=lambda method, when: self(f"images.{method}", when),
            network_hook=lambda method, when: self(f"networks.{method}", when),
            volume_hook=lambda method, when: self(f"volumes.{method}", when)))
        self._driver = made.driver
        made.driver.hook = lambda method, when: self(f"driver.{method}", when)
        return made


def power_state(driver: FakeDriver) -> int | None:
    """What the guest does, without a call that anybody would notice."""
    path = driver.domains / f"{matrix.GUEST}.json"
    return json.loads(path.read_bytes())["power_state"] if path.exists() else None


def accept(world: World, way: Way, args: dict) -> tuple[SteppedManager, OperationRow]:
    """Ask for the operation."""
    failed = []

    def hook(point: str) -> None:
        if point == way.fail_at and not failed:
            failed.append(point)
            raise Failed("This step was made to fail.", code=way.code)

    crashpoints.arm(hook)
    manager = SteppedManager(world)
    row = manager.accept(way.verb, matrix.GUEST, matrix.CONTEXT["request_id"], args,
                         matrix.CONTEXT)
    return manager, row


@functools.cache
def recorded(way: Way) -> tuple[str, ...]:
    """The calls of an undisturbed run, in order."""
    tap = Tap()
    with matrix.room() as root, disarmed():
        args = matrix.prepare(root, way.verb)
        manager, row = accept(tap.world(root), way, args)
        manager.drain()
        ended = manager.world.journal.get(row.id)
        assert ended.state == (rows.UNDONE if way.fail_at else rows.DONE), ended
    return tuple(tap.calls)


@contextlib.contextmanager
def disarmed() -> Iterator[None]:
    """Leaves no crash point armed in this process."""
    try:
        yield
    finally:
        crashpoints.arm(None)


def cases(verb: str) -> Iterator[CallCase]:
    """One for each call and fate. On the way back only calls that the straight way does not make
    in the same place: those from the failing step on."""
    straight = recorded(Way(verb))
    for way in ways(verb):
        calls = recorded(way)
        common = 0
        if way.fail_at:
            common = next((n for n, (a, b) in enumerate(zip(calls, straight, strict=False))
                           if a != b), min(len(calls), len(straight)))
        for position, call in enumerate(calls):
            if position >= common:
                for fate in Fate:
                    yield CallCase(way, call, calls[: position + 1].count(call), fate)


@dataclass(frozen=True)
class Ending:
    """How a case ended: the operation's row, what an operator was told to run, what was done that
    could have done harm, and the rest."""

    row: OperationRow
    commands: list[str]
    met: bool
    unsafe: list[str]
    outcome: matrix.Outcome


def run(case: CallCase) -> Ending:
    """Carry out one case from nothing to rest."""
    with matrix.room() as root, disarmed():
        args = matrix.prepare(root, case.way.verb)
        if case.fate.kills:
            met, tap = _killed(root, case, args), Tap()
            manager = SteppedManager(tap.world(root))
        else:
            tap = Tap(case)
            manager, _ = accept(tap.world(root), case.way, args)
            manager.drain()
            met = tap.met
        reconciler = matrix.recover(manager, _drain)
        commands = _obey(reconciler)
        row = next(r for r in manager.world.journal.find()
                   if r.request_id == matrix.CONTEXT["request_id"])
        manager.world.journal.engine.dispose()
        return Ending(row, commands, met, tap.unsafe,
                      matrix.outcome(root, killed=case.fate.kills))


def _killed(root: pathlib.Path, case: CallCase, args: dict) -> bool:
    def work() -> None:
        manager, _ = accept(Tap(case).world(root), case.way, args)
        manager.drain()

    return os.WIFSIGNALED(matrix.child(work))


def _drain(manager: SteppedManager, end: float) -> None:
    manager.drain()


def _obey(reconciler: Reconciler) -> list[str]:
    """Run the command that each operation in need of an operator states; returns the commands."""
    commands = []
    for row in reconciler.world.journal.find(active=True):
        commands.append((row.error or {}).get("next", ""))
        if f"magnetar op resolve {row.id} --as retry" in commands[-1]:
            OperatorVerbs(reconciler, {}).op_resolve(row.id, "retry")
    if commands:
        matrix.settle(reconciler, _drain)
    return commands
