"""Calls of both agents of a move to the outside, meeting every fate: a share that a seed draws.

All of them with MAGNETAR_DOUBLE_KILLS=all.
"""

from __future__ import annotations

import os
import random

import testtools

from tests.crash import move_calls, moves
from tests.crash.share import EVERYTHING, runs_here

SEED = os.environ.get("MAGNETAR_SEED", "20261121")
DRAWN = {"live": 25, "live_fails": 12, "live_postcopy_cut": 10, "live_abort": 6, "live_shared": 6,
         "resize": 25, "resize_in_fails": 12, "resize_out_fails": 6, "resize_here": 6,
         "confirm": 10, "revert": 15, "revert_here": 5, "evacuate": 20}


class MoveCalls(testtools.TestCase):
    """One method for each draw; they are added below."""

    def check(self, case: move_calls.CallCase) -> None:
        self.assertEqual([], move_calls.run(case), case.id)


def _fill() -> None:
    for name, count in DRAWN.items():
        if EVERYTHING:
            for case in move_calls.cases(moves.WAYS[name]):
                _add(case.id, lambda case=case: case)
        else:
            for number in range(count):
                _add(f"{name}_{number}", lambda name=name, number=number: draw(name, number))


def draw(name: str, number: int) -> move_calls.CallCase:
    """One of a way's cases."""
    listed = list(move_calls.cases(moves.WAYS[name]))
    return random.Random(f"{SEED} {name} {number}").choice(listed)


def _add(name: str, case) -> None:
    if not runs_here(name):
        return

    def test(self) -> None:
        self.check(case())

    test.__name__ = f"test_{name}"
    setattr(MoveCalls, test.__name__, test)


_fill()
