"""A step: a noun with four parts, probe, do, undo and settle."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compute.engine.run import Run
    from db.journal.journal import NewClaim


class Probe(enum.Enum):
    """Has it happened already?"""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Step:
    """One effect, idempotent: ``do`` may be called again after a crash in the middle of it.

    ``name`` is the noun. ``settle_seconds`` bounds what :meth:`settle` waits for.
    """

    name = ""
    completes = True  # False for a step whose do() always refuses
    # True: once begun, the step itself heeds an abort, for it may be too late; and when it is done,
    # the operation only goes forward.
    decides = False
    attempts = 5  # how often a Retryable is tried again before the operation is undone

    def claims(self, run: Run) -> list[NewClaim]:
        """What it is about to make: (kind, key, data), written with the intent."""
        return []

    def before(self, run: Run) -> Mapping[str, Any]:
        """What :meth:`undo` needs, journalled before :meth:`do`."""
        return {}

    def probe(self, run: Run) -> Probe:
        """Asked only when an intent without a record is found. NO means: do it (again)."""
        return Probe.NO

    def do(self, run: Run) -> Any:
        """Have the effect. Returns the outcome, plain data for ``run.outcome(name)``."""
        raise NotImplementedError(self.name)

    def settle(self, run: Run) -> None:
        """Wait, with a deadline, for what the effect set in motion."""

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        """Take the effect back; quiet when there is none. ``data`` is what before() gave."""

    def __repr__(self) -> str:
        return self.name
