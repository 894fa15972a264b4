"""What to do about a running live migration: a pure function of its samples, limits and state.

:func:`decide` is asked after every sample and answers with one :class:`Action`; who carries it out
notes that with :meth:`State.after`. Nothing is decided from the clock alone except the completion
timeout: pauses are raised because the rest at the last border needs it, never because time passed.

The first row that fits decides:

================================  ==================================================
it ended, or nothing is known     nothing
an abort was asked for            abort; in post-copy nothing, for it is too late
post-copy's network broke         recover, after a while, at growing intervals
the wanted bandwidth changed      bandwidth
we paused the guest               nothing; abort if that takes far too long
switch-over, post-copy            nothing: it ends by itself
somebody asked to force it        post-copy, else pause the guest
it took longer than allowed       abort, or as if somebody had asked to force it
the pause is above the budget     that budget
a pass leaves as much as before   a longer pause up to the budget, then post-copy
otherwise                         nothing
================================  ==================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from compute.migration import trend
from compute.migration.trend import rate, size
from compute.model import move
from compute.model.move import JobSample, MovePlan

# What an action tells its reader to do.
NOTHING = "nothing"
DOWNTIME = "downtime"  # value: the pause to allow, in ms (Driver.tune_job)
BANDWIDTH = "bandwidth"  # value: MiB/s, 0 without a limit (Driver.tune_job)
POSTCOPY = "postcopy"  # Driver.start_postcopy
RECOVER = "recover"  # Driver.recover_postcopy
PAUSE = "pause"  # Driver.pause; the guest goes on at whichever end it is then
ABORT = "abort"  # Driver.abort_job
KINDS = (NOTHING, DOWNTIME, BANDWIDTH, POSTCOPY, RECOVER, PAUSE, ABORT)

ABORT_ACTION, FORCE_ACTION = "abort", "force_complete"
MARGIN = 10  # percent: a pause is raised to a little more than the rest needs
FULL_THROTTLE = 99  # percent; auto-converge goes no further
PAUSE_SECONDS = 60.0  # a guest that we paused goes on at the source if it is not over by then
RECOVER_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)
# Where only a libvirtd died, QEMU goes on and libvirt ends it by itself, unless it is disturbed.
UNDISTURBED_SECONDS = 5.0


@dataclass(frozen=True)
class Action:
    """What to do now: one of KINDS, its value (see there; 0 where it has none), and why."""

    kind: str
    value: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Limits:
    """What a migration may do. ``budget_ms`` is the longest pause; ``promised`` says that flavor
    or image set it, so that not even a timeout breaks it. ``completion_seconds`` is for this
    guest's size, 0 without a limit. ``bandwidth`` in MiB/s, 0 without a limit. ``postcopy`` and
    ``auto_converge`` say what the migration was begun with; ``eager`` that post-copy is the
    strategy, not the way out. ``guest_paused``: it was paused when the migration began."""

    budget_ms: int = 500
    promised: bool = False
    completion_seconds: float = 0.0
    timeout_action: str = ABORT_ACTION
    bandwidth: int = 0
    postcopy: bool = False
    eager: bool = False
    auto_converge: bool = False
    guest_paused: bool = False


@dataclass(frozen=True)
class State:
    """What has been done and asked for so far; kept in the journal.

    ``downtime_ms`` and ``bandwidth`` are in force, as the plan set them at first. ``abort`` and
    ``force`` say who asked and why, empty when nobody did. Times are seconds of the transfer.
    """

    downtime_ms: int = 0
    bandwidth: int = 0
    abort: str = ""
    force: str = ""
    raised_at: int = 0  # the pass in which the pause was last raised
    postcopy: bool = False
    aborted: bool = False
    paused: bool = False
    pause_until: float = 0.0
    recoveries: int = 0
    recovered_at: float = 0.0

    def after(self, action: Action, samples: Sequence[JobSample]) -> State:
        """The state once an action, which was decided from these samples, has been carried out."""
        seconds, seen = trend.spent(samples), trend.borders(samples)
        if action.kind == DOWNTIME:
            return replace(self, downtime_ms=action.value,
                           raised_at=seen[-1].iteration if seen else 0)
        if action.kind == BANDWIDTH:
            return replace(self, bandwidth=action.value)
        if action.kind == POSTCOPY:
            return replace(self, postcopy=True)
        if action.kind == ABORT:
            return replace(self, aborted=True)
        if action.kind == PAUSE:
            allowed = max(PAUSE_SECONDS, 4 * action.value / 1000)
            return replace(self, paused=True, pause_until=seconds + allowed)
        if action.kind == RECOVER:
            return replace(self, recoveries=self.recoveries + 1, recovered_at=seconds)
        return self

    @classmethod
    def begin(cls, plan: MovePlan) -> State:
        """The state of a migration that has just been begun with a plan."""
        return cls(downtime_ms=plan.downtime_ms, bandwidth=plan.bandwidth)

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for the journal."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> State:
        """The state that :meth:`to_plain` described."""
        return cls(**plain)


def decide(samples: Sequence[JobSample], limits: Limits, state: State) -> Action:
    """What to do now.

    :param samples: all that were seen since the migration began, or since this agent started,
        oldest first; :mod:`compute.migration.trend` tells what they may lack.
    """
    if not samples:
        return Action(NOTHING, reason="Nothing has been seen of the transfer yet.")
    view = _View(samples, limits, state)
    for judge in (_ended, _abort, _recover, _bandwidth, _paused, _goes_by_itself, _forced,
                  _too_long, _lower_pause, _first_pass, _converges, _raise_pause, _stuck):
        action = judge(view)
        if action is not None:
            return action
    return Action(NOTHING, reason="It goes on.")


class _View:
    """Samples with what is made of them."""

    def __init__(self, samples: Sequence[JobSample], limits: Limits, state: State):
        self.samples, self.limits, self.state = samples, limits, state
        self.last = samples[-1]
        self.seconds = trend.spent(samples)
        self.bandwidth = trend.bandwidth(samples)
        self.borders = trend.borders(samples)
        self.pass_number = self.borders[-1].iteration if self.borders else 0

    def milliseconds(self, count: int) -> int | None:
        """How long some bytes take; None when the bandwidth is not known."""
        return math.ceil(count * 1000 / self.bandwidth) if self.bandwidth else None

    def broken(self) -> float:
        """Seconds since post-copy's network broke, as far as the samples show."""
        since = len(self.samples)
        while since and self.samples[since - 1].phase == move.POSTCOPY_PAUSED:
            since -= 1
        return trend.spent(self.samples) - trend.spent(self.samples[:since + 1])

    def need(self) -> int | None:
        """The pause in ms that what was left at the last border takes; None when not known.

        Short passes are over between two samples, so that their peak is not seen; the hypervisor
        saw it, and its word counts when it is the longer one, once it has measured a pass.
        """
        seen = self.milliseconds(self.borders[-1].remaining) if self.borders else None
        told = self.told() if self.last.dirty_rate or seen is None else None
        known = [need for need in (seen, told) if need is not None]
        return max(known, default=None)

    def told(self) -> int | None:
        """The pause in ms that the hypervisor expects. It reckons with the bandwidth of a moment;
        that of the last seconds is put in its place."""
        told, now = self.last.downtime_ms, self.last.bandwidth
        if told is None or not now:
            return told
        return self.milliseconds(told * now // 1000)

    def forced_pause(self) -> int | None:
        """The pause in ms if the guest is stopped now: the rest of this pass, and what it wrote
        since the pass began, which is about what it wrote in the last one."""
        left = self.last.remaining
        if self.pass_number > 1:
            left = min(self.last.total or left, left + self.borders[-1].remaining)
        return self.milliseconds(left)

    def rest(self) -> str:
        """What was left at the last border, in words."""
        left = self.borders[-1].remaining if self.borders else self.last.remaining
        need = self.need()
        takes = f", a pause of {need} ms at {rate(self.bandwidth)}" \
            if need and self.bandwidth else ""
        return f"{size(left)} were left at the beginning of pass {self.pass_number}{takes}"

    def disks_in_step(self) -> bool:
        """Whether what mirrors still owe fits into the pause."""
        owed = self.last.disk_remaining
        need = self.milliseconds(owed)
        return self.last.phase == move.PRECOPY and (
            owed == 0 or need is not None and need <= self.limits.budget_ms)


def _ended(view: _View) -> Action | None:
    if view.last.phase in move.ENDED:
        return Action(NOTHING, reason=f"It is over: {view.last.phase}.")
    return None


def _abort(view: _View) -> Action | None:
    state, phase = view.state, view.last.phase
    if not state.abort and not state.aborted:
        return None
    if phase == move.POSTCOPY_PAUSED:
        return None
    if phase == move.POSTCOPY or state.postcopy:
        return Action(NOTHING, reason="It is too late to abort: the guest goes on at the "
                      "destination, and has left its memory on both hosts until all of it is over.")
    if state.aborted:
        return Action(NOTHING, reason="It was told to abort, and its end is awaited.")
    return Action(ABORT, reason=f"Somebody asked to abort it: {state.abort}")


def _recover(view: _View) -> Action | None:
    if view.last.phase != move.POSTCOPY_PAUSED:
        return None
    tried = view.state.recoveries
    left = UNDISTURBED_SECONDS - view.broken()
    if tried:
        wait = RECOVER_SECONDS[min(tried, len(RECOVER_SECONDS)) - 1]
        left = view.state.recovered_at + wait - view.seconds
    if left > 0:
        return Action(NOTHING, reason=f"The network broke in post-copy; attempt {tried + 1} to go "
                      f"on is made in {math.ceil(left)} s.")
    return Action(RECOVER, tried + 1, "The network broke in post-copy: the guest can only go on "
                  f"where it is. This is attempt {tried + 1} to continue the transfer.")


def _bandwidth(view: _View) -> Action | None:
    wanted = view.limits.bandwidth
    over = view.last.phase == move.SWITCHOVER and not view.state.paused
    if over or wanted == view.state.bandwidth:
        return None
    told = f"{wanted} MiB/s" if wanted else "no limit"
    return Action(BANDWIDTH, wanted, f"The wanted bandwidth is {told} now.")


def _paused(view: _View) -> Action | None:
    """After we stopped the guest, which hypervisors show as a switch-over."""
    if not view.state.paused or view.last.phase == move.POSTCOPY:
        return None
    if view.seconds > view.state.pause_until:
        return Action(ABORT, reason="The guest was paused so that the rest goes over, and that "
                      "took far longer than expected; it shall run again, on the source.")
    return Action(NOTHING, reason="The guest is paused until the rest is over.")


def _goes_by_itself(view: _View) -> Action | None:
    if view.last.phase not in (move.SETUP, move.PRECOPY):
        return Action(NOTHING, reason=f"In {view.last.phase} it ends by itself.")
    if view.state.postcopy:
        return Action(NOTHING, reason="It was told to go on by post-copy, which begins.")
    return None


def _forced(view: _View) -> Action | None:
    if not view.state.force:
        return None
    return _force(view, f"Somebody asked to complete it by force: {view.state.force}")


def _too_long(view: _View) -> Action | None:
    limit = view.limits.completion_seconds
    if limit <= 0 or view.seconds <= limit:
        return None
    why = (f"It has taken {view.seconds:.0f} s, longer than the {limit:.0f} s that "
           "live_migration_completion_timeout allows for its size.")
    silent = view.last.phase == move.SETUP and not view.last.disk_remaining and not view.borders
    if view.limits.timeout_action != FORCE_ACTION or silent:
        return Action(ABORT, reason=f"{why} The guest stays on the source.")
    return _force(view, why, promised=view.limits.promised)


def _force(view: _View, why: str, promised: bool = False) -> Action:
    """Post-copy where it is prepared; else the guest is paused, as Nova does, unless that would
    break a promised budget. Disks come first, as long as they come closer."""
    last, limits, in_step = view.last, view.limits, view.disks_in_step()
    if limits.guest_paused:
        return Action(NOTHING, reason=f"{why} The guest is paused already, so the rest goes over "
                      "as fast as the network allows.")
    if limits.postcopy and in_step:
        return Action(POSTCOPY, reason=f"{why} The guest goes on at the destination.")
    if last.disk_remaining and not in_step and not trend.disks_stand_still(view.samples):
        return Action(NOTHING, reason=f"{why} First the disks have to be in step, for which "
                      f"{size(last.disk_remaining)} are left.")
    if last.phase == move.SETUP and not last.disk_remaining:
        return Action(NOTHING, reason=f"{why} It waits until memory begins to go over.")
    if promised:
        return Action(ABORT, reason=f"{why} To force it would pause the guest for longer than the "
                      f"{limits.budget_ms} ms that its flavor or image promise, so it stays on the "
                      "source.")
    pause = view.forced_pause()
    expected = "an unknown time" if pause is None else f"about {pause} ms"
    return Action(PAUSE, pause or 0, f"{why} Without post-copy, the guest is paused until the rest "
                  f"is over, which takes {expected}.")


def _lower_pause(view: _View) -> Action | None:
    """The budget was lowered while it goes on."""
    budget = view.limits.budget_ms
    if view.state.downtime_ms <= budget:
        return None
    return Action(DOWNTIME, budget, f"The pause may be {budget} ms at most now.")


def _first_pass(view: _View) -> Action | None:
    last = view.last
    if last.phase == move.SETUP:
        left = f"; {size(last.disk_remaining)} of disks are left" if last.disk_remaining else ""
        return Action(NOTHING, reason=f"It is being set up{left}.")
    if not view.borders:
        return Action(NOTHING, reason="The hypervisor says nothing of memory yet.")
    if view.pass_number < 2:
        return Action(NOTHING, reason=f"The first pass over memory: {size(last.remaining)} of "
                      f"{size(last.total)} are left.")
    return None


def _converges(view: _View) -> Action | None:
    need, state = view.need(), view.state
    if need is None:
        return Action(NOTHING, reason="The bandwidth is not known yet.")
    if need <= state.downtime_ms:
        return Action(NOTHING, reason=f"{view.rest()}: that fits into the pause of "
                      f"{state.downtime_ms} ms, so it is about to switch over.")
    if view.limits.eager and _can_postcopy(view):
        return None
    shrinks = trend.shrinks(view.borders)
    if shrinks:
        return Action(NOTHING, reason=f"{view.rest()}: less than in any pass before.")
    if shrinks is None and not _outruns(view):
        return Action(NOTHING, reason=f"{view.rest()}; the next pass shows whether it shrinks.")
    return None


def _outruns(view: _View) -> bool:
    """Whether the guest writes at least as fast as the network carries."""
    return 0 < view.bandwidth <= view.last.dirty_rate


def _raise_pause(view: _View) -> Action | None:
    state, budget = view.state, view.limits.budget_ms
    need = view.need() or 0
    wanted = min(budget, -(-need * (100 + MARGIN) // 100))
    if view.limits.eager and need > budget and _can_postcopy(view):
        return None
    if wanted <= state.downtime_ms:
        return None
    if need <= budget:
        return Action(DOWNTIME, wanted, f"Passes leave no less: {view.rest()}. A pause of "
                      f"{wanted} ms is enough, and within the budget of {budget} ms.")
    return Action(DOWNTIME, wanted, f"Passes leave no less: {view.rest()}. That is more than the "
                  f"budget of {budget} ms, which is allowed in full now in case a later pass "
                  "leaves less.")


def _can_postcopy(view: _View) -> bool:
    limits = view.limits
    return limits.postcopy and not limits.guest_paused and view.disks_in_step()


def _stuck(view: _View) -> Action | None:
    limits, budget = view.limits, view.limits.budget_ms
    if not limits.eager and view.pass_number <= view.state.raised_at:
        return Action(NOTHING, reason=f"The pause was raised to {view.state.downtime_ms} ms; the "
                      "next pass shows whether that is enough.")
    what = f"It does not converge within {budget} ms: {view.rest()}."
    if _can_postcopy(view):
        return Action(POSTCOPY, reason=f"{what} Post-copy is permitted: the guest goes on at the "
                      "destination.")
    if limits.postcopy and not limits.guest_paused:
        return Action(NOTHING, reason=f"{what} Post-copy waits until the disks are in step.")
    if limits.auto_converge and view.last.throttle < FULL_THROTTLE:
        return Action(NOTHING, reason=f"{what} Auto-converge slows the guest's CPUs by "
                      f"{view.last.throttle} %, and will slow them more.")
    return Action(NOTHING, reason=f"{what} {_advice(limits)}")


def _advice(limits: Limits) -> str:
    """What a person can do about it, and what happens if nobody does."""
    end = {ABORT_ACTION: "aborted", FORCE_ACTION: "completed by force"}[limits.timeout_action]
    later = f"it is {end} after {limits.completion_seconds:.0f} s" if limits.completion_seconds \
        else "it goes on for ever"
    return (f"Complete it by force, abort it, give it more bandwidth, or quiet the guest; if "
            f"nobody does, {later}.")
