"""The new boot id was written down before the guests that ran were started: an agent that was
killed between the two never started them.
"""

import contextlib

from compute.model import states
from compute.recovery.reconcile import Reconciler
from tests.unit.test_recovery_reconcile import UUID, HostBoot
from tests.waiting import wait_until


class BootNotedTest(HostBoot):
    def test_killed_before_the_guests_were_started_it_looks_again(self):
        """The boot id is written down last."""
        self.rebooted()
        accept = self.manager.accept

        class Killed(BaseException):
            pass

        def killed(*args):
            raise Killed

        self.manager.accept = killed
        with contextlib.suppress(Killed):
            self.reconciler.run_pass()
        self.assertEqual("first", self.journal.fact("boot_id"))
        self.manager.accept = accept
        again = Reconciler(self.manager, {"request_id": None})
        again.run_pass()
        wait_until(lambda: not self.manager.running())
        self.assertEqual(states.RUNNING, self.world.driver.state(UUID).power_state)
