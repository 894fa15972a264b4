"""Guests that get new disks in place, and what kills the agent on the way.

A test or more for each row of the list of partial failures that is about rebuilding in place.
"""

from __future__ import annotations

from compute.model import states
from compute.operations import OPERATIONS
from db.journal import rows
from tests import fakes
from tests.crash.matrix import GUEST, PREPARED
from tests.functional import test_partial_failures_sleep as sleep


class Row41Test(sleep.PartialFailureTest):
    """Killed in a rebuild."""

    def asked(self, verb: str) -> dict:
        vm_state, task, args = PREPARED[verb]
        return {"instance": self.world.conductor.set(GUEST, task_state=task), **args}

    def assert_tidy(self) -> None:
        self.assert_is(states.ACTIVE, states.RUNNING)
        self.assertFalse(self.world.driver._aside(GUEST).exists())
        self.assertEqual(fakes.IMAGE_ID, self.fields()["image_ref"])

    def test_row_41_killed_anywhere_it_is_done(self):
        for step in OPERATIONS["rebuild"].steps:
            for moment in sleep.MOMENTS:
                self.build(device=False)
                self.killed("rebuild", f"{step.name}.{moment}")
                self.recovered()
                self.assert_tidy()
                self.assertEqual(1, self.count(), "it is not on new disks")

    def test_row_41_told_to_stop_after_the_kill_it_runs_on_its_former_disks(self):
        for step in OPERATIONS["rebuild"].undoable():
            for moment in sleep.MOMENTS[1:]:
                self.build(device=False)
                self.killed("rebuild", f"{step.name}.{moment}")
                self.open()
                [row] = self.world.journal.find(active=True)
                self.world.journal.update(row.id, abort="not wanted")
                self.recovered()
                self.assertEqual(rows.UNDONE, self.world.journal.row(row.id).state)
                self.assert_tidy()
                self.assert_went_on()
