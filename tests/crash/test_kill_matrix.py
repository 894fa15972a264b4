"""Every operation, killed at every crash point; and a share of them killed again in recovery."""

from __future__ import annotations

import os
import random

import testtools

from compute.operations import OPERATIONS
from tests.crash import matrix
from tests.crash.share import EVERYTHING, runs_here

# Share of double kills per run; all of them with MAGNETAR_DOUBLE_KILLS=all.
SHARE = 0.002


class _Kills(testtools.TestCase):
    """Runs a case and sees what it ended with."""

    def check(self, one: matrix.Case) -> None:
        outcome = matrix.run(one)
        self.assertTrue(outcome.killed, f"{one.point} was not visited: the point does not exist")
        self.verify(one, outcome)

    def verify(self, one: matrix.Case, outcome: matrix.Outcome) -> None:
        verb = "delete" if one.tenant_deletes else one.verb
        self.assertEqual([], matrix.problems(verb, outcome, self.expected(one)))

    def expected(self, one: matrix.Case) -> tuple[str, ...]:
        """Done, or undone; never a guest in error that merely met a restart."""
        undone = matrix.UNDONE.get(one.verb, ()) if one.fail_at is not None else ()
        return (*matrix.DONE.get(one.verb, ()), *undone)


def _add(one: matrix.Case, cls: type, method) -> None:
    if not runs_here(one.id):
        return

    def test(self) -> None:
        method(self, one)

    test.__name__ = f"test_{one.id}"
    test.__doc__ = None
    setattr(cls, test.__name__, test)


class KillMatrix(_Kills):
    """One method for each kill; they are added below."""


class DoubleKill(_Kills):
    """Killed, and killed again while recovering: recovery is idempotent."""


def _fill() -> None:
    chooser = random.Random(int(os.environ.get("MAGNETAR_SEED", "20261120")))
    for operation in (OPERATIONS[verb] for verb in matrix.PREPARED):
        for one in matrix.cases(operation):
            _add(one, KillMatrix, _Kills.check)
            for twice in matrix.doubled(one, operation):
                if EVERYTHING or chooser.random() < SHARE:
                    _add(twice, DoubleKill, _Kills.check)


_fill()
