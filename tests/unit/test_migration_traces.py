"""The policy on traces of real migrations: its decisions, their order, and what disturbs them."""

from dataclasses import replace

import testtools

from compute.migration import estimate, policy, trend
from compute.migration.policy import ABORT, DOWNTIME, PAUSE, POSTCOPY, RECOVER
from compute.model import move
from tests.unit.migration_support import TRACES, traces

# What each recorded migration needs, in its order. A change here is a change of the policy.
EXPECTED = {
    "idle": [], "converges": [], "paused": [], "block": [],
    "raised-pause": [DOWNTIME],
    "never-converges": [DOWNTIME, ABORT],
    "auto-converge": [DOWNTIME],
    "postcopy": [DOWNTIME, POSTCOPY],
    "postcopy-eager": [POSTCOPY],
    "postcopy-cut": [POSTCOPY, RECOVER],
    "aborted": [ABORT], "block-aborted": [ABORT],
    "forced": [DOWNTIME, PAUSE],
    "block-busy": [DOWNTIME, POSTCOPY],
}
ALL = traces()


class DecisionsTest(testtools.TestCase):
    def test_every_trace_has_its_row_and_is_a_real_one(self):
        self.assertEqual(set(EXPECTED), set(ALL))
        self.assertTrue(all(trace.recorded for trace in ALL.values()))

    def test_decisions_and_their_order(self):
        for name, trace in ALL.items():
            self.assertEqual(EXPECTED[name], trace.kinds(), name)

    def test_they_are_those_that_were_carried_out_when_it_was_recorded(self):
        for name, trace in ALL.items():
            played = [(index, action.kind) for index, action in trace.play()]
            self.assertEqual([(index, kind) for index, kind, _ in trace.done], played, name)

    def test_they_had_the_end_that_they_should(self):
        for name, trace in ALL.items():
            last = trace.samples[-1].phase
            wanted = move.CANCELLED if ABORT in EXPECTED[name] else move.COMPLETED
            self.assertEqual(wanted, last, name)

    def test_each_has_a_reason_in_words(self):
        for name, trace in ALL.items():
            for count in range(1, len(trace.samples) + 1):
                reason = policy.decide(trace.samples[:count], trace.limits, trace.state).reason
                self.assertRegex(reason, r"\A[A-Z0-9].{10,}[.]\Z", name)


class DisturbedTest(testtools.TestCase):
    def test_seldom_samples_give_the_same_decisions(self):
        # The others end within half a second of a decision, so that no later sample is there.
        for name in ("idle", "converges", "paused", "block", "never-converges", "auto-converge",
                     "forced", "aborted", "block-aborted"):
            self.assertEqual(EXPECTED[name], ALL[name].kinds(every=5), name)

    def test_passes_without_a_number_give_the_same_decisions(self):
        for name in ("never-converges", "postcopy", "postcopy-eager", "forced", "auto-converge"):
            kinds = ALL[name].kinds(lambda one: replace(one, iteration=0))
            self.assertEqual(EXPECTED[name], kinds, name)

    def test_a_hypervisor_that_tells_no_bandwidth_gives_the_same_decisions(self):
        for name in ("never-converges", "postcopy", "postcopy-eager", "forced"):
            kinds = ALL[name].kinds(lambda one: replace(one, bandwidth=0))
            self.assertEqual(EXPECTED[name], kinds, name)

    def test_without_any_clock_nothing_is_done_because_of_time(self):
        still = ALL["never-converges"].kinds(lambda one: replace(one, elapsed=0.0, time=0.0))
        self.assertEqual([DOWNTIME], still)

    def test_one_clock_is_enough(self):
        for field in ("time", "elapsed"):
            kinds = ALL["never-converges"].kinds(lambda one, f=field: replace(one, **{f: 0.0}))
            self.assertEqual([DOWNTIME, ABORT], kinds, field)

    def test_a_clock_that_jumps_does_not_make_it_time_out(self):
        trace = ALL["auto-converge"]
        half = trace.samples[100].time
        for field in ("time", "elapsed"):
            for jump in (86400.0, -86400.0):
                def jumped(one, f=field, by=jump):
                    return replace(one, **{f: getattr(one, f) + (by if one.time > half else 0)})

                self.assertEqual(EXPECTED["auto-converge"], trace.kinds(jumped), (field, jump))

    def test_an_agent_that_begins_to_look_later_decides_the_same(self):
        trace = traces()["never-converges"]
        trace.samples = trace.samples[30:]
        self.assertEqual([DOWNTIME, ABORT], trace.kinds())
        trace.samples = trace.samples[180:]
        trace.state = replace(trace.state, downtime_ms=300, raised_at=3)
        self.assertEqual([ABORT], trace.kinds())


