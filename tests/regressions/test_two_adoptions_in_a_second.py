"""Two lost messages of one kind within a second got the same request id: the second was taken for a
repetition of the first and never carried out."""

from compute.model import states
from tests.unit.test_recovery_reconcile import UUID, ReconcileTest


class AdoptionTest(ReconcileTest):
    def test_two_adoptions_within_a_second_are_two_operations(self):
        self.booted()
        for _ in range(2):
            self.conductor.set(UUID, task_state=states.REBOOTING_HARD)
            self.run_pass()
            self.assertIsNone(self.fields()["task_state"])
        self.assertEqual(["spawn", "reboot", "reboot"], [r.verb for r in self.journal.find()])
