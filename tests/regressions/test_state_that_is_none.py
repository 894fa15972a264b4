"""A domain whose state the hypervisor does not say was called stopped in the log, was not recorded
as stopped, and so was called stopped again at each pass.
"""

import testtools

from compute.model import states
from compute.recovery.decide import of_guest, power_changes
from tests.unit.test_recovery_decide import domain, guest, record


class NoStateTest(testtools.TestCase):
    def test_it_is_recorded_once_and_stops_nobody(self):
        facts = guest(domain(states.NOSTATE), rec=record())
        self.assertEqual("power-state", self.row(facts))
        self.assertEqual({"power_state": states.NOSTATE}, power_changes(facts))
        after = guest(domain(states.NOSTATE), rec=record(power=states.NOSTATE))
        self.assertEqual("settled", self.row(after))

    def row(self, facts):
        return of_guest(facts, rebooted=False, resume=False, waited=True).row
