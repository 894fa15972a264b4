"""Proof that the matrix can fail: with a safeguard taken out, some case has to.

Each mutation is put into a forked child only. The cases that must notice it pass without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import testtools

from compute.engine.runner import Runner
from compute.engine.secrets import Secrets
from compute.engine.step import Probe
from compute.recovery import decide
from compute.recovery.decide import Act, Verdict
from compute.recovery.reconcile import Reconciler
from compute.steps import disks, record
from compute.steps.domain import DomainGone, PowerOff
from db.journal import Journal
from tests.crash import calls, matrix
from tests.crash.share import eventlet_only

HARD_STOP = (("clean_shutdown", False),)
FAILING = "spawn.power.after_effect"
# Some mutants never come to rest. Without a mutation a case takes a fraction of a second.
MUTANT_SECONDS = 20.0


# -- mutations ------------------------------------------------------------------------------------
def disks_are_not_undone() -> None:
    disks.Disks.undo = lambda self, run, data: None


def publish_without_compare() -> None:
    def publish(run, changes, expected):
        run.save(dict(changes))
        return True

    record.publish = publish


def power_off_always_happened() -> None:
    PowerOff.probe = lambda self, run: Probe.YES


def claims_released_too_early() -> None:
    original = DomainGone.do

    def do(self, run):
        run.world.journal.release(guest=run.row.guest)
        original(self, run)

    DomainGone.do = do


def claims_not_written_with_the_intent() -> None:
    original = Journal.intend
    Journal.intend = lambda self, *args: original(self, *args[:5])


def nothing_is_resumed() -> None:
    Reconciler.resume = lambda self: 0


def operations_wait_for_ever() -> None:
    decide.of_operation = lambda *facts: Verdict(Act.WAIT, "mutant", "It waits.")


def lost_casts_stay_lost() -> None:
    Reconciler._waited = lambda self, facts: False


def secrets_are_kept() -> None:
    Secrets.forget = lambda self, operation: None
    Secrets.sweep = lambda self, active: None


def undo_goes_on_after_a_failure() -> None:
    original = Runner._back

    def back(self):
        self._needs_operator = lambda step, error: None
        delay = original(self)
        del self._needs_operator
        return 0 if delay is None else delay

    def record_undo(self, operation, name, error):
        recorded(self, operation, name, None)

    recorded, Journal.record_undo = Journal.record_undo, record_undo
    Runner._back = back


# -- cases that must notice -----------------------------------------------------------------------
Noticing = matrix.Case | calls.CallCase
MUTATIONS: list[tuple[Callable[[], None], tuple[Noticing, ...]]] = [
    (disks_are_not_undone, (
        matrix.Case("spawn", "spawn.disks.before_undo", FAILING),)),
    (publish_without_compare, (
        matrix.Case("start", "start.record.after_intent", tenant_deletes=True),
        matrix.Case("stop", "stop.record.after_intent", tenant_deletes=True))),
    (power_off_always_happened, (
        matrix.Case("stop", "stop.off.after_intent", asked=HARD_STOP),)),
    (claims_released_too_early, (
        matrix.Case("delete", "delete.disks.before_intent"),)),
    (claims_not_written_with_the_intent, (
        matrix.Case("spawn", "spawn.disks.before_undo", FAILING),)),
    (nothing_is_resumed, (
        matrix.Case("start", "start.domain.after_effect"),
        matrix.Case("delete", "delete.disks.after_intent"))),
    (operations_wait_for_ever, (
        matrix.Case("delete", "delete.disks.after_intent"),)),
    (lost_casts_stay_lost, (
        matrix.Case("start", "start.record.after_intent", tenant_deletes=True),)),
    (secrets_are_kept, (
        matrix.Case("spawn", "spawn.record.after_effect"),)),
    (undo_goes_on_after_a_failure, (
        calls.CallCase(calls.Way("spawn", FAILING), "driver.power_off", 1, calls.Fate.FAILED),)),
]


def wrong(case: Noticing) -> list[str]:
    """What is not as it must be after a case."""
    if isinstance(case, calls.CallCase):
        ending = calls.run(case)
        return ending.unsafe + matrix.problems(case.way.verb, ending.outcome,
                                               matrix.UNDONE[case.way.verb])
    verb = "delete" if case.tenant_deletes else case.verb
    outcome = matrix.run(case)
    undone = matrix.UNDONE.get(case.verb, ()) if case.fail_at else ()
    return matrix.problems(verb, outcome, (*matrix.DONE.get(case.verb, ()), *undone))


def notices(case: Noticing, mutate: Callable[[], None]) -> bool:
    """Whether a case fails with a mutation, which only a child gets to see."""
    def work() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it is meant to complain
        matrix.LIMIT = MUTANT_SECONDS
        mutate()
        found = wrong(case)
        assert not found, found

    return matrix.child(work) != 0


@eventlet_only
class Mutations(testtools.TestCase):
    """One method for each mutation; they are added below."""

    def check(self, mutate: Callable[[], None], cases: tuple[Noticing, ...]) -> None:
        for case in cases:
            self.assertEqual([], wrong(case), case.id)
        self.assertTrue(any(notices(case, mutate) for case in cases),
                        f"nobody notices that {mutate.__name__.replace('_', ' ')}")


def _add(mutate: Callable[[], None], cases: tuple[Noticing, ...]) -> None:
    def test(self) -> None:
        self.check(mutate, cases)

    test.__name__ = f"test_{mutate.__name__}"
    setattr(Mutations, test.__name__, test)


for _mutate, _cases in MUTATIONS:
    _add(_mutate, _cases)
