"""The policy, row by row, and what holds for whatever samples come."""

from dataclasses import replace

import testtools
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.migration import policy, trend
from compute.migration.policy import (
    ABORT,
    BANDWIDTH,
    DOWNTIME,
    NOTHING,
    PAUSE,
    POSTCOPY,
    RECOVER,
    Action,
    Limits,
    State,
    decide,
)
from compute.model import move
from compute.model.move import JobSample, MovePlan
from tests.unit.migration_support import passes, play, sample

BEGUN = State(downtime_ms=100)
STUCK = passes(1000, 80, 80, 80)  # 800 ms at 100 MiB/s
FORCED = replace(BEGUN, force="an operator wants it.")


def kinds(samples, limits, state=BEGUN, asked=()):
    return [action.kind for _, action in play(samples, limits, state, asked)]


class RowsTest(testtools.TestCase):
    def decides(self, kind, samples, limits=None, state=BEGUN, words=""):
        action = decide(samples, limits or Limits(), state)
        self.assertEqual(kind, action.kind, action)
        self.assertIn(words, action.reason)
        return action

    def test_nothing_is_known(self):
        self.decides(NOTHING, [], words="Nothing has been seen")
        self.decides(NOTHING, [JobSample(move.PRECOPY)], words="says nothing of memory")
        self.decides(NOTHING, [JobSample("a phase of tomorrow")], words="a phase of tomorrow")

    def test_it_is_over(self):
        for phase in move.ENDED:
            for state in (replace(BEGUN, abort="x"), FORCED):
                self.decides(NOTHING, [JobSample(phase)], state=state, words=phase)

    def test_abort(self):
        asked = replace(BEGUN, abort="the tenant wants it.")
        for phase in (move.SETUP, move.PRECOPY, move.SWITCHOVER):
            self.decides(ABORT, [sample(1, phase)], state=asked, words="the tenant wants it")
        told = asked.after(Action(ABORT), [])
        self.decides(NOTHING, [sample(2)], state=told, words="awaited")
        self.decides(NOTHING, [sample(1, move.POSTCOPY)], state=asked, words="too late")
        self.decides(RECOVER, [sample(n, move.POSTCOPY_PAUSED) for n in (1, 7)], state=asked)

    def test_abort_wins_over_force(self):
        both = replace(BEGUN, abort="a", force="f")
        self.decides(ABORT, [sample(1)], Limits(postcopy=True), both)

    def test_a_broken_post_copy_is_recovered_at_growing_intervals(self):
        state, tried = BEGUN, []
        samples = []
        for second in range(130):
            samples.append(sample(second, move.POSTCOPY_PAUSED))
            action = decide(samples, Limits(), state)
            if action.kind == RECOVER:
                tried.append((second, action.value))
                state = state.after(action, samples)
        self.assertEqual([(5, 1), (10, 2), (20, 3), (40, 4), (80, 5)], tried)

    def test_switch_over_and_post_copy_are_left_alone(self):
        limits = Limits(completion_seconds=1)
        for phase in (move.SWITCHOVER, move.POSTCOPY):
            self.decides(NOTHING, [sample(0, phase), sample(50, phase)], limits, FORCED)

    def test_forced_into_post_copy(self):
        limits = Limits(postcopy=True)
        self.decides(POSTCOPY, [sample(1, memory_remaining=900)], limits, FORCED)
        self.decides(NOTHING, [sample(1, move.SETUP)], limits, FORCED, words="memory begins")

    def test_forced_while_disks_are_mirrored(self):
        limits = Limits(postcopy=True)
        mirroring = [sample(0, move.SETUP, disk_remaining=500)]
        self.decides(NOTHING, mirroring, limits, FORCED, words="500.0 MiB are left")
        self.decides(NOTHING, [sample(1, disk_remaining=500)], limits, FORCED)
        self.decides(POSTCOPY, [sample(1, disk_remaining=5)], limits, FORCED)
        self.decides(NOTHING, [sample(1, disk_remaining=5, bandwidth=0)], limits, FORCED)

    def test_forced_while_disks_come_no_closer(self):
        stuck = [sample(at, move.SETUP, disk_remaining=500) for at in range(0, 60, 5)]
        self.decides(PAUSE, stuck, Limits(postcopy=True), FORCED, words="an unknown time")
        slow = [sample(at, move.SETUP, disk_remaining=500 - at) for at in range(0, 60, 5)]
        self.decides(NOTHING, slow, Limits(postcopy=True), FORCED)

    def test_forced_without_post_copy(self):
        action = self.decides(PAUSE, STUCK, Limits(promised=True), FORCED, words="about 1200 ms")
        self.assertEqual(1200, action.value)  # 40 MiB of this pass, 80 of the next
        self.decides(NOTHING, STUCK, Limits(guest_paused=True, postcopy=True), FORCED,
                     words="paused already")

    def test_a_guest_that_we_paused_runs_again_if_it_does_not_end(self):
        state = FORCED.after(Action(PAUSE, 1000), STUCK)
        later = [*STUCK, sample(30, move.SWITCHOVER)]
        self.decides(NOTHING, later, Limits(completion_seconds=1), state, "until the rest")
        later += [sample(50, move.SWITCHOVER), sample(70, move.SWITCHOVER)]
        self.decides(ABORT, later, Limits(), state, "run again, on the source")

    def test_a_long_pause_that_was_told_is_waited_for(self):
        state = FORCED.after(Action(PAUSE, 60_000), STUCK)
        later = [*STUCK, *(sample(at, move.SWITCHOVER) for at in range(10, 200, 10))]
        self.decides(NOTHING, later, Limits(), state)

    def test_timeout(self):
        late = [*STUCK, sample(50, iteration=5, memory_remaining=80)]
        limits = Limits(completion_seconds=40)
        self.decides(ABORT, late, limits, words="longer than the 40 s")
        self.decides(NOTHING, late[:-1], replace(limits, budget_ms=100))
        forced = replace(limits, timeout_action=policy.FORCE_ACTION)
        self.decides(PAUSE, late, forced)
        self.decides(POSTCOPY, late, replace(forced, postcopy=True, promised=True))
        self.decides(ABORT, late, replace(forced, promised=True), words="promise")
        self.decides(ABORT, [sample(0, move.SETUP), sample(50, move.SETUP)], forced)

    def test_a_wanted_bandwidth_is_set(self):
        action = self.decides(BANDWIDTH, [sample(1)], Limits(bandwidth=30))
        self.assertEqual(30, action.value)
        capped = replace(BEGUN, bandwidth=30)
        self.assertEqual(0, self.decides(BANDWIDTH, [sample(1)], Limits(), capped).value)
        self.decides(NOTHING, [sample(1)], Limits(bandwidth=30), capped)
        self.decides(BANDWIDTH, [sample(1, move.POSTCOPY)], Limits(bandwidth=30))
        self.decides(NOTHING, [sample(1, move.SWITCHOVER)], Limits(bandwidth=30))
        paused = replace(BEGUN, paused=True, pause_until=60)
        self.decides(BANDWIDTH, [sample(1, move.SWITCHOVER)], Limits(bandwidth=30), paused)

    def test_a_budget_that_is_lowered_lowers_the_pause(self):
        raised = replace(BEGUN, downtime_ms=400)
        action = self.decides(DOWNTIME, [sample(1)], Limits(budget_ms=200), raised)
        self.assertEqual((200, "The pause may be 200 ms at most now."),
                         (action.value, action.reason))
        self.decides(NOTHING, [sample(1)], Limits(budget_ms=400), raised)

    def test_the_first_pass_says_nothing(self):
        self.decides(NOTHING, [sample(1, memory_remaining=900, dirty_rate=900)], words="first pass")
        mirroring = [sample(1, move.SETUP, disk_remaining=5)]
        self.decides(NOTHING, mirroring, words="5.0 MiB of disks")

    def test_what_shrinks_is_left_alone(self):
        for left in ((1000, 400, 160, 64), (1000, 500, 300, 200)):
            self.assertEqual([], kinds(passes(*left), Limits()))
        self.decides(NOTHING, passes(1000, 8), words="about to switch over")

    def test_a_pause_is_raised_by_need_and_not_above_the_budget(self):
        action = self.decides(DOWNTIME, passes(1000, 30, 30), Limits())
        self.assertEqual(330, action.value)
        action = self.decides(DOWNTIME, STUCK, Limits(budget_ms=500), words="in full now")
        self.assertEqual(500, action.value)
        self.decides(NOTHING, STUCK, Limits(budget_ms=100), words="abort it")

    def test_what_the_hypervisor_expects_counts_where_peaks_are_not_seen(self):
        short = passes(1000, 20, 20, downtime_ms=300, dirty_rate=90)
        self.assertEqual(330, self.decides(DOWNTIME, short, Limits()).value)
        unmeasured = passes(1000, 20, 20, downtime_ms=300)
        self.assertEqual(220, self.decides(DOWNTIME, unmeasured, Limits()).value)

    def test_a_guest_that_outruns_the_network_is_not_given_a_third_pass(self):
        two = passes(1000, 600, dirty_rate=200)
        self.decides(DOWNTIME, two, Limits())
        self.decides(NOTHING, passes(1000, 600, dirty_rate=60), words="shows whether it shrinks")

    def test_post_copy_after_the_budget_did_not_help(self):
        limits = Limits(budget_ms=300, postcopy=True)
        self.assertEqual([DOWNTIME, POSTCOPY], kinds(STUCK, limits))
        self.assertEqual([DOWNTIME], kinds(STUCK[:6], limits))  # raised in this very pass
        self.assertEqual([POSTCOPY], kinds(STUCK, replace(limits, eager=True)))
        self.assertEqual([DOWNTIME], kinds(STUCK, replace(limits, guest_paused=True)))
        mirroring = [replace(one, disk_remaining=900 << 20) for one in STUCK]
        self.assertEqual([DOWNTIME], kinds(mirroring, limits))

    def test_post_copy_as_a_strategy_comes_after_one_pass(self):
        limits = Limits(postcopy=True, eager=True)
        self.assertEqual([], kinds(passes(1000, 9), limits))
        self.assertEqual([(2, POSTCOPY)], [
            (index, action.kind) for index, action in play(passes(1000, 200), limits, BEGUN)])

    def test_auto_converge_is_given_time(self):
        slowed = [replace(one, throttle=40) for one in STUCK]
        self.decides(NOTHING, slowed, Limits(budget_ms=100, auto_converge=True), words="40 %")
        full = [replace(one, throttle=99) for one in STUCK]
        self.decides(NOTHING, full, Limits(budget_ms=100, auto_converge=True), words="by force")

    def test_what_nobody_can_mend_is_told(self):
        limits = Limits(budget_ms=100, completion_seconds=90)
        self.decides(NOTHING, STUCK, limits, words="aborted after 90 s")
        forced = replace(limits, timeout_action=policy.FORCE_ACTION)
        self.decides(NOTHING, STUCK, forced, words="completed by force after 90 s")
        unlimited = replace(limits, completion_seconds=0)
        self.decides(NOTHING, STUCK, unlimited, words="for ever")

    def test_an_unknown_bandwidth_is_no_reason_to_act(self):
        unknown = [JobSample(move.PRECOPY, memory_total=9, memory_remaining=9, iteration=number)
                   for number in (1, 2, 3, 4)]
        self.decides(NOTHING, unknown, words="not known yet")


