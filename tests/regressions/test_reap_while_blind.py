"""Disks of a deleted guest were reaped while the hypervisor could not be asked whether the guest
still ran on them."""

import testtools

from compute.recovery.decide import Act, of_guest
from tests.unit.test_recovery_decide import UNKNOWN, guest


class BlindTest(testtools.TestCase):
    def test_nothing_is_reaped_on_half_a_picture(self):
        for facts in (guest(UNKNOWN, True, None, True, claims=False),
                      guest(UNKNOWN, True, None, True), guest(None, UNKNOWN, None, True)):
            verdict = of_guest(facts, rebooted=False, resume=False, waited=True)
            self.assertEqual((Act.WAIT, "blind"), (verdict.act, verdict.row))
