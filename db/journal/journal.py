"""Queries of the journal. Each method is one short transaction that is durable when it returns."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from compute.errors import Refused
from db.journal import rows
from db.journal.rows import Claim, OperationRow, StepRow

# Built once: they are said many times for each step.
OPERATION = sa.select(rows.operations).where(rows.operations.c.id == sa.bindparam("operation"))
HOLDER = sa.select(rows.operations).where(rows.operations.c.lock == sa.bindparam("guest"))
STEPS = sa.select(rows.steps).where(rows.steps.c.operation == sa.bindparam("operation"))
FACT = sa.select(rows.facts.c.value).where(rows.facts.c.name == sa.bindparam("name"))
FAILURES = 100  # more of them in a row tell nothing new
# (kind, key, data) of a thing that a step is about to make
NewClaim = tuple[str, str, Mapping[str, Any]]


class Journal:
    """The journal of one host.

    :param engine: an SQLite engine opened with ``durable=True``.
    :param now: the clock, seconds since the epoch.
    """

    def __init__(self, engine: Engine, now: Callable[[], float]):
        self.engine, self.now = engine, now
        self._reads = engine.execution_options(reads=True)

    # -- operations ---------------------------------------------------------------------------
    def accept(
        self, verb: str, guest: str, request_id: str, request: Mapping[str, Any], *,
        id: str | None = None, deadline: float | None = None, preempts: bool = False,
        nearly_over: Callable[[OperationRow], bool] = lambda holder: False,
    ) -> tuple[OperationRow, bool]:
        """Write down a request before anything is done for it.

        The same verb, guest and request id again returns the first row and False. While another
        operation holds the guest, a request that ``preempts`` (a delete) tells that one to abort
        and waits for it, or joins it when it is of the same verb; any other is refused.

        :param nearly_over: whether a holder has told its result already; a request waits for it
            then, since who asks may have seen that result.
        :returns: the row, and whether it is new.
        :raises Refused: code ``busy``, naming the holder.
        """
        table = rows.operations
        with self.engine.begin() as connection:
            same = self._one(connection, sa.select(table).where(
                table.c.verb == verb, table.c.guest == guest, table.c.request_id == request_id))
            holder = self._one(connection, HOLDER, guest=guest)
            waiting = self._one(connection, sa.select(table).where(
                table.c.guest == guest, table.c.waits_for.is_not(None)))
            if same is None and preempts:  # a second delete has nothing to add to the first
                same = next((r for r in (holder, waiting) if r and r.verb == verb), None)
            if same is not None:
                return same, False
            if preempts:
                for other in filter(None, (holder, waiting)):
                    self._preempt(connection, other, verb)
                holder = self._one(connection, HOLDER, guest=guest)
            blocker = None if preempts else waiting or holder
            if blocker is not None and not (blocker is holder and nearly_over(blocker)):
                raise _busy(guest, blocker)
            now = self.now()
            values: dict[str, Any] = {
                "id": id or str(uuid.uuid4()), "verb": verb, "guest": guest,
                "request_id": request_id, "state": rows.ACCEPTED, "active": True,
                "lock": None if holder else guest, "waits_for": holder.id if holder else None,
                "request": dict(request), "step": None, "steps_done": 0, "steps_total": 0,
                "attempts": 0, "restarts": 0, "created": now, "updated": now,
                "deadline": deadline,
            }
            connection.execute(table.insert().values(**values))
            return self._row(connection, values["id"]), True

    def _preempt(self, connection: Connection, holder: OperationRow, verb: str) -> None:
        values: dict[str, Any] = {"abort": f"a {verb} was asked for", "updated": self.now()}
        if holder.state == rows.NEEDS_OPERATOR or holder.waits_for:
            # nobody works on it: the newcomer takes over
            values |= {"state": rows.UNDONE, "active": False, "lock": None, "waits_for": None,
                       "message": f"superseded by a {verb}"}
        connection.execute(
            rows.operations.update().where(rows.operations.c.id == holder.id).values(**values))

    def take_lock(self, operation: str) -> bool:
        """Give a waiting operation its guest's lock, if nobody holds it. Returns success."""
        table = rows.operations
        with self.engine.begin() as connection:
            row = self._one(connection, OPERATION, operation=operation)
            if row is None or not row.active:
                return False
            if row.lock is None:
                if self._one(connection, HOLDER, guest=row.guest) is not None:
                    return False
                connection.execute(table.update().where(table.c.id == operation).values(
                    lock=row.guest, waits_for=None, updated=self.now()))
            return True

    def row(self, operation: str) -> OperationRow:
        """One operation that is known to exist. Raises KeyError if it does not."""
        with self._reads.connect() as connection:
            return self._row(connection, operation)

    def get(self, operation: str) -> OperationRow | None:
        """One operation by id, None if there is none."""
        with self._reads.connect() as connection:
            return self._one(connection, OPERATION, operation=operation)

    def find(self, *, guest: str | None = None, active: bool | None = None,
             limit: int = 1000) -> list[OperationRow]:
        """Operations, oldest first; at most the newest ``limit``."""
        table = rows.operations
        query = sa.select(table).order_by(table.c.created.desc()).limit(limit)
        if guest is not None:
            query = query.where(table.c.guest == guest)
        if active is not None:
            query = query.where(table.c.active == active)
        with self._reads.connect() as connection:
            return [OperationRow(*r) for r in connection.execute(query)][::-1]

    def update(self, operation: str, **values: Any) -> None:
        """Set columns of an operation. An ended state also frees the guest's lock."""
        with self.engine.begin() as connection:
            self._update(connection, operation, values)

    def _update(self, connection: Connection, operation: str, values: dict[str, Any]) -> None:
        if values.get("state") in rows.ENDED:
            values |= {"active": False, "lock": None, "waits_for": None, "retry_at": None}
        connection.execute(
            rows.operations.update().where(rows.operations.c.id == operation)
            .values(updated=self.now(), **values))

    def forget(self, before: float) -> int:
        """Remove operations that ended before a time. Returns how many."""
        table = rows.operations
        with self.engine.begin() as connection:
            return connection.execute(table.delete().where(
                table.c.active.is_(False), table.c.updated < before)).rowcount

    # -- steps --------------------------------------------------------------------------------
    def steps(self, operation: str) -> list[StepRow]:
        """The steps of an operation that were begun, in order, conclusion last."""
        with self._reads.connect() as connection:
            found = [StepRow(*r) for r in connection.execute(STEPS, {"operation": operation})]
        return sorted(found, key=lambda r: (r.phase != rows.FORWARD, r.seq))

    def intend(self, operation: str, phase: str, seq: int, name: str,
               undo: Mapping[str, Any], new_claims: Iterable[NewClaim] = ()) -> None:
        """Write down that a step is about to have its effect, with what would undo it, and claim
        what it will make."""
        now = self.now()
        with self.engine.begin() as connection:
            guest = self._row(connection, operation).guest
            connection.execute(rows.steps.insert().values(
                operation=operation, phase=phase, name=name, seq=seq, state=rows.INTENDED,
                undo=dict(undo), started=now))
            for kind, key, data in new_claims:
                self._claim(connection, kind, key, guest, operation, data)
            self._update(connection, operation, {"step": name, "attempts": 0, "retry_at": None})

    def record(self, operation: str, phase: str, name: str, outcome: Any, done: int) -> None:
        """Write down that a step had its effect."""
        with self.engine.begin() as connection:
            self._set_step(connection, operation, phase, name, state=rows.STEP_DONE,
                           outcome=outcome, finished=self.now(), error=None)
            self._update(connection, operation,
                         {"steps_done": done, "attempts": 0, "restarts": 0, "message": None})

    def record_undo(self, operation: str, name: str, error: Mapping[str, str] | None) -> None:
        """Write down that a step was undone, or that its undo failed."""
        state = rows.UNDO_FAILED if error else rows.STEP_UNDONE
        with self.engine.begin() as connection:
            self._set_step(connection, operation, rows.FORWARD, name, state=state,
                           error=error, finished=self.now())
            self._update(connection, operation, {"attempts": 0})

    def _set_step(self, connection: Connection, operation: str, phase: str, name: str,
                  **values: Any) -> None:
        table = rows.steps
        connection.execute(table.update().where(
            table.c.operation == operation, table.c.phase == phase, table.c.name == name
        ).values(**values))

    def reopen(self, operation: str) -> None:
        """Let undos that failed be tried again."""
        table = rows.steps
        with self.engine.begin() as connection:
            connection.execute(table.update().where(
                table.c.operation == operation, table.c.state == rows.UNDO_FAILED
            ).values(state=rows.STEP_DONE, error=None))

    # -- claims -------------------------------------------------------------------------------
    def claims(self, *, kind: str | None = None, guest: str | None = None) -> list[Claim]:
        """What is claimed on this host."""
        query = sa.select(rows.claims)
        if kind is not None:
            query = query.where(rows.claims.c.kind == kind)
        if guest is not None:
            query = query.where(rows.claims.c.guest == guest)
        with self._reads.connect() as connection:
            return [Claim(*r) for r in connection.execute(query)]

    def claim(self, kind: str, key: str, guest: str, operation: str, data: Mapping[str, Any],
              ) -> None:
        """Claim one thing, or change its data."""
        with self.engine.begin() as connection:
            self._claim(connection, kind, key, guest, operation, data)

    def _claim(self, connection: Connection, kind: str, key: str, guest: str, operation: str,
               data: Mapping[str, Any]) -> None:
        table = rows.claims
        where = sa.and_(table.c.kind == kind, table.c.key == key)
        values = {"guest": guest, "operation": operation, "data": dict(data)}
        if connection.execute(table.update().where(where).values(**values)).rowcount == 0:
            connection.execute(
                table.insert().values(kind=kind, key=key, created=self.now(), **values))

    def release(self, *, guest: str, kind: str | None = None) -> None:
        """Give up a guest's claims, all or one kind."""
        query = rows.claims.delete().where(rows.claims.c.guest == guest)
        if kind is not None:
            query = query.where(rows.claims.c.kind == kind)
        with self.engine.begin() as connection:
            connection.execute(query)

    def failed_since_done(self, verb: str, excused: Iterable[str]) -> int:
        """How many operations of a verb were undone since one of it was done, those that failed
        with an ``excused`` code not counted."""
        table, excused = rows.operations, frozenset(excused)
        query = sa.select(table.c.state, table.c.error).where(
            table.c.verb == verb, table.c.state.in_(rows.ENDED)
        ).order_by(table.c.updated.desc()).limit(FAILURES)
        failed = 0
        with self._reads.connect() as connection:
            for state, error in connection.execute(query):
                if state == rows.DONE:
                    break
                failed += (error or {}).get("code") not in excused
        return failed

    def size(self) -> int:
        """Bytes that the journal's files take."""
        database = str(self.engine.url.database)
        files = [path for path in (database, database + "-wal") if os.path.exists(path)]
        return sum(map(os.path.getsize, files))

    # -- facts --------------------------------------------------------------------------------
    def fact(self, name: str) -> Any:
        """A small fact about this host, None if never written."""
        with self._reads.connect() as connection:
            return connection.execute(FACT, {"name": name}).scalar()

    def set_fact(self, name: str, value: Any) -> None:
        """Write down a small fact about this host."""
        table, values = rows.facts, {"value": value, "updated": self.now()}
        with self.engine.begin() as connection:
            changed = connection.execute(
                table.update().where(table.c.name == name).values(**values))
            if changed.rowcount == 0:
                connection.execute(table.insert().values(name=name, **values))

    def _row(self, connection: Connection, operation: str) -> OperationRow:
        row = self._one(connection, OPERATION, operation=operation)
        if row is None:
            raise KeyError(f"Operation {operation} is not in the journal.")
        return row

    def _one(self, connection: Connection, query: sa.Select, **values: str) -> OperationRow | None:
        row = connection.execute(query, values).first()
        return OperationRow(*row) if row is not None else None


def _busy(guest: str, holder: OperationRow) -> Refused:
    step = f", at step {holder.step}" if holder.step else ""
    return Refused(
        f"Guest {guest} is busy with {holder.verb}{step} (operation {holder.id}).",
        now="Nothing was done for this request.",
        next=f"Ask again when it has ended; 'magnetar op show {holder.id}' tells how far it is.",
        code="busy",
    )
