"""What ends by itself when it has lasted too long: guests that are rescued, and file systems
that stand still.

Looked at in each pass, on what the pass has seen of the guests that nobody works on.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from compute.engine.world import Context
from compute.errors import MagnetarError
from compute.manager import Manager
from compute.model import states
from compute.recovery.observe import GuestFacts, Observation
from compute.steps.inside import FROZEN
from db.journal import Claim

LOG = logging.getLogger(__name__)


class Timers:
    """Begins the operations that are due on this host."""

    def __init__(self, manager: Manager, context: Context):
        self.manager, self.world, self.context = manager, manager.world, context

    def run_pass(self, seen: Observation) -> None:
        """Look at all guests once."""
        for facts in seen.guests.values():
            if facts.operation is not None or not facts.domain.known \
                    or facts.record.value is None:
                continue
            for verb, why in self._due(facts):
                self._begin(facts, verb, why)

    def _due(self, facts: GuestFacts) -> Iterator[tuple[str, str]]:
        """What is to be done about a guest now: (verb, why)."""
        limit = self.world.conf.rescue_timeout
        if limit and facts.fields.get("vm_state") == states.RESCUED \
                and facts.fields.get("task_state") is None:
            now = self.world.clock.now()
            lasted = now - since(facts.fields.get("launched_at"), now)
            if lasted >= limit:
                yield "unrescue", f"It is rescued for {lasted:.0f} s, longer than rescue_timeout."
        for claim in facts.claims:
            if claim.kind == FROZEN and (self._off(facts) or self._frozen_long(claim)):
                yield "unquiesce", "Its file systems may stand still, and nobody let them go on."

    def _off(self, facts: GuestFacts) -> bool:
        """Whether it does not run, so that nothing of it can stand still any more."""
        found = facts.domain.value
        return found is None or found.power_state not in (states.RUNNING, states.POWER_PAUSED)

    def _frozen_long(self, claim: Claim) -> bool:
        """Whether it was not told to go on for too long; asked once in that time."""
        told = [row.created for row in self.world.journal.find(guest=claim.guest, limit=10)
                if row.verb == "unquiesce"]
        return self.world.clock.now() - max([claim.created, *told]) >= \
            self.world.conf.timeouts.frozen

    def _begin(self, facts: GuestFacts, verb: str, why: str) -> None:
        LOG.warning("Guest %s: %s", facts.uuid, why)
        try:
            self.manager.accept(verb, facts.uuid, f"timer-{uuid.uuid4()}",
                                {"instance": facts.record.value}, self.context)
        except MagnetarError as error:
            LOG.warning("The %s of guest %s is left for the next pass: %s", verb, facts.uuid, error)


def since(text: Any, unknown: float) -> float:
    """A datetime field as seconds since the epoch; ``unknown`` when it does not say."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (AttributeError, ValueError):
        return unknown
