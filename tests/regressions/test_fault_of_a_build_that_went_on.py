"""A build that was called lost got a fault although the control plane refused the change of its
state, since it had gone on meanwhile."""

from compute.model import states
from tests.unit.test_recovery_reconcile import UUID, ReconcileTest


class LostBuildTest(ReconcileTest):
    def test_a_lost_build_that_went_on_meanwhile_gets_no_fault(self):
        self.booted()
        self.conductor.set(UUID, vm_state=states.BUILDING, task_state=states.SPAWNING)
        save = self.conductor.save

        def late(context, prim, changes, **expected):
            self.conductor.set(UUID, vm_state=states.ACTIVE, task_state=None)
            return save(context, prim, changes, **expected)

        self.patch(self.conductor, "save", late)
        self.run_pass()
        self.assertEqual("lost-build", self.row())
        self.assertEqual((states.ACTIVE, []),
                         (self.fields()["vm_state"], self.conductor.read()["faults"]))
