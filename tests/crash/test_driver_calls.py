"""Calls to the driver, the conductor and the networks, meeting every fate: a sixth of all, which
a seed draws. All of them with MAGNETAR_DOUBLE_KILLS=all."""

from __future__ import annotations

import os
import random

import testtools

from compute.model import states
from db.journal import rows
from tests.crash import calls, matrix
from tests.crash.share import EVERYTHING, runs_here

SEED = os.environ.get("MAGNETAR_SEED", "20261128")
SHARE = 1 / 6
VERBS = ("spawn", "delete", "start", "stop", "reboot", "reap", "pause", "unpause", "suspend",
         "resume", "crash_dump", "rescue", "unrescue", "set_password", "quiesce",
         "unquiesce", "snapshot", "backup", "rebuild", "shelve",
         "shelve_offload", "unshelve", "soft_delete", "restore", "reclaim", "attach_interface",
         "detach_interface", *matrix.VOLUME_VERBS)


class DriverCalls(testtools.TestCase):
    """One method for each call and fate; they are added below."""

    def check(self, case: calls.CallCase) -> None:
        verb = case.way.verb
        ending = calls.run(case)
        self.assertTrue(ending.met, f"{case.call} was not called {case.number} times")
        for command in ending.commands:
            self.assertIn("magnetar op resolve", command)
        self.assertEqual([], ending.unsafe)
        self.assertIn(ending.row.state, rows.ENDED)
        undone = ending.row.state == rows.UNDONE
        expected = (matrix.UNDONE if undone else matrix.DONE).get(verb, ())
        problems = matrix.problems(verb, ending.outcome, expected)
        if case.call == "driver.plug_device" and case.fate is calls.Fate.FAILED:
            # A device that does not go in again is reported, and keeps nobody from the guest.
            self.assertIn("devices", {f.rule for f in ending.outcome.findings})
            self.assertEqual(states.ACTIVE, ending.outcome.fields["vm_state"])
        else:
            self.assertEqual([], problems)


class Trace(testtools.TestCase):
    """The list of calls is what it should be: complete, and the same each time."""

    def test_each_verb_is_recorded(self):
        for verb in VERBS:
            straight = calls.recorded(calls.Way(verb))
            ports = {call.split(".")[0] for call in straight}
            self.assertIn("driver", ports, verb)
            if verb != "reap":
                self.assertIn("conductor", ports, verb)
            again = calls.recorded.__wrapped__(calls.Way(verb))
            self.assertEqual(straight, again, verb)

    def test_an_undo_makes_calls_of_its_own(self):
        undone = calls.recorded(calls.Way("spawn", "spawn.power.after_effect"))
        for call in ("driver.power_off", "driver.undefine", "driver.delete_disks",
                     "networks.deallocate", "conductor.build_instances"):
            self.assertIn(call, undone)


def _add(case: calls.CallCase) -> None:
    if not runs_here(case.id):
        return

    def test(self) -> None:
        self.check(case)

    test.__name__ = f"test_{case.id}"
    setattr(DriverCalls, test.__name__, test)


def _fill() -> None:
    for verb in VERBS:
        for case in calls.cases(verb):
            if EVERYTHING or random.Random(f"{SEED} {case.id}").random() < SHARE:
                _add(case)


_fill()
