"""Which strategy is chosen and why, pause budgets, and what is foretold."""

from dataclasses import replace

import testtools
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from compute import conf as configuration
from compute.conf import migration as migration_options
from compute.conf import moves as moves_options
from compute.errors import Refused
from compute.migration import estimate, policy, strategy
from compute.migration.estimate import completion_seconds, predict, seconds_left
from compute.migration.strategy import Choice, Facts, Permits, choose_strategy, pause_budget
from compute.model import move
from compute.model.move import MovePlan
from tests.golden.cases import GUEST, guest
from tests.unit.migration_support import MIB, sample
from tests.unit.test_docs import DOCS, first_name, table

GIB = 1024 * MIB
QUIET = Facts(memory=4 * GIB, dirty_rate=10 * MIB, bandwidth=1000 * MIB)
BUSY = replace(QUIET, dirty_rate=2000 * MIB)
UNKNOWN = replace(QUIET, dirty_rate=None)
EVERYTHING = Permits(postcopy=True, auto_converge=True, channels=4)


def options(**values):
    conf = cfg.ConfigOpts()
    configuration.register(conf)
    conf([], default_config_files=[])
    for name, value in values.items():
        conf.set_override(name, value, group="libvirt")
    return conf


class ChoiceTest(testtools.TestCase):
    # facts, permits -> what auto takes, and its flags
    AUTO = [
        (QUIET, Permits(), Choice("precopy", "")),
        (QUIET, Permits(auto_converge=True), Choice("precopy", "", auto_converge=True)),
        (QUIET, Permits(postcopy=True, auto_converge=True), Choice("precopy", "", postcopy=True)),
        (QUIET, Permits(channels=4), Choice("multifd", "", channels=4)),
        (QUIET, EVERYTHING, Choice("precopy", "", postcopy=True)),
        (BUSY, Permits(), Choice("precopy", "")),
        (BUSY, Permits(auto_converge=True), Choice("auto-converge", "", auto_converge=True)),
        (BUSY, EVERYTHING, Choice("postcopy", "", postcopy=True)),
        (UNKNOWN, Permits(), Choice("precopy", "")),
        (UNKNOWN, EVERYTHING, Choice("precopy", "", postcopy=True)),
        (replace(QUIET, bandwidth=0), Permits(channels=2), Choice("multifd", "", channels=2)),
        (replace(BUSY, paused=True), EVERYTHING, Choice("precopy", "")),
    ]

    def test_auto(self):
        for facts, permits, wanted in self.AUTO:
            found = choose_strategy("auto", facts, permits)
            self.assertEqual(wanted, replace(found, reason=""), (facts, permits))
            self.assertTrue(found.reason.endswith("."), found.reason)

    def test_the_reason_names_both_rates(self):
        reason = choose_strategy("auto", BUSY, EVERYTHING).reason
        self.assertIn("2.0 GiB/s", reason)
        self.assertIn("1000.0 MiB/s", reason)
        self.assertIn("dirty rate", choose_strategy("auto", UNKNOWN, Permits()).reason)

    def test_what_was_asked_for_is_taken(self):
        for name, flags in (
            ("precopy", {"postcopy": False, "auto_converge": False, "channels": 1}),
            ("postcopy", {"postcopy": True, "auto_converge": False, "channels": 1}),
            ("auto-converge", {"postcopy": False, "auto_converge": True, "channels": 1}),
            ("multifd", {"postcopy": False, "auto_converge": True, "channels": 4}),
        ):
            for facts in (QUIET, BUSY, UNKNOWN):
                found = choose_strategy(name, facts, EVERYTHING)
                self.assertEqual((name, flags), (found.strategy, found.flags()))
                self.assertEqual(name == "postcopy", found.eager)
            self.assertEqual(flags, {k: MovePlan("", **flags).to_plain()[k] for k in flags})

    def test_a_paused_guest_goes_by_pre_copy_whatever_was_asked_for(self):
        for name in strategy.STRATEGIES:
            found = choose_strategy(name, replace(BUSY, paused=True), EVERYTHING)
            self.assertEqual(Choice("precopy", found.reason), found)

    def test_what_is_not_permitted_is_refused_with_the_option(self):
        for name in ("postcopy", "auto-converge", "multifd"):
            error = self.assertRaises(Refused, choose_strategy, name, QUIET, Permits())
            self.assertEqual("strategy_not_permitted", error.code)
            self.assertIn("live_migration_p", error.next)
        error = self.assertRaises(Refused, choose_strategy, "magic", QUIET, EVERYTHING)
        self.assertEqual("strategy_unknown", error.code)
        self.assertIn("auto-converge", error.next)

    def test_permits_are_the_options(self):
        self.assertEqual(Permits(False, True, 1), Permits.of(options()))
        self.assertEqual(EVERYTHING, Permits.of(options(
            live_migration_permit_post_copy=True, live_migration_parallel_connections=4)))

    def test_the_options_name_the_same_strategies(self):
        conf = options()
        for name in strategy.STRATEGIES:
            conf.set_override("live_migration_strategy", name, group="libvirt")
            self.assertEqual(name, conf.libvirt.live_migration_strategy)