class StateTest(testtools.TestCase):
    def test_it_survives_the_journal(self):
        state = FORCED.after(Action(PAUSE, 5), STUCK).after(Action(DOWNTIME, 7), STUCK)
        self.assertEqual(state, State.from_plain(state.to_plain()))
        self.assertEqual(4, state.raised_at)

    def test_it_begins_as_the_plan_says(self):
        plan = MovePlan(uri="qemu:///system", downtime_ms=70, bandwidth=9)
        self.assertEqual(State(downtime_ms=70, bandwidth=9), State.begin(plan))

    def test_nothing_changes_nothing(self):
        self.assertEqual(BEGUN, BEGUN.after(Action(NOTHING), STUCK))


class TrendTest(testtools.TestCase):
    def test_no_samples(self):
        self.assertEqual(0, trend.spent([]))
        self.assertEqual(0, trend.bandwidth([]))
        self.assertEqual([], trend.borders([]))
        self.assertFalse(trend.disks_stand_still([]))

    def test_gaps_count_by_the_shorter_clock_and_at_most_a_minute(self):
        def two(elapsed, time):
            return [JobSample(move.PRECOPY, time=100, elapsed=5),
                    JobSample(move.PRECOPY, time=100 + time, elapsed=5 + elapsed)]

        for elapsed, time, seconds in ((2, 3, 2), (3, 2, 2), (0, 2, 2), (2, -50, 2), (-2, -2, 0),
                                       (900, 900, 60), (900, 1, 1)):
            self.assertEqual(5 + seconds, trend.spent(two(elapsed, time)), (elapsed, time))


