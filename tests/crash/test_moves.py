"""Both halves of every move, killed at every crash point; and a share of them killed twice.

Beside that, moves on which something else goes wrong as well, killed at points that a seed draws.
"""

from __future__ import annotations

import os
import random

import testtools

from compute.operations import OPERATIONS
from tests.crash import matrix, moves
from tests.crash.share import EVERYTHING, runs_here

SEED = os.environ.get("MAGNETAR_SEED", "20261121")
# Shares of kills of both agents, and of second kills.
BOTH, AGAIN = 0.06, 0.02
# Ways whose points lie on another way already: how many kills on each are drawn.
DRAWN = {
    "live_shared": 10, "live_slow": 10, "live_postcopy": 10, "live_postcopy_cut": 20,
    "live_parted": 20, "live_parted_silent": 10,
    "live_source_away": 10, "live_destination_away": 10, "live_silence": 10, "live_abort": 10,
    "live_force": 10, "live_tuned": 15, "live_lossy": 8, "live_of_a_paused": 8, "resize_here": 15,
    "resize_lossy": 15, "resize_of_a_stopped": 8, "confirm_here": 5, "confirm_of_a_stopped": 3,
    "evacuate_again": 12, "revert_here": 10, "revert_lossy": 10, "revert_of_a_stopped": 5}


class MoveKills(testtools.TestCase):
    """One method for each kill; they are added below."""

    def check(self, case: moves.Case) -> None:
        self.assertEqual([], moves.run(case), case.id)


class EveryPoint(testtools.TestCase):
    """The cases are all that there are."""

    def test_every_point_of_a_verb_that_moves_lies_on_a_way(self):
        passed = {point for name in moves.WAYS for point in points(name)}
        verbs = {verb for way in moves.WAYS.values() for verb in way.verbs}
        self.assertEqual(set(OPERATIONS), verbs | set(matrix.PREPARED))
        missed = {point for verb in verbs for point in OPERATIONS[verb].crash_points()} - passed
        self.assertEqual(set(), missed)


def points(name: str) -> list[str]:
    """The points of a way's own verbs, in order."""
    verbs = moves.WAYS[name].verbs
    return [point for point in moves.points(name) if point.split(".")[0] in verbs]


def cases() -> list[moves.Case]:
    """Each point of a verb once. Drawn for themselves, so that every process draws the same."""
    made: list[moves.Case] = []
    seen: set[str] = set()

    def add(case: moves.Case, share: float) -> None:
        if EVERYTHING or random.Random(f"{SEED} {case.id}").random() < share:
            made.append(case)

    for name in (name for name in moves.WAYS if name not in DRAWN):
        here = [point for point in points(name) if EVERYTHING or point not in seen]
        for point in here:
            again = random.Random(f"{SEED} {name} {point}").choice(sorted(here))
            add(moves.Case(name, point), 1)
            add(moves.Case(name, point, both=True), BOTH)
            add(moves.Case(name, point, again=again), AGAIN)
        seen.update(here)
    return made


def drawn(name: str, number: int) -> moves.Case:
    """A kill somewhere on a way, of one or both agents, once or twice."""
    chance, here = random.Random(f"{SEED} {name} {number}"), sorted(points(name))
    return moves.Case(name, chance.choice(here), both=chance.random() < 0.3,
                      again=chance.choice(here) if chance.random() < 0.3 else None)


def _fill() -> None:
    for case in cases():
        def test(self, case=case) -> None:
            self.check(case)
        _add(f"test_{case.id}", test)
    for name, count in DRAWN.items():
        for number in range(count * 10 if EVERYTHING else count):
            def test(self, name=name, number=number) -> None:
                self.check(drawn(name, number))
            _add(f"test_{name}_{number}", test)


def _add(name: str, test) -> None:
    if not runs_here(name):
        return
    test.__name__ = name
    setattr(MoveKills, name, test)


_fill()