class BudgetTest(testtools.TestCase):
    def test_the_smaller_promise_counts_and_else_the_option(self):
        spec, prop = {"magnetar:max_pause_ms": "80"}, {"magnetar_max_pause_ms": "30"}
        self.assertEqual((500, False), pause_budget(GUEST, 500))
        self.assertEqual((80, True), pause_budget(guest(specs=spec), 500))
        self.assertEqual((30, True), pause_budget(guest(properties=prop), 500))
        self.assertEqual((30, True), pause_budget(guest(specs=spec, properties=prop), 10))

    def test_nonsense_is_refused(self):
        for value in ("0", "-1", "1.5", "many", "", "2000001", "٣"):
            error = self.assertRaises(
                Refused, pause_budget, guest(specs={"magnetar:max_pause_ms": value}), 500)
            self.assertEqual("pause_unacceptable", error.code)
            self.assertIn("magnetar:max_pause_ms", str(error))

    def test_it_begins_with_less(self):
        self.assertEqual((200, 40), (strategy.first_pause(500), strategy.first_pause(40)))

    def test_limits(self):
        plan = MovePlan("", postcopy=True, bandwidth=7, channels=1)
        choice = Choice("postcopy", "", postcopy=True)
        conf = options(live_migration_timeout_action="force_complete")
        found = strategy.limits(guest(specs={"magnetar:max_pause_ms": "80"}), conf, choice, plan,
                                paused=False, disks=[GIB, 10 * GIB])
        self.assertEqual(policy.Limits(
            budget_ms=80, promised=True, completion_seconds=800 * (2 + 2 + 10),
            timeout_action="force_complete", bandwidth=7, postcopy=True, eager=True), found)
        plain = strategy.limits(GUEST, options(), Choice("precopy", ""), MovePlan(""), paused=True)
        self.assertEqual(policy.Limits(completion_seconds=1600, guest_paused=True), plain)

    def test_a_link_is_as_fast_as_it_was_seen_and_as_allowed(self):
        for measured, limit, wanted in ((0, 0, 0), (0, 5, 5 * MIB), (9 * MIB, 0, 9 * MIB),
                                        (9 * MIB, 5, 5 * MIB), (3 * MIB, 5, 3 * MIB)):
            self.assertEqual(wanted, strategy.link_bandwidth(measured, limit))


