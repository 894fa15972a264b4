"""One operation being carried out: what its steps see."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

from compute.engine.clock import poll
from compute.engine.operation import Operation
from compute.engine.world import Context, World
from compute.errors import Aborted, Failed, Parked, Refused, Unknown
from compute.model import wire
from compute.model.guest import Guest
from compute.rpc.primitives import Primitive, clean
from db.journal import OperationRow, rows

UNLIMITED = float("inf")


class Signals:
    """How a running operation is told to abort or to park; shared with the manager."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.parked = False
        self.abort: str | None = None
        self.again = False  # its state was changed from outside while a worker had it


class Run:
    """The view that steps have of their operation.

    ``instance`` is the newest known Instance primitive, ``guest`` the same as a dataclass.
    """

    def __init__(self, world: World, operation: Operation, row: OperationRow,
                 signals: Signals | None = None):
        self.world, self.operation, self.row = world, operation, row
        self.signals = signals or Signals()
        self.request = row.request
        self._outcomes: dict[str, Any] = {}
        self._instance: Primitive | None = None
        self.resumed = row.steps_done > 0 or row.step is not None
        self.committed = False  # past the point of no return

    # -- what the request says ----------------------------------------------------------------
    @cached_property
    def context(self) -> Context:
        """The caller's request context, with its token if the secrets store still has it."""
        return {**self.request.get("context", {}),
                **self.world.secrets.load(self.row.id, "context")}

    @property
    def instance(self) -> Primitive:
        """The Instance: as sent with the request, or re-read after a restart."""
        if self._instance is None:
            self._instance = self._reread() if self.resumed else self.request["args"]["instance"]
        return self._instance

    @instance.setter
    def instance(self, prim: Primitive) -> None:
        self._instance = clean(prim)
        self.__dict__.pop("guest", None)

    def _reread(self) -> Primitive:
        try:
            return self.world.conductor.instance(self.context, self.row.guest)
        except Refused as error:
            if error.code != "guest_not_found":
                raise
            return self.request["args"]["instance"]  # removing goes on with what was sent

    @cached_property
    def guest(self) -> Guest:
        """The guest as operations work with it."""
        return wire.guest(self.instance, self.request.get("args", {}).get("image"),
                          self.world.conf.instance_name_template)

    def save(self, changes: dict[str, Any], **expected: Any) -> None:
        """Save fields of the Instance by compare-and-swap, and remember the answer."""
        self.instance = self.world.conductor.save(
            self.context, self.instance, changes, **expected)

    # -- journal ------------------------------------------------------------------------------
    def outcome(self, step: str) -> Any:
        """What an earlier step returned, also after a restart; None if it did not run."""
        return self._outcomes.get(step)

    def remember(self, step: str, outcome: Any) -> None:
        self._outcomes[step] = outcome

    def say(self, message: str) -> None:
        """One line of progress for people, shown by 'op list' and '--wait'."""
        self.world.journal.update(self.row.id, message=message)

    # -- time, abort and parking --------------------------------------------------------------
    @property
    def undoing(self) -> bool:
        return self.row.state in (rows.UNDOING, rows.CONCLUDING)

    def check(self) -> None:
        """Called at every step border and in every wait.

        :raises Parked: the agent is stopping.
        :raises Aborted: the operation was told to stop, and still can.
        :raises Failed: code ``deadline``: its time is up, and it still can be undone.
        """
        if self.signals.parked:
            raise Parked()
        if self.committed or self.undoing:
            return
        if self.signals.abort:
            raise Aborted(f"The {self.row.verb} was stopped: {self.signals.abort}.")
        if self.row.deadline and self.world.clock.now() > self.row.deadline:
            raise Failed(f"The {self.row.verb} took longer than its limit.", code="deadline")

    def wait(self, check: Callable[[], bool], seconds: float, *, heed: bool = True) -> bool:
        """Wait until ``check`` is true, for ``seconds`` at most; says which. Events of this guest
        make it look at once.

        :param heed: end the wait when the operation is told to abort; without it only parking
            ends it, for a step that decides itself what an abort means now.
        """

        def look() -> bool:
            if heed:
                self.check()
            elif self.signals.parked:
                raise Parked()
            return check()

        return poll(self.world.clock, look, self.world.clock.now() + seconds,
                    wake=self.signals.wake)

    def must(self, check: Callable[[], bool], seconds: float, what: str) -> None:
        """Like :meth:`wait`, but a timeout raises Unknown naming ``what``."""
        if not self.wait(check, seconds):
            raise Unknown(f"{what} was not seen within {seconds:g} s.", code="timeout")
