"""Every operation, killed at every crash point; and a share of them killed again in recovery."""

from __future__ import annotations

import os
import random

import testtools

from compute.model import states
from compute.operations import OPERATIONS
from tests.crash import matrix

# Share of double kills per run; all of them with MAGNETAR_DOUBLE_KILLS=all.
SHARE = 0.02
DELETED = ("delete", "reap")


class _Kills(testtools.TestCase):
    """Runs a case and sees what it ended with."""

    def check(self, one: matrix.Case) -> None:
        outcome = matrix.run(one)
        self.assertTrue(outcome.killed, f"{one.point} was not visited: the point does not exist")
        self.verify(one, outcome)

    def verify(self, one: matrix.Case, outcome: matrix.Outcome) -> None:
        self.assertEqual([], outcome.findings)
        self.assertEqual([], outcome.secrets_left)
        self.assertIsNone(outcome.fields["task_state"] if not self.handed_back(outcome) else None)
        if one.verb in DELETED:
            self.assertEqual((0, []), (outcome.domains, outcome.ports))
            self.assertTrue(outcome.fields["deleted"])
        elif one.verb == "spawn" and self.handed_back(outcome):
            self.assertEqual((0, []), (outcome.domains, outcome.ports))
        else:
            self.assertEqual((1, 1), (outcome.domains, len(outcome.ports)))
            self.assertIn(outcome.fields["vm_state"], self.expected(one))

    def handed_back(self, outcome: matrix.Outcome) -> bool:
        """A build that was undone is with the scheduler again, no longer on this host."""
        return outcome.fields["host"] is None

    def expected(self, one: matrix.Case) -> tuple[str, ...]:
        """Done, or undone; never a guest in error that merely met a restart."""
        undone = one.fail_at is not None
        return {
            "spawn": (states.ACTIVE,), "start": (states.ACTIVE, states.STOPPED)
            if undone else (states.ACTIVE,), "stop": (states.STOPPED,),
            "reboot": (states.ACTIVE, states.ERROR, states.STOPPED) if undone
            else (states.ACTIVE,),
            "unsupported": (states.ACTIVE,),
        }[one.verb]


def _add(one: matrix.Case, cls: type, method) -> None:
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
    everything = os.environ.get("MAGNETAR_DOUBLE_KILLS") == "all"
    chooser = random.Random(int(os.environ.get("MAGNETAR_SEED", "20261120")))
    for operation in OPERATIONS.values():
        for one in matrix.cases(operation):
            _add(one, KillMatrix, _Kills.check)
            for twice in matrix.doubled(one, operation):
                if everything or chooser.random() < SHARE:
                    _add(twice, DoubleKill, _Kills.check)


_fill()
