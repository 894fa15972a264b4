"""A host was booted while an operation was under way, or while a message to its guest waited: the
guest, which had run, stayed off, since it was not at rest in the pass after the boot.
"""

from __future__ import annotations

from compute.model import states
from tests.functional.test_partial_failures_sleep import GUEST, PartialFailureTest
from tests.waiting import wait_until


class HostBootTest(PartialFailureTest):
    def starts(self) -> None:
        """The agent of the booted host starts."""
        self.down()
        self.open(resume_guests_state_on_host_boot=True)
        self.reconciler.resume()
        wait_until(lambda: not self.manager.running())

    def test_an_operation_was_under_way(self):
        self.build(device=False)
        self.reconciler.run_pass()
        self.killed("pause", "event.after_record")
        self.starts()
        self.passes()
        self.assert_is(states.ACTIVE, states.RUNNING)

    def test_a_message_came_before_the_first_pass(self):
        self.build(device=False)
        self.reconciler.run_pass()
        asked = self.asked("pause")
        self.starts()
        self.manager.accept("pause", GUEST, "req-pause", asked, {"request_id": "req-pause"})
        wait_until(lambda: not self.manager.running())
        self.passes()
        self.assert_is(states.ACTIVE, states.RUNNING)

    def test_one_that_was_stopped_meanwhile_stays_off(self):
        self.build(device=False)
        self.reconciler.run_pass()
        self.killed("pause", "event.after_record")
        self.starts()
        self.do_stop()
        self.passes()
        self.assert_is(states.STOPPED, states.SHUTDOWN)
        self.assertEqual([], self.world.journal.claims(kind="booted"))

    def do_stop(self) -> None:
        """Its tenant stops it before the next pass."""
        self.world.conductor.set(GUEST, vm_state=states.STOPPED, power_state=states.SHUTDOWN)
