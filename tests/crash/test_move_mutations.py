"""Proof that the matrix of moves can fail: with a safeguard taken out, some case has to.

Each mutation is put into a forked child only. The cases that must notice it pass without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import testtools

from compute.migration.truth import Act, Judgement
from compute.recovery.reconcile import Reconciler
from compute.steps import handover, live_source, resize, resize_arrive
from compute.steps.live_destination import Arrival
from compute.steps.live_ends import DisksLeft, Switched
from compute.steps.resize_ends import Back, NewGone
from tests.crash import matrix, moves
from tests.crash.moves import Case
from tests.crash.share import eventlet_only
from virt.fake import FakeDriver


def what_was_cast_is_believed_to_be_heard() -> None:
    def hand_over(run, host, method, verb, arguments):
        run.world.peers.cast(handover.named(run), host, method, instance=run.instance,
                             migration=handover.fresh(run), **arguments(run))

    handover.hand_over = resize_arrive.hand_over = hand_over


def a_lease_never_ends() -> None:
    Arrival.gives_up = lambda self, run, silent: False


def nobody_looks_how_a_transfer_ended() -> None:
    live_source.look = lambda run: Judgement(Act.UNDONE, "mutant", "It is undone.")


def the_destination_is_not_told_that_the_guest_is_there() -> None:
    Switched.do = lambda self, run: None
    Arrival.settled = lambda self, run: False


def copies_stay_behind() -> None:
    DisksLeft.do = lambda self, run: None


def disks_do_not_go_along() -> None:
    migrate = FakeDriver.migrate
    FakeDriver.migrate = lambda self, uuid, plan: migrate(self, uuid, replace(plan, copy_disks=()))


def disks_are_taken_from_a_guest_that_runs() -> None:
    resize.Halt.do = resize.Off.do = resize.Off.settle = lambda self, run: None


def former_disks_are_forgotten() -> None:
    Back.do = lambda self, run: None


def new_disks_stay_after_a_revert() -> None:
    NewGone.do = lambda self, run: None


def nothing_is_resumed() -> None:
    Reconciler.resume = lambda self: 0
    Reconciler.run_pass = lambda self: matrix.observe(self.world, self.context)


MUTATIONS: list[tuple[Callable[[], None], tuple[Case, ...]]] = [
    (what_was_cast_is_believed_to_be_heard, (
        Case("resize_lossy", "resize_prep.claim.after_effect"),
        Case("revert_lossy", "resize_revert.off.after_effect"))),
    (a_lease_never_ends, (Case("live_fails", "live_out.transfer.before_undo"),)),
    (nobody_looks_how_a_transfer_ended, (Case("live", "live_out.transfer.after_effect"),)),
    (the_destination_is_not_told_that_the_guest_is_there, (
        Case("live", "live_out.switched.after_effect"),)),
    (copies_stay_behind, (Case("live", "live_out.disks.after_effect"),)),
    (disks_do_not_go_along, (Case("live", "live_out.strategy.after_effect"),)),
    (disks_are_taken_from_a_guest_that_runs, (Case("resize", "resize_out.off.after_intent"),)),
    (former_disks_are_forgotten, (Case("revert", "resize_back.disks.after_intent"),)),
    (new_disks_stay_after_a_revert, (Case("revert", "resize_revert.disks.after_effect"),)),
    (nothing_is_resumed, (Case("resize", "resize_in.disks.after_effect"),)),
]


def notices(case: Case, mutate: Callable[[], None]) -> bool:
    """Whether a case fails with a mutation, which only a child gets to see."""
    def work() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it is meant to complain
        mutate()
        found = moves.run(case)
        assert not found, found

    return matrix.child(work) != 0


@eventlet_only
class MoveMutations(testtools.TestCase):
    """One method for each mutation; they are added below."""

    def check(self, mutate: Callable[[], None], cases: tuple[Case, ...]) -> None:
        for case in cases:
            self.assertEqual([], moves.run(case), case.id)
        self.assertTrue(any(notices(case, mutate) for case in cases),
                        f"nobody notices that {mutate.__name__.replace('_', ' ')}")


def _add(mutate: Callable[[], None], cases: tuple[Case, ...]) -> None:
    def test(self) -> None:
        self.check(mutate, cases)

    test.__name__ = f"test_{mutate.__name__}"
    setattr(MoveMutations, test.__name__, test)


for _mutate, _cases in MUTATIONS:
    _add(_mutate, _cases)
