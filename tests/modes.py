"""Tests that run in one concurrency mode only, and why; in the other they count as skipped."""

import testtools

from compute import concurrency

EVENTLET, THREADING = "eventlet", "threading"
# Why the driver's tests of long work need no native threads around them.
NATIVE = ("the driver's calls are on native threads in both modes, only green ones could be "
          "stopped by them, and whole agents do the same in both")

DATABASE = ("the same SQL is said in both modes, and only native threads meet in the database; the "
            "tests run on SQLite in both")

# Why not every test of a whole agent runs twice.
AGENTS = ("each mode has its share of the tests of whole agents with real guests, and all of those "
          "on the fake driver")


# Why the rows of partial failures need no native threads around them.
ROWS = ("a row is about the order of the effects of one operation, which each mode has the same; "
        "what else runs beside it is tested in both")


def once(why, mode=THREADING):
    """Decorate a test case that has nothing new to show in the other mode.

    :param why: it has not.
    :param mode: the one that it runs with; eventlet, the default, has more to do besides.
    """
    return testtools.skipIf(concurrency.mode() != mode, f"runs with {mode} only: {why}")