class EstimateTest(testtools.TestCase):
    def predict(self, name="precopy", dirty=10, bandwidth=1000, **more):
        return predict(name, memory=4 * GIB, bandwidth=bandwidth * MIB,
                       dirty_rate=None if dirty is None else dirty * MIB, **more)

    def test_one_pass_of_a_quiet_guest(self):
        found = self.predict()
        self.assertEqual((True, 1), (found.converges, found.passes))
        self.assertAlmostEqual(5.1, found.seconds, places=1)
        self.assertEqual(50 + 41, found.downtime_ms)

    def test_passes_are_a_geometric_series(self):
        found = self.predict(dirty=500)
        # 4096, 2048, 1024 MiB, and 512 are left, which take 512 ms: one more
        self.assertEqual(4, found.passes)
        self.assertAlmostEqual(1 + (4096 + 2048 + 1024 + 512) / 1000, found.seconds, places=2)
        self.assertEqual(50 + 256, found.downtime_ms)

    def test_a_busy_guest_does_not_converge(self):
        found = self.predict(dirty=1000)
        self.assertEqual((None, None, False),
                         (found.seconds, found.downtime_ms, found.converges))
        self.assertIn("4.0 GiB are left", found.reason)
        self.assertTrue(self.predict(dirty=1000, budget_ms=5000).converges)

    def test_auto_converge_makes_it_converge(self):
        found = self.predict("auto-converge", dirty=1000)
        self.assertTrue(found.converges)
        self.assertIn("slowed", found.reason)
        self.assertFalse(self.predict("auto-converge", dirty=200_000, bandwidth=10).converges)

    def test_post_copy_ends_whatever_the_guest_does(self):
        for dirty in (0, 1000, 100_000, None):
            found = self.predict("postcopy", dirty=dirty)
            self.assertEqual((True, 50), (found.converges, found.downtime_ms))
            self.assertTrue(5 < found.seconds < 10)

    def test_what_is_not_known_is_not_told(self):
        found = self.predict(dirty=None)
        self.assertEqual((None, None), (found.downtime_ms, found.converges))
        self.assertAlmostEqual(5.1, found.seconds, places=1)
        self.assertIsNone(self.predict(bandwidth=0).seconds)

    def test_disks_go_over_first(self):
        self.assertAlmostEqual(10.24, self.predict(disks=10 * GIB).seconds - self.predict().seconds,
                               places=2)

    def test_the_completion_timeout_grows_with_the_guest(self):
        for memory, disks, gib in ((512, [], 2), (2048, [], 2), (8192, [], 8), (512, [1], 4),
                                   (4096, [5 * GIB, GIB], 4 + 5 + 2)):
            self.assertEqual(800 * gib, completion_seconds(800, memory, disks))
        self.assertEqual(0, completion_seconds(0, 4096))

    @settings(max_examples=200)
    @given(st.sampled_from(["precopy", "auto-converge", "multifd", "postcopy"]),
           st.integers(1, 1 << 42), st.integers(0, 1 << 36), st.one_of(
               st.none(), st.integers(0, 1 << 36)), st.integers(0, 1 << 42),
           st.integers(1, 2_000_000))
    def test_it_holds_for_all_sizes(self, name, memory, bandwidth, dirty_rate, disks, budget_ms):
        found = predict(name, memory=memory, bandwidth=bandwidth, dirty_rate=dirty_rate,
                        disks=disks, budget_ms=budget_ms)
        self.assertTrue(found.seconds is None or found.seconds >= estimate.SETUP_SECONDS)
        self.assertTrue(found.reason.endswith("."))
        if found.converges:
            self.assertTrue(found.downtime_ms <= budget_ms + estimate.SWITCH_MS)
        if found.converges is False:
            self.assertIsNone(found.seconds)
            self.assertTrue(dirty_rate * 2 > bandwidth)
        self.assertEqual(found.seconds, found.to_plain()["seconds"])


class SecondsLeftTest(testtools.TestCase):
    def left(self, phase=move.PRECOPY, **fields):
        return seconds_left([sample(1, phase, **{"bandwidth": 100, **fields})])

    def test_by_phase(self):
        self.assertEqual(5.0, self.left(memory_remaining=500))
        self.assertEqual(7.0, self.left(memory_remaining=500, disk_remaining=200))
        self.assertEqual(2.0, self.left(move.SETUP, disk_remaining=200))
        self.assertEqual(3.0, self.left(move.SETUP, disk_remaining=200, memory_total=100))
        self.assertEqual(3.0, self.left(move.POSTCOPY, memory_remaining=300))
        self.assertEqual(0.0, self.left())
        for phase in (*move.ENDED, move.POSTCOPY_PAUSED):
            self.assertIsNone(self.left(phase))

    def test_what_the_guest_writes_is_reckoned_with(self):
        self.assertEqual(10 + 5 + 2.5 + 1.25 + 0.625, self.left(
            memory_remaining=1000, dirty_rate=50))
        self.assertIsNone(self.left(memory_remaining=1000, dirty_rate=100))


class PageTest(testtools.TestCase):
    """docs/migration.md tells all strategies, phases and options."""

    PAGE = DOCS / "migration.md"

    def test_strategies(self):
        told = {first_name(row[0]) for row in table(self.PAGE, "strategy", "how")}
        self.assertEqual(set(strategy.STRATEGIES), told)

    def test_phases(self):
        told = " ".join(row[0] for row in table(self.PAGE, "phase"))
        for phase in (move.SETUP, move.PRECOPY, move.SWITCHOVER, move.POSTCOPY,
                      move.POSTCOPY_PAUSED, *move.ENDED):
            self.assertIn(f"`{phase}`", told)

    def test_options_and_their_defaults(self):
        told = {first_name(row[0]).rsplit(" ", 1)[-1]: row[1]
                for row in table(self.PAGE, "option", "default")}
        known = {opt.name: opt for module in (migration_options, moves_options)
                 for opt in module.OPTS}
        self.assertEqual(set(known), set(told))
        for name, opt in known.items():
            if opt.default is not None:
                self.assertEqual(str(opt.default).lower(), told[name].split(",")[0], name)
