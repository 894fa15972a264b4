"""Rows of the journal as frozen dataclasses, and the tables that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()

# States of an operation. Each comment says what is awaited and what may follow.
ACCEPTED = "accepted"  # a worker, or the operation it waits for -> running
RUNNING = "running"  # the next step -> done, undoing, needs_operator
UNDOING = "undoing"  # the next undo, newest first -> concluding
CONCLUDING = "concluding"  # telling the control plane about the failure -> undone
DONE = "done"
UNDONE = "undone"
NEEDS_OPERATOR = "needs_operator"  # a person -> running, done or undone
ENDED = (DONE, UNDONE)

# Phases of step rows.
FORWARD = "forward"
CONCLUDE = "conclude"

# States of a step.
INTENDED = "intended"
STEP_DONE = "done"
STEP_UNDONE = "undone"
UNDO_FAILED = "undo_failed"

operations = sa.Table(
    "operations", METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("verb", sa.String(32)),
    sa.Column("guest", sa.String(36)),
    sa.Column("request_id", sa.String(64)),
    sa.Column("state", sa.String(16)),
    sa.Column("active", sa.Boolean),
    sa.Column("lock", sa.String(36)),
    sa.Column("waits_for", sa.String(36)),
    sa.Column("request", sa.JSON),
    sa.Column("step", sa.String(32)),
    sa.Column("steps_done", sa.Integer),
    sa.Column("steps_total", sa.Integer),
    sa.Column("attempts", sa.Integer),
    sa.Column("restarts", sa.Integer),
    sa.Column("abort", sa.Text),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("verdict", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("created", sa.Float),
    sa.Column("updated", sa.Float),
    sa.Column("deadline", sa.Float),
    sa.Column("retry_at", sa.Float),
)
steps = sa.Table(
    "steps", METADATA,
    sa.Column("operation", sa.String(36), primary_key=True),
    sa.Column("phase", sa.String(8), primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("seq", sa.Integer),
    sa.Column("state", sa.String(16)),
    sa.Column("undo", sa.JSON(none_as_null=True)),
    sa.Column("outcome", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
)
claims = sa.Table(
    "claims", METADATA,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("guest", sa.String(36)),
    sa.Column("operation", sa.String(36)),
    sa.Column("data", sa.JSON),
    sa.Column("created", sa.Float),
)
facts = sa.Table(
    "facts", METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.JSON),
    sa.Column("updated", sa.Float),
)


@dataclass(frozen=True)
class OperationRow:
    """One operation. Times are seconds since the epoch, UTC."""

    id: str
    verb: str
    guest: str
    request_id: str
    state: str
    active: bool
    lock: str | None
    waits_for: str | None
    request: Mapping[str, Any]
    step: str | None
    steps_done: int
    steps_total: int
    attempts: int
    restarts: int
    abort: str | None
    error: Mapping[str, str] | None
    verdict: str | None
    message: str | None
    created: float
    updated: float
    deadline: float | None
    retry_at: float | None


@dataclass(frozen=True)
class StepRow:
    """One step of one operation: ``undo`` was written before the effect, ``outcome`` after."""

    operation: str
    phase: str
    name: str
    seq: int
    state: str
    undo: Mapping[str, Any] | None
    outcome: Any
    error: Mapping[str, str] | None
    started: float
    finished: float | None


@dataclass(frozen=True)
class Claim:
    """Who owns a thing on this host: ``kind`` is domain, disks, port or resources."""

    kind: str
    key: str
    guest: str
    operation: str
    data: Mapping[str, Any]
    created: float