class OtherLimitsTest(testtools.TestCase):
    def test_a_larger_budget_is_used_only_as_far_as_needed(self):
        done = ALL["never-converges"].play(budget_ms=10_000, completion_seconds=0)
        self.assertEqual({DOWNTIME}, {action.kind for _, action in done})
        self.assertTrue(all(2000 < action.value < 3000 for _, action in done), done)

    def test_a_timeout_forces_where_that_is_wanted(self):
        trace = ALL["never-converges"]
        forced = {"timeout_action": policy.FORCE_ACTION, "completion_seconds": 20}
        self.assertEqual([DOWNTIME, PAUSE], trace.kinds(**forced)[:2])
        self.assertEqual([DOWNTIME, POSTCOPY], trace.kinds(**forced, postcopy=True)[:2])
        self.assertEqual([DOWNTIME, ABORT], trace.kinds(**forced, promised=True))

    def test_a_guest_that_was_paused_is_left_alone(self):
        kinds = ALL["never-converges"].kinds(
            guest_paused=True, postcopy=True, timeout_action=policy.FORCE_ACTION)
        self.assertEqual([DOWNTIME], kinds)

    def test_the_pause_that_a_force_means_is_foretold(self):
        trace = ALL["forced"]
        ((_, action),) = [one for one in trace.play() if one[1].kind == PAUSE]
        stopped = [s.time for s in trace.samples if s.phase == move.SWITCHOVER]
        real = 1000 * (stopped[-1] - stopped[0])
        self.assertTrue(real / 2 < action.value < real * 2, (action, real))


class TrendTest(testtools.TestCase):
    def test_borders_are_the_peaks(self):
        seen = trend.borders(ALL["never-converges"].samples)
        self.assertEqual(list(range(1, len(seen) + 1)), [border.iteration for border in seen])
        for border in seen[1:]:
            self.assertTrue(40 << 20 <= border.remaining <= 44 << 20, border)

    def test_time_and_bandwidth_are_those_of_the_transfer(self):
        trace = ALL["never-converges"]
        running = [one for one in trace.samples if one.phase == move.PRECOPY]
        self.assertAlmostEqual(running[-1].elapsed, trend.spent(running), delta=1.5)
        told, processed = trend.bandwidth(running), trend.bandwidth(
            [replace(one, bandwidth=0) for one in running])
        self.assertAlmostEqual(20.0, told / (1 << 20), delta=1)
        self.assertAlmostEqual(20.0, processed / (1 << 20), delta=2)

    def test_the_time_left_is_about_right(self):
        for name, delta in (("paused", 4.5), ("postcopy-cut", 15.0)):
            trace = ALL[name]
            samples = [s for s in trace.samples if s.phase in (move.PRECOPY, move.POSTCOPY)]
            for count in (len(samples) // 3, len(samples) // 2, len(samples) - 5):
                left = estimate.seconds_left(samples[:count])
                real = samples[-1].time - samples[count - 1].time
                self.assertAlmostEqual(real, left, delta=delta, msg=f"{name} {count}")
        self.assertIsNone(estimate.seconds_left(ALL["never-converges"].samples[:100]))
        self.assertIsNone(estimate.seconds_left(ALL["idle"].samples))
        self.assertIsNone(estimate.seconds_left([]))


class FilesTest(testtools.TestCase):
    def test_they_tell_nothing_of_the_machine(self):
        for path in TRACES.glob("*.json"):
            self.assertNotRegex(path.read_text(), r"/tmp|/work|/root|/home", path.name)
