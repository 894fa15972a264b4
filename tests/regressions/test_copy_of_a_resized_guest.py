"""A guest was evacuated, and resized on its new host before the old one came back: the old copy was
taken for the way back of that resize, and stayed until it was confirmed."""

from dataclasses import replace

import testtools

from compute.model import states
from compute.recovery.decide import Act, of_guest
from compute.recovery.invariants import check
from compute.recovery.observe import Observation
from db.journal.rows import Claim
from tests.unit.test_recovery_decide import UUID, domain, fact, guest, record


def judged(facts):
    return of_guest(facts, rebooted=False, resume=False, waited=True)


class CopyTest(testtools.TestCase):
    def facts(self, *kinds):
        there = record(states.RESIZED)
        there["nova_object.data"]["host"] = "other"
        claims = tuple(Claim(kind, UUID, UUID, "op", {}, 1.0) for kind in kinds)
        return replace(guest(domain(states.SHUTDOWN), True, None), elsewhere=fact(there),
                       deleted=fact(False), claims=claims)

    def test_it_is_cleared(self):
        facts = self.facts("domain", "disks", "resources")
        self.assertEqual((Act.REAP, "vacate"), (judged(facts).act, judged(facts).verb))
        [finding] = check(Observation(1000.0, {UUID: facts}, (), ()))
        self.assertEqual("owner", finding.rule)

    def test_the_way_back_is_kept(self):
        for kind in ("aside", "resources-move"):
            facts = self.facts(kind)
            self.assertEqual("under-way", judged(facts).row)
            self.assertEqual([], check(Observation(1000.0, {UUID: facts}, (), ())))
