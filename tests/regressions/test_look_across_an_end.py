"""An operation ended between the look at the hypervisor and the one at the control plane.

The facts were then from before and from after: a guest that was just started was taken for one that
had stopped by itself, and was recorded as stopped while it ran.
"""

from compute.model import states
from tests.crash.matrix import CONTEXT, run_now
from tests.unit.test_recovery_reconcile import UUID, ReconcileTest


class StaleLookTest(ReconcileTest):
    """Between the look at the hypervisor and the one at the control plane an operation may end."""

    def between(self, change):
        """Do something after the hypervisor was looked at and before the control plane is."""
        instances = self.conductor.instances

        def later(context):
            change()
            return instances(context)

        self.conductor.instances = later
        self.addCleanup(delattr, self.conductor, "instances")

    def test_a_start_that_ends_meanwhile_is_not_taken_for_a_guest_that_stopped(self):
        self.booted()
        self.world.driver.power_off(UUID)
        prim = self.conductor.set(UUID, vm_state=states.STOPPED, power_state=states.SHUTDOWN,
                                  task_state=states.POWERING_ON)
        self.between(lambda: run_now(self.world, "start", {"instance": prim},
                                     {**CONTEXT, "request_id": "req-start"}))
        self.run_pass()
        self.assertEqual((states.ACTIVE, states.RUNNING),
                         (self.fields()["vm_state"], self.fields()["power_state"]))
        del self.conductor.instances
        self.conductor.instances = type(self.conductor).instances.__get__(self.conductor)
        self.run_pass()
        self.assertEqual("settled", self.row())

    def test_a_delete_that_ends_meanwhile_is_not_reaped(self):
        self.booted()
        prim = self.conductor.set(UUID, task_state=states.DELETING)
        self.between(lambda: run_now(self.world, "delete", {"instance": prim, "bdms": None},
                                     {**CONTEXT, "request_id": "req-delete"}))
        self.run_pass()
        self.assertEqual(["spawn", "delete"], [r.verb for r in self.journal.find()])

    def test_a_request_that_comes_meanwhile_is_left_to_its_worker(self):
        self.booted()
        prim = self.conductor.set(UUID, task_state=states.POWERING_OFF)
        self.between(lambda: self.journal.accept(
            "stop", UUID, "req-new", {"args": {"instance": prim}, "context": {}}))
        self.run_pass()
        self.assertEqual(["spawn", "stop"], [r.verb for r in self.journal.find()])
