"""Carries out one operation, one journalled effect at a time.

``advance`` does one thing (a step, an undo, a conclusion step or the end) and says how long to wait
before the next, so that a simulation can interleave operations as it likes; ``run`` loops over it
in a worker.
"""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError

from compute.engine.crashpoints import here
from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import (
    Failed,
    MagnetarError,
    NeedsOperator,
    Parked,
    Retryable,
    Turned,
    Unknown,
    from_dict,
)
from db.journal import StepRow, rows

LOG = logging.getLogger(__name__)
FIRST_DELAY, LONGEST_DELAY = 0.2, 30.0  # seconds between attempts


class Runner:
    """Drives one :class:`Run` to its end."""

    def __init__(self, run: Run):
        self.run = run
        self.world, self.operation = run.world, run.operation
        self.journal = run.world.journal
        self._begun: dict[tuple[str, str], StepRow] = {}
        for row in self.journal.steps(run.row.id):
            self._begun[row.phase, row.name] = row
            if row.state in (rows.STEP_DONE, rows.STEP_UNDONE, rows.UNDO_FAILED):
                run.remember(row.name, row.outcome)  # the conclusion asks for it after the undo
        run.committed = self.operation.committed(self._begun.values())

    # -- driving ------------------------------------------------------------------------------
    def to_end(self) -> None:
        """Run until the operation ended, needs an operator, or is parked."""
        try:
            while (delay := self.advance()) is not None:
                if delay:
                    self.world.clock.wait(delay, self.run.signals.wake)
                    self.run.signals.wake.clear()
        except Parked:
            LOG.info("%s %s is parked and goes on at the next start.",
                     self.run.row.verb, self.run.row.id)

    def advance(self) -> float | None:
        """Do one thing. Returns seconds to wait before the next, None when there is no next.

        :raises Parked: the agent is stopping; nothing is lost.
        """
        state = self.run.row.state
        if state == rows.ACCEPTED:
            here(self.run.row.verb, "operation", "accepted")
            self._set(state=rows.RUNNING, steps_total=len(self.operation.steps))
            return 0
        if state == rows.RUNNING:
            return self._forward()
        if state == rows.UNDOING:
            return self._back()
        if state == rows.CONCLUDING:
            return self._conclude()
        return None

    def _set(self, **values) -> None:
        self.journal.update(self.run.row.id, **values)
        self.run.row = self.journal.row(self.run.row.id)

    # -- forward ------------------------------------------------------------------------------
    def _forward(self) -> float | None:
        step = self._next(rows.FORWARD, self.operation.steps)
        if step is None:
            return self._end(rows.DONE)
        try:
            if not (step.decides and (rows.FORWARD, step.name) in self._begun):
                self.run.check()
            self._perform(rows.FORWARD, step, self.operation.steps.index(step))
            return 0
        except Exception as error:  # noqa: BLE001 - every kind is dealt with below
            return self._trouble(step, error)

    def _next(self, phase: str, steps: tuple[Step, ...]) -> Step | None:
        for step in steps:
            row = self._begun.get((phase, step.name))
            if row is None or row.state != rows.STEP_DONE:
                return step
        return None

    def _perform(self, phase: str, step: Step, seq: int) -> None:
        """Intent, effect, settling, record; or after a crash: probe first."""
        run, verb = self.run, self.run.row.verb
        label = step.name if phase == rows.FORWARD else f"conclude-{step.name}"
        probe = Probe.NO
        if (phase, step.name) in self._begun:
            probe = step.probe(run)
            if probe is Probe.UNKNOWN:
                raise Unknown(f"Whether step {step.name} happened cannot be told now.")
        else:
            here(verb, label, "before_intent")
            undo = step.before(run) if phase == rows.FORWARD else {}
            self.journal.intend(run.row.id, phase, seq, step.name, undo, step.claims(run))
            self._reload()
            run.committed = self.operation.committed(self._begun.values())
        here(verb, label, "after_intent")
        outcome = step.do(run) if probe is Probe.NO else None
        here(verb, label, "after_effect")
        step.settle(run)
        done = seq + 1 if phase == rows.FORWARD else run.row.steps_done
        self.journal.record(run.row.id, phase, step.name, outcome, done)
        run.remember(step.name, outcome)
        self._reload()
        run.committed = self.operation.committed(self._begun.values())
        here(verb, label, "after_record")

    def _reload(self) -> None:
        self.run.row = self.journal.row(self.run.row.id)
        self._begun = {(r.phase, r.name): r for r in self.journal.steps(self.run.row.id)}

    # -- when a step does not work ------------------------------------------------------------
    def _trouble(self, step: Step, error: Exception) -> float | None:
        if isinstance(error, Parked | SQLAlchemyError):
            raise error  # without a journal nothing may be concluded: the worker stops here
        if not isinstance(error, MagnetarError):
            LOG.exception("Step %s of %s %s raised an error of a kind it should not.",
                          step.name, self.run.row.verb, self.run.row.id)
            error = Failed(f"Step {step.name} met an internal error: "
                           f"{type(error).__name__}: {error}.", code="internal")
        row = self.run.row
        if isinstance(error, NeedsOperator) or self._too_long(rows.FORWARD, step.name):
            self._needs_operator(step, error)
            return None
        again = isinstance(error, Unknown) or (
            isinstance(error, Retryable) and row.attempts + 1 < step.attempts)
        if again or self.run.committed:
            return self._again(error)
        LOG.warning("%s %s is undone: %s", row.verb, row.id, error)
        told = error.to_dict()
        told["now"] = told["now"] or "What it had begun is undone."
        told["next"] = told["next"] or "Mend the cause, then ask again; the agent's log has more."
        self._set(state=rows.UNDOING, error=told, attempts=0, message=str(error))
        return 0

    def _again(self, error: MagnetarError) -> float:
        attempts = self.run.row.attempts + 1
        delay = min(FIRST_DELAY * 2 ** min(attempts - 1, 10), LONGEST_DELAY)  # no float overflows
        LOG.info("%s %s tries again in %.1f s: %s",
                 self.run.row.verb, self.run.row.id, delay, error)
        self._set(attempts=attempts, retry_at=self.world.clock.now() + delay,
                  message=f"attempt {attempts}: {error}")
        return delay

    def _too_long(self, phase: str, step: str) -> bool:
        begun = self._begun.get((phase, step))
        patience = self.world.conf.timeouts.operator
        return begun is not None and self.world.clock.now() - begun.started > patience

    def _needs_operator(self, step: Step, error: MagnetarError) -> None:
        row = self.run.row
        asked = NeedsOperator(
            error.what, now=error.now or f"The {row.verb} rests at step {step.name}.",
            next=error.next if isinstance(error, NeedsOperator) and error.next else
            f"Mend the cause, then run: magnetar op resolve {row.id} --as retry", code=error.code)
        LOG.error("%s %s needs an operator: %s", row.verb, row.id, asked)
        # What it failed of in the first place decides what is told when it goes on.
        cause = (row.error or {}).get("cause") or row.error
        told = {**asked.to_dict(), "cause": cause} if cause else asked.to_dict()
        self._set(state=rows.NEEDS_OPERATOR, error=told, message=str(asked))

    # -- back ---------------------------------------------------------------------------------
    def _back(self) -> float | None:
        """Undo the newest step that is not undone yet. One that fails is tried again, and one that
        cannot be undone asks for an operator: the older steps lie under it, as disks do under a
        guest that still runs, and nobody else may be told to go on."""
        run, verb = self.run, self.run.row.verb
        begun = [self._begun[rows.FORWARD, s.name] for s in self.operation.steps
                 if (rows.FORWARD, s.name) in self._begun]
        left = [r for r in begun if r.state != rows.STEP_UNDONE]
        if not left:
            cause = (run.row.error or {}).get("cause") or run.row.error
            self._set(state=rows.CONCLUDING, attempts=0, error=cause)
            return 0
        step = next(s for s in self.operation.steps if s.name == left[-1].name)
        here(verb, step.name, "before_undo")
        failure = None
        try:
            run.check()
            step.undo(run, left[-1].undo or {})
        except (Parked, SQLAlchemyError):
            raise
        except Turned as turned:
            return self._forward_again(str(turned))
        except Exception as error:  # noqa: BLE001 - tried again, or an operator is asked
            if not isinstance(error, MagnetarError):
                LOG.exception("Undo of %s in %s %s", step.name, verb, run.row.id)
                error = Failed(f"{type(error).__name__}: {error}", code="internal")
            if isinstance(error, Unknown | Retryable) and not self._too_long(
                    rows.FORWARD, step.name):
                return self._again(error)
            failure = error
        here(verb, step.name, "after_undo_effect")
        self.journal.record_undo(run.row.id, step.name, failure.to_dict() if failure else None)
        self._reload()
        here(verb, step.name, "after_undo_record")
        if failure is not None:
            self._needs_operator(step, failure)
            return None
        return 0

    def _forward_again(self, why: str) -> float:
        """What was undone so far is done again: every step may be done twice."""
        LOG.warning("%s %s goes forward again: %s", self.run.row.verb, self.run.row.id, why)
        self.run.signals.abort = None
        self._set(state=rows.RUNNING, abort=None, error=None, attempts=0, message=why)
        return 0

    # -- telling ------------------------------------------------------------------------------
    def _conclude(self) -> float | None:
        error = from_dict(dict(self.run.row.error or {}))
        steps = self.operation.concludes(self.run, error)
        step = self._next(rows.CONCLUDE, steps)
        if step is None:
            return self._end(rows.UNDONE)
        try:
            self.run.check()
            self._perform(rows.CONCLUDE, step, self.operation.conclusion.index(step))
            return 0
        except (Parked, SQLAlchemyError):
            raise
        except Exception as trouble:  # noqa: BLE001 - every kind is dealt with below
            if not isinstance(trouble, MagnetarError):
                LOG.exception("Conclusion %s of %s %s", step.name, self.run.row.verb,
                              self.run.row.id)
                trouble = Failed(f"{type(trouble).__name__}: {trouble}.", code="internal")
            if self._too_long(rows.CONCLUDE, step.name):
                self._needs_operator(step, trouble)
                return None
            return self._again(trouble)

    def _end(self, state: str) -> float | None:
        here(self.run.row.verb, "operation", "before_end")
        self.world.secrets.forget(self.run.row.id)
        self._set(state=state)
        here(self.run.row.verb, "operation", "after_end")
        LOG.info("%s of guest %s is %s (operation %s).", self.run.row.verb, self.run.row.guest,
                 state, self.run.row.id)
        return None
