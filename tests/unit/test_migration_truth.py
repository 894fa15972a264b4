"""The truth table of live migration, whole."""

from __future__ import annotations

import itertools

import testtools

from compute.migration.truth import HERE, Act, End, end_of, judge
from compute.model import states
from compute.model.guest import GuestState

UUID = "11111111-0000-4000-8000-000000000000"
GONE = (End.HANDED, End.OFF, End.ABSENT)
TARGETS = (End.RUNNING, End.STILL, End.RECEIVING, End.OFF, End.ABSENT, End.UNKNOWN)
SOURCES = (*TARGETS[:2], End.HELD, End.LEAVING, End.HANDED, End.BROKEN, End.OFF, End.ABSENT,
           End.UNKNOWN)
# What each pair of ends means; the rows of the design's table with every end spelled out.
TABLE = {
    **{(s, t): Act.UNDONE for s in (*HERE, End.HELD) for t in (End.OFF, End.ABSENT)},
    **{(s, End.RECEIVING): Act.STOP for s in (*HERE, End.HELD)},
    **{(End.HELD, t): Act.DONE for t in HERE},
    **{(s, t): Act.OPERATOR for s in HERE for t in HERE},
    **{(End.LEAVING, t): Act.CONTINUE for t in TARGETS},
    **{(s, t): Act.DONE for s in GONE for t in HERE},
    **{(s, End.RECEIVING): Act.WAIT for s in (End.HANDED, End.ABSENT)},
    (End.OFF, End.RECEIVING): Act.STOP,
    (End.OFF, End.OFF): Act.UNDONE, (End.OFF, End.ABSENT): Act.UNDONE,
    (End.HANDED, End.OFF): Act.DONE, (End.ABSENT, End.OFF): Act.DONE,
    (End.HANDED, End.ABSENT): Act.OPERATOR, (End.ABSENT, End.ABSENT): Act.OPERATOR,
    **{(End.BROKEN, t): Act.RECOVER for t in HERE},
    **{(End.BROKEN, t): Act.OPERATOR for t in (End.RECEIVING, End.OFF, End.ABSENT)},
    **{(s, End.UNKNOWN): Act.WAIT for s in SOURCES},
    **{(End.UNKNOWN, t): Act.WAIT for t in TARGETS},
}


class TableTest(testtools.TestCase):
    def test_every_pair(self):
        for source, target in itertools.product(SOURCES, TARGETS):
            found = judge(source, target)
            self.assertEqual(TABLE[source, target], found.act, (source, target, found))
            self.assertTrue(found.row and found.reason.endswith("."), found)

    def test_an_unknown_end_is_never_the_ground_of_a_deed(self):
        for end in (*SOURCES, *TARGETS):
            self.assertIs(Act.WAIT, judge(End.UNKNOWN, end).act)
            self.assertIs(Act.WAIT, judge(end, End.UNKNOWN).act)

    def test_never_undone_while_the_destination_has_it(self):
        for source, target in itertools.product(SOURCES, HERE):
            self.assertNotEqual(Act.UNDONE, judge(source, target).act)

    def test_never_done_while_the_source_runs_it(self):
        for source, target in itertools.product(HERE, TARGETS):
            self.assertNotEqual(Act.DONE, judge(source, target).act)

    def test_nothing_breaks_post_copy(self):
        """Row 67: a guest whose memory is on both hosts is neither undone nor called done."""
        for target in TARGETS:
            self.assertIn(judge(End.BROKEN, target).act, (Act.RECOVER, Act.OPERATOR, Act.WAIT))


def state(power: int, reason: str = "", job: str = "") -> GuestState:
    return GuestState(UUID, "instance-1", power, reason=reason, job=job)


class EndTest(testtools.TestCase):
    def check(self, end: End, found: GuestState | None, *, source: bool):
        self.assertIs(end, end_of(found, source=source), found)

    def test_the_source(self):
        on, still, off = states.RUNNING, states.POWER_PAUSED, states.SHUTDOWN
        for end, found in (
            (End.ABSENT, None), (End.RUNNING, state(on, "booted")),
            (End.LEAVING, state(on, "booted", "out")), (End.LEAVING, state(still, "user", "out")),
            (End.HANDED, state(still, "migration")),
            (End.LEAVING, state(still, "migration", "out")), (End.HANDED, state(still, "postcopy")),
            (End.LEAVING, state(still, "postcopy", "out")),
            (End.BROKEN, state(still, "postcopy_failed")), (End.HANDED, state(off, "migrated")),
            (End.OFF, state(off, "crashed")), (End.OFF, state(states.CRASHED)),
            (End.STILL, state(still, "user")), (End.STILL, state(still, "ioerror")),
        ):
            self.check(end, found, source=True)

    def test_the_destination(self):
        on, still, off = states.RUNNING, states.POWER_PAUSED, states.SHUTDOWN
        for end, found in (
            (End.ABSENT, None), (End.RUNNING, state(on, "migrated")),
            (End.RUNNING, state(on, "postcopy", "in")),
            (End.RUNNING, state(on, "postcopy_failed")),
            (End.RECEIVING, state(still, "migration", "in")),
            (End.RECEIVING, state(still, "starting_up")),
            (End.RECEIVING, state(still, "user", "in")),
            (End.STILL, state(still, "user")), (End.OFF, state(off, "migrated")),
        ):
            self.check(end, found, source=False)
