"""Watches a transfer that the hypervisor carries out, and does what the policy decides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from compute.engine.run import Run
from compute.errors import Refused
from compute.migration import policy
from compute.migration.estimate import seconds_left
from compute.migration.policy import Action, Limits, State
from compute.migration.terms import TUNED, tuned
from compute.model.move import ENDED, PRECOPY, SETUP, SWITCHOVER, JobSample, MovePlan

LOG = logging.getLogger(__name__)
QUICK, SLOW, QUICK_FOR = 0.1, 0.5, 10.0  # seconds between looks, at first and later
ENDING = 0.03  # seconds between looks once the guest is stopped: it only is to end
REPORT_SECONDS = 5.0  # between two reports to the control plane, as Nova's
MOST_SAMPLES = 4000
HELD = "held"  # kind of the claim of compute.steps.live_held


class Monitor:
    """One transfer out of this host.

    :param limits: what it may do; see :func:`compute.migration.planning.limits_of`.
    :param mark: told Nova's word for the migration's status when it changes.
    :param report: told a sample every now and then.
    """

    def __init__(self, run: Run, plan: MovePlan, limits: Limits, mark: Callable[[str], None],
                 report: Callable[[JobSample], None]):
        self.run, self.plan = run, plan
        self.begun, self.limits = limits, limits
        self.mark, self.report = mark, report
        self.world, self.guest = run.world, run.row.guest
        self.samples: list[JobSample] = []
        self.why = ""  # why the policy stopped it
        self.said = ""
        claims = self.world.journal.claims(kind="transfer", guest=self.guest)
        self.inherited = bool(claims) and claims[0].operation == run.row.id
        self.state = State.from_plain(claims[0].data) if self.inherited else State.begin(plan)

    def watch(self) -> JobSample | None:
        """Watch until it has ended; returns the last sample, None if the hypervisor knows of no
        migration of the guest (any more). Parking ends only the watching."""
        began, reported = self.world.clock.now(), 0.0
        while True:
            sample = self.world.driver.job(self.guest)
            if sample is None or sample.phase in ENDED:
                return sample
            self.samples = [*self.samples[-MOST_SAMPLES:], sample]
            self._do_again(sample)
            self._heed()
            action = policy.decide(self.samples, self.limits, self.state)
            self._act(action)
            now = self.world.clock.now()
            self._show(sample, action)
            if now - reported >= REPORT_SECONDS:
                reported = now
                self.report(sample)
            pause = QUICK if now - began < QUICK_FOR else SLOW
            if sample.phase == SWITCHOVER:
                pause = ENDING
            self.run.wait(self._told_to_stop, pause, heed=False)

    def _do_again(self, sample: JobSample) -> None:
        """What the process before this one wrote down, and may have died before doing."""
        inherited, self.inherited = self.inherited, False
        if not inherited or sample.phase not in (SETUP, PRECOPY):
            return
        driver, state = self.world.driver, self.state
        try:
            driver.tune_job(self.guest, downtime_ms=state.downtime_ms, bandwidth=state.bandwidth)
            if state.aborted:
                driver.abort_job(self.guest)
            elif state.postcopy:
                driver.start_postcopy(self.guest)
            elif state.paused:
                driver.pause(self.guest)
        except Refused as error:  # it ended a moment ago: the next look tells
            LOG.info("Migration of guest %s: %s", self.guest, error)

    def _told_to_stop(self) -> bool:
        return bool(self.run.signals.abort) and not self.state.abort

    def _heed(self) -> None:
        """What people asked for since the last look."""
        claims = self.world.journal.claims(guest=self.guest)
        force = self.state.force
        if not force and any(claim.kind == "force" for claim in claims):
            force = "live_migration_force_complete"
        self.limits = tuned(self.begun, claims)
        self.state = replace(self.state, abort=self.run.signals.abort or "", force=force)

    def _act(self, action: Action) -> None:
        driver = self.world.driver
        if action.kind == policy.NOTHING:
            return
        LOG.info("Migration of guest %s: %s: %s", self.guest, action.kind, action.reason)
        # Written down before it is done, so that a restart never forgets it: see _do_again().
        after = self.state.after(action, self.samples)
        self.world.journal.claim("transfer", self.guest, self.guest, self.run.row.id,
                                 after.to_plain())
        try:
            if action.kind == policy.DOWNTIME:
                driver.tune_job(self.guest, downtime_ms=action.value)
            elif action.kind == policy.BANDWIDTH:
                driver.tune_job(self.guest, bandwidth=action.value)
            elif action.kind == policy.POSTCOPY:
                self.mark("running (post-copy)")
                driver.start_postcopy(self.guest)
            elif action.kind == policy.RECOVER:
                driver.recover_postcopy(self.guest, self.plan)
            elif action.kind == policy.PAUSE:
                driver.pause(self.guest)
            elif action.kind == policy.ABORT:
                self.why = action.reason
                driver.abort_job(self.guest)
        except Refused as error:  # it ended, or switched over, a moment ago: the next look tells
            LOG.info("Migration of guest %s: %s", self.guest, error)
        self.state = after

    def _show(self, sample: JobSample, action: Action) -> None:
        shown: dict[str, Any] = {
            **sample.to_plain(), "reason": action.reason,
            "seconds_left": seconds_left(self.samples, self.limits.budget_ms),
            "updated_at": self.world.clock.now(),
        }
        self.world.transfers[self.guest] = shown
        if action.reason != self.said:  # each is a write to the journal
            self.said = action.reason
            self.run.say(action.reason)


def forget(run: Run) -> None:
    """What a migration that ended leaves in the journal of its monitor."""
    run.world.transfers.pop(run.row.guest, None)
    for kind in ("transfer", "force", TUNED, "slot", HELD):
        run.world.journal.release(guest=run.row.guest, kind=kind)