NUMBERS = st.integers(0, 4 << 30)
SAMPLES = st.builds(
    JobSample, phase=st.sampled_from([move.SETUP, *[move.PRECOPY] * 6, move.SWITCHOVER,
                                      move.POSTCOPY, move.POSTCOPY_PAUSED, *move.ENDED]),
    time=st.floats(-1e6, 1e6), elapsed=st.floats(-1e6, 1e6),
    memory_total=st.one_of(st.just(0), NUMBERS), memory_processed=NUMBERS,
    memory_remaining=NUMBERS, disk_total=NUMBERS, disk_processed=NUMBERS,
    disk_remaining=st.one_of(st.just(0), NUMBERS), dirty_rate=NUMBERS,
    bandwidth=st.one_of(st.just(0), NUMBERS), iteration=st.integers(0, 9),
    downtime_ms=st.one_of(st.none(), st.integers(0, 10**6)), throttle=st.integers(0, 99))
LIMITS = st.builds(
    Limits, budget_ms=st.integers(1, 2_000_000), promised=st.booleans(),
    completion_seconds=st.sampled_from([0.0, 1.0, 100.0, 1e9]),
    timeout_action=st.sampled_from([policy.ABORT_ACTION, policy.FORCE_ACTION]),
    bandwidth=st.integers(0, 100), postcopy=st.booleans(), eager=st.booleans(),
    auto_converge=st.booleans(), guest_paused=st.booleans())
