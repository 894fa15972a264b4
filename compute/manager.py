"""Accepts requests: understands them, writes them down, and hands them to a worker.

A cast is acknowledged to the broker before it gets here; from the return of :meth:`accept` on it
can no longer be lost.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from compute.engine.operation import Operation
from compute.engine.run import Run, Signals
from compute.engine.runner import Runner
from compute.engine.world import World
from compute.errors import Refused, Retryable
from compute.model import mappings, wire
from compute.operations import OPERATIONS
from db.journal import OperationRow, rows

LOG = logging.getLogger(__name__)
SECRET_ARGS = {"admin_password": "admin_pass", "rescue_password": "admin_pass",
               "new_pass": "admin_pass", "injected_files": "files", "contents": "contents"}
SECRET_CONTEXT = ("auth_token",)
MAPPINGS = ("bdm", "bdms", "block_device_mapping")  # may tell of connections what is secret
NOT_KEPT_CONTEXT = ("service_catalog",)
MOVES = 64  # workers of moves: most of them wait for a slot or for the hypervisor


class Manager:
    """The operations of one agent.

    :param ended: called with each operation that ended, in its worker.
    """

    def __init__(self, world: World, workers: int = 10,
                 operations: Mapping[str, Operation] = OPERATIONS,
                 ended: Callable[[OperationRow], None] = lambda row: None):
        self.world, self.operations, self.ended = world, operations, ended
        self._pools = {"operations": ThreadPoolExecutor(workers, thread_name_prefix="operation"),
                       "moves": ThreadPoolExecutor(MOVES, thread_name_prefix="move")}
        self._signals: dict[str, Signals] = {}
        self._guard = threading.Lock()
        self._parked = False

    # -- accepting ----------------------------------------------------------------------------
    def accept(self, verb: str, guest: str, request_id: str, args: Mapping[str, Any],
               context: Mapping[str, Any]) -> OperationRow:
        """Write a request down and start on it.

        :returns: its row; the first one's if the same request came before.
        :raises Refused: it cannot be understood, or the guest is busy. Nothing was done.
        :raises Retryable: code ``journal_unwritable``. Nothing was done.
        """
        operation = self.operations[verb]
        public, secret = split_secrets(args, context)
        operation.check(public)
        seconds = operation.seconds(self.world.conf)
        made = str(uuid.uuid4())
        try:
            for part, values in secret.items():
                self.world.secrets.keep(made, part, values)
            row, new = self.world.journal.accept(
                verb, guest, request_id, public, id=made, preempts=operation.preempts,
                nearly_over=self._nearly_over,
                deadline=self.world.clock.now() + seconds if seconds else None)
        except Exception as error:
            self.world.secrets.forget(made)
            if isinstance(error, OSError | SQLAlchemyError):
                raise not_written(verb, guest, error) from error
            raise
        if not new:
            self.world.secrets.forget(made)
            LOG.info("%s of guest %s was accepted before as operation %s.", verb, guest, row.id)
            return row
        LOG.info("%s of guest %s is accepted as operation %s.", verb, guest, row.id)
        if row.waits_for:
            self._tell_abort(row.waits_for)
        self.start(row)
        return row

    def _nearly_over(self, holder: OperationRow) -> bool:
        """Whether an operation is telling its result or has told it: from then on a tenant may act
        on what he sees, while the operation still tidies up."""
        if holder.state == rows.RUNNING:
            operation = self.operations[holder.verb]
            names = [step.name for step in operation.steps]
            return operation.opens in names and \
                holder.step in names[names.index(operation.opens):]
        return holder.state == rows.CONCLUDING

    def _tell_abort(self, holder: str) -> None:
        held = self.world.journal.get(holder)
        signals = self._signals.get(holder)
        if held is not None and signals is not None:
            signals.abort = held.abort
            signals.wake.set()

    # -- carrying out -------------------------------------------------------------------------
    def start(self, row: OperationRow) -> None:
        """Give an active operation to a worker; one that has it looks again before it goes."""
        with self._guard:
            if self._parked:
                return
            if row.id in self._signals:
                self._signals[row.id].again = True
                return
            self._signals[row.id] = signals = Signals()
        signals.abort = row.abort
        self._pools[self.operations[row.verb].pool].submit(self._work, row.id, signals)

    def _work(self, operation_id: str, signals: Signals) -> None:
        row = None
        try:
            if self.world.journal.take_lock(operation_id):
                row = self.world.journal.row(operation_id)
                Runner(Run(self.world, self.operations[row.verb], row, signals)).to_end()
        except Exception:
            LOG.exception("The worker of operation %s stopped; reconciliation will start it again.",
                          operation_id)
        finally:
            with self._guard:
                self._signals.pop(operation_id, None)
            if row is None:
                self._again_if_free(operation_id)
            elif not (signals.again and self._goes_on(operation_id)):
                self._after(row)

    def _goes_on(self, operation_id: str) -> bool:
        """Start an operation again that was given to its worker just when that one laid it down,
        as one that an operator resolves at once; whether there was something to do."""
        row = self.world.journal.get(operation_id)
        if row is None or not row.active or row.state == rows.NEEDS_OPERATOR:
            return False
        self.start(row)
        return True

    def _again_if_free(self, operation_id: str) -> None:
        """The lock may have been freed just when this operation did not get it; whoever freed it
        saw a worker here and left it alone."""
        row = self.world.journal.get(operation_id)
        if row is not None and row.active and not any(
                other.lock for other in self.world.journal.find(guest=row.guest, active=True)):
            self.start(row)

    def _after(self, row: OperationRow) -> None:
        ended = self.world.journal.get(row.id)
        if ended is None or ended.active and ended.state != rows.NEEDS_OPERATOR:
            return
        try:
            self.ended(ended)
        except Exception:
            LOG.exception("What follows the end of operation %s failed.", row.id)
        self.hand_over(ended)

    def hand_over(self, row: OperationRow) -> None:
        """Start what waits for an operation that nobody works on any more. One that needs an
        operator gives way, as it does to what preempts it later."""
        waiting = [other for other in self.world.journal.find(guest=row.guest, active=True)
                   if other.state == rows.ACCEPTED and other.id != row.id]
        if row.state == rows.NEEDS_OPERATOR and waiting \
                and self.operations[waiting[0].verb].preempts:
            self.world.journal.update(row.id, state=rows.UNDONE,
                                      message=f"superseded by a {waiting[0].verb}")
            self.world.secrets.forget(row.id)
        for other in waiting:
            self.start(other)

    @property
    def resting(self) -> bool:
        """Whether the agent stops."""
        return self._parked

    def wake(self, guest: str) -> bool:
        """Make the operation of a guest look again; called on the hypervisor's events. Returns
        whether there is one."""
        active = self.world.journal.find(guest=guest, active=True)
        for row in active:
            signals = self._signals.get(row.id)
            if signals is not None:
                signals.wake.set()
        return bool(active)

    def wake_all(self) -> None:
        """Make all operations look again."""
        for signals in list(self._signals.values()):
            signals.wake.set()

    def running(self) -> list[str]:
        """Ids of operations that a worker has."""
        return list(self._signals)

    # -- stopping -----------------------------------------------------------------------------
    def abort(self, operation_id: str, reason: str) -> OperationRow:
        """Tell an operation to stop and undo itself; legal in every state.

        :raises Refused: there is no such operation, it has ended, or is past its point of return.
        :raises Retryable: code ``journal_unwritable``. It goes on.
        """
        row = self.world.journal.get(operation_id)
        if row is None:
            raise Refused(f"There is no operation {operation_id}.", next="See 'magnetar op list'.",
                          code="operation_not_found")
        if not row.active:
            raise Refused(f"Operation {operation_id} has ended ({row.state}).",
                          now="Nothing was changed.", code="operation_ended")
        if self.operations[row.verb].committed(self.world.journal.steps(row.id)):
            waits = row.state == rows.NEEDS_OPERATOR
            raise Refused(f"Operation {operation_id} is past its point of no return "
                          f"({self.operations[row.verb].final}).",
                          now="It waits for an operator." if waits else "It goes on to its end.",
                          next=f"magnetar op resolve {operation_id} --as retry" if waits else "",
                          code="too_late")
        try:
            self.world.journal.update(row.id, abort=reason)
            if self.world.journal.row(row.id).state == rows.NEEDS_OPERATOR:
                self.world.journal.update(row.id, state=rows.UNDOING)
        except SQLAlchemyError as error:
            raise not_written(f"abort the {row.verb} of", row.guest, error) from error
        self._tell_abort(row.id)
        self.start(self.world.journal.row(row.id))
        return self.world.journal.row(row.id)

    def park(self, seconds: float) -> bool:
        """Let every operation rest at its next step border. Returns whether all did in time;
        those that did not are continued by their journal at the next start all the same."""
        with self._guard:
            self._parked = True
            for signals in self._signals.values():
                signals.parked = True
                signals.wake.set()
        deadline = self.world.clock.now() + seconds
        while self._signals and self.world.clock.now() < deadline:
            self.world.clock.wait(0.02)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        return not self._signals


def not_written(verb: str, guest: str, error: Exception) -> Retryable:
    """The error for a request that the journal cannot take."""
    cause = getattr(error, "orig", None) or error
    return Retryable(
        f"The request to {verb} guest {guest} could not be written to the journal: {cause}.",
        now="Nothing was done for it; running guests are not touched.",
        next="Free space in the state directory, or mend it, and ask again; see 'magnetar doctor'.",
        code="journal_unwritable")


def split_secrets(args: Mapping[str, Any], context: Mapping[str, Any],
                  ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The request as it may be journalled, and what must not be in the journal."""
    guest = {kept: args.get(name) for name, kept in SECRET_ARGS.items() if args.get(name)}
    if "files" in guest:
        guest["files"] = wire.injected_files(guest["files"])
    tokens = {name: context.get(name) for name in SECRET_CONTEXT if context.get(name)}
    hidden = (*SECRET_CONTEXT, *NOT_KEPT_CONTEXT)
    return (
        {"args": {k: mappings.public(v) if k in MAPPINGS else v
                  for k, v in args.items() if k not in SECRET_ARGS},
         "context": {k: v for k, v in context.items() if k not in hidden}},
        {"guest": guest, "context": tokens},
    )
