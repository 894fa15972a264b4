"""What one migration may take: options of the source, and what is asked for instead of them."""

import testtools

from compute.errors import Refused
from compute.migration.policy import Limits
from compute.migration.terms import TUNED, Asked, Terms, tuned
from compute.rpc.primitives import data, make, own, with_own
from db.journal.rows import Claim
from tests.golden.cases import GUEST, guest
from tests.unit.test_migration_strategy import options

PROMISE = guest(specs={"magnetar:max_pause_ms": "80"})


def claim(kind, **asked):
    return Claim(kind=kind, key="g", guest="g", operation="o", data=asked, created=0.0)


class AskedTest(testtools.TestCase):
    def test_only_what_was_asked_for_is_told(self):
        self.assertEqual({}, Asked.of(None).to_plain())
        plain = {"strategy": "multifd", "bandwidth": 0, "max_pause": 1}
        self.assertEqual(plain, Asked.of(plain).to_plain())
        self.assertEqual({"bandwidth": 3}, Asked.of({"bandwidth": 3, "max_pause": None}).to_plain())

    def test_later_words_count(self):
        first = Asked("precopy", 10, 20)
        self.assertEqual(Asked("precopy", 0, 20), first.changed(Asked(bandwidth=0)))
        self.assertEqual(first, first.changed(Asked()))

    def test_what_makes_no_sense_is_refused(self):
        for name, wrong in (("bandwidth", (-1, 1.5, "10", True, 1 << 31)),
                            ("longest pause", (0, -5, "x", False, 2_000_001)),
                            ("speed", (1,))):
            for value in wrong:
                error = self.assertRaises(
                    Refused, Asked.of, {name.replace("longest pause", "max_pause"): value})
                self.assertEqual("bad_value", error.code, (name, value))
                self.assertIn(name, error.what)
                self.assertTrue(error.now and error.next)
        for value in ("fast", "", 3):
            error = self.assertRaises(Refused, Asked.of, {"strategy": value})
            self.assertEqual("strategy_unknown", error.code)


class TermsTest(testtools.TestCase):
    def test_the_options_unless_something_was_asked_for(self):
        conf = options(live_migration_bandwidth=50, live_migration_downtime=300)
        self.assertEqual(Terms("auto", 50, 300, False), Terms.of(conf, GUEST, Asked()))
        self.assertEqual(Terms("precopy", 0, 900, False),
                         Terms.of(conf, GUEST, Asked("precopy", 0, 900)))

    def test_what_the_source_does_not_permit_is_refused(self):
        for wanted in ("postcopy", "multifd"):
            error = self.assertRaises(Refused, Terms.of, options(), GUEST, Asked(wanted))
            self.assertEqual("strategy_not_permitted", error.code)
        conf = options(live_migration_permit_post_copy=True)
        self.assertEqual("postcopy", Terms.of(conf, GUEST, Asked("postcopy")).strategy)

    def test_a_promised_pause_is_kept(self):
        self.assertEqual(Terms("auto", 0, 80, True), Terms.of(options(), PROMISE, Asked()))
        self.assertEqual(Terms("auto", 0, 30, True),
                         Terms.of(options(), PROMISE, Asked(max_pause=30)))
        error = self.assertRaises(Refused, Terms.of, options(), PROMISE, Asked(max_pause=81))
        self.assertEqual("pause_promised", error.code)
        self.assertIn("80 ms", error.what)

    def test_what_is_asked_for_meanwhile_changes_the_limits(self):
        begun = Limits(budget_ms=500, bandwidth=10, postcopy=True)
        self.assertEqual(begun, tuned(begun, [claim("force"), claim("slot", link="host2")]))
        self.assertEqual(Limits(budget_ms=500, bandwidth=0, postcopy=True),
                         tuned(begun, [claim(TUNED, bandwidth=0)]))
        self.assertEqual(Limits(budget_ms=700, bandwidth=20, postcopy=True),
                         tuned(begun, [claim("force"), claim(TUNED, bandwidth=20, max_pause=700)]))


class OwnTest(testtools.TestCase):
    def test_facts_of_ours_lie_beside_novas_fields(self):
        theirs = make("LibvirtLiveMigrateData", {"block_migration": True})
        ours = with_own(theirs, {"asked": {"bandwidth": 3}})
        self.assertEqual({"asked": {"bandwidth": 3}}, own(ours))
        self.assertEqual({"block_migration"}, set(data(theirs)))
        self.assertEqual(["block_migration"], ours["nova_object.changes"])
        self.assertEqual({}, own(theirs))
        self.assertEqual({}, own(None))