ASKED = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["abort", "force"])), max_size=2)
ROWS = st.lists(SAMPLES, max_size=20)
# Passes that really come one after the other, so that the deeper rows are met as well.
SAW_TEETH = st.builds(
    lambda left, speed, rate, disk: [
        replace(one, disk_remaining=disk) for one in passes(
            *left, bandwidth=speed, dirty_rate=rate)],
    st.lists(st.integers(1, 1000), min_size=3, max_size=9), st.integers(1, 200),
    st.integers(0, 300), st.sampled_from([0, 1 << 20, 1 << 40]))


class PropertiesTest(testtools.TestCase):
    """Whatever comes: also samples that no hypervisor would give."""

    @settings(max_examples=300)
    @given(st.one_of(ROWS, SAW_TEETH), LIMITS, ASKED)
    def test_they_hold(self, samples, limits, asked):
        state = State(downtime_ms=min(100, limits.budget_ms))
        done = play(samples, limits, state, asked)
        self._pauses(done, limits, state)
        self._post_copies(done, samples, limits)
        self._ends(done, limits, asked)
        for index, action in done:
            self.assertIn(action.kind, policy.KINDS)
            self.assertTrue(action.reason.endswith("."), action)
            self.assertNotIn(samples[index].phase, move.ENDED)
            if action.kind == BANDWIDTH:
                self.assertEqual(limits.bandwidth, action.value)

    def _pauses(self, done, limits, state):
        raised = [state.downtime_ms, *(one.value for _, one in done if one.kind == DOWNTIME)]
        self.assertEqual(sorted(set(raised)), raised, "a pause was lowered, or set again")
        self.assertTrue(raised[-1] <= limits.budget_ms, "above the budget")

    def _post_copies(self, done, samples, limits):
        begun = [index for index, one in done if one.kind == POSTCOPY]
        self.assertTrue(len(begun) <= 1)
        if begun:
            self.assertTrue(limits.postcopy and not limits.guest_paused)
            last = samples[begun[0]]
            self.assertEqual(move.PRECOPY, last.phase)
            pause = trend.bandwidth(samples[:begun[0] + 1]) * limits.budget_ms / 1000
            self.assertTrue(last.disk_remaining <= pause, "disks are still being mirrored")
            later = {one.kind for index, one in done if index > begun[0]}
            self.assertEqual(set(), later & {PAUSE, POSTCOPY})

    def _ends(self, done, limits, asked):
        stopped = [one for _, one in done if one.kind == ABORT]
        paused = [one for _, one in done if one.kind == PAUSE]
        self.assertTrue(len(stopped) <= 1 and len(paused) <= 1)
        words = {what for _, what in asked}
        if stopped:
            self.assertTrue("abort" in words or limits.completion_seconds or paused)
        if paused:
            timed = limits.completion_seconds and limits.timeout_action == policy.FORCE_ACTION
            self.assertTrue("force" in words or timed and not limits.promised)
            self.assertFalse(limits.guest_paused)

    @settings(max_examples=100)
    @given(SAW_TEETH, LIMITS)
    def test_the_same_samples_give_the_same_answer(self, samples, limits):
        self.assertEqual(decide(samples, limits, BEGUN), decide(tuple(samples), limits, BEGUN))

    @settings(max_examples=100)
    @given(SAW_TEETH, LIMITS, st.floats(-1e8, 1e8))
    def test_where_a_clock_begins_does_not_matter(self, samples, limits, shift):
        moved = [replace(one, time=round(one.time + shift, 3)) for one in samples]
        patient = replace(limits, completion_seconds=0.0)
        self.assertEqual(kinds(samples, patient), kinds(moved, patient))
