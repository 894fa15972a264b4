"""A sample of the kills of tools/lab kills, other ones with another MAGNETAR_SEED: something is
killed during live migrations of a real guest, and both hosts and the record come to one truth."""

from __future__ import annotations

import os
import random
import time

import testtools
from testtools.content import text_content

from tests.integration.lab import LabFixture, missing
from tests.modes import once
from tools.toolbox.lab import kills, matrix

SEED = int(os.environ.get("MAGNETAR_SEED", "3"))
CASES = 6
SECONDS = 100  # no further case is begun after this


def sample(seed):
    """Different victims at different moments; cuts are short, for the time they take."""
    chosen = random.Random(seed)
    victims = chosen.sample(kills.VICTIMS, CASES)
    moments = chosen.sample(kills.MOMENTS, CASES)
    return [kills.Case(moment, victim) for moment, victim in zip(moments, victims, strict=True)]


class LabKills(testtools.TestCase):
    def test_sample_converges(self):
        reason = missing() or (None if os.environ.get("MAGNETAR_REAL_KILLS") else
                               "not every kill converges in time on a loaded machine yet: "
                               "MAGNETAR_REAL_KILLS=1 runs it, tools/lab kills runs all")
        if reason:
            self.skipTest(reason)
        lab = self.useFixture(LabFixture(hosts=2, options=kills.OPTIONS)).lab
        guest = kills.lab_with_guest(lab)
        began, done = time.monotonic(), {}
        for case in sample(SEED):
            if time.monotonic() - began > SECONDS:
                break
            try:
                done[case] = kills.play(guest, case)
            except kills.Missed as missed:
                self.addDetail(str(case), text_content(str(missed)))
                kills.recover_from_miss(guest)
            except kills.Panicked as panicked:  # emulation's fault; this guest is of no use now
                self.addDetail(str(case), text_content(str(panicked)))
                guest = kills.LabGuest.create(lab, f"after-{len(done)}")
        self.addDetail("seen", text_content("\n".join(f"{c}: {o}" for c, o in done.items())))
        self.assertThat(len(done), testtools.matchers.GreaterThan(1))


@once("it is about a page")
class KillTable(testtools.TestCase):
    """What is seen becomes a table, between two marks of a page."""

    def test_cells_tell_how_often_and_how_long(self):
        case = kills.Case("begin", "broker")
        seen = {
            case: {"result": "moved", "seconds": 4.2},
            kills.Case("begin", "broker", 1): {"result": "moved", "seconds": 7.1},
            kills.Case("begin", "broker", 2): {"result": "stayed", "seconds": 1},
            kills.Case("finish", "both links"): {"failed": "two copies"},
        }
        text = matrix.table(seen)
        self.assertIn("| broker | moved 2×, 7 s; stayed 1×, 1 s | not seen |", text)
        self.assertIn("not as it must be: both links at finish #0", text)

    def test_only_what_is_between_the_marks_is_written(self):
        page = f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n"
        self.assertEqual(page.replace("old", "new"), matrix.with_table(page, "new\n"))
        self.assertRaises(kills.LabError, matrix.with_table, "no marks", "new")

    def test_every_moment_meets_every_victim(self):
        every = kills.cases(2)
        self.assertEqual(2 * len(kills.MOMENTS) * len(kills.VICTIMS), len(set(every)))
        self.assertEqual(CASES, len({case.victim for case in sample(SEED)}))
