"""What ends by itself when it has lasted too long: guests that are rescued, shelved or deleted and
not restored, and file systems that stand still.

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
from compute.steps.volumes import RESERVED
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
        conf, fields = self.world.conf, facts.fields
        state = fields.get("vm_state") if fields.get("task_state") is None else None
        if state == states.RESCUED and conf.rescue_timeout \
                and self._lasted(fields.get("launched_at"), conf.rescue_timeout):
            yield "unrescue", "It is rescued for longer than rescue_timeout."
        if state == states.SOFT_DELETED and conf.reclaim_instance_interval \
                and self._lasted(fields.get("deleted_at"), conf.reclaim_instance_interval):
            yield "reclaim", "It was deleted, and nobody restored it in time."
        shelved_at = (fields.get("system_metadata") or {}).get("shelved_at")
        if state == states.SHELVED and conf.shelved_offload_time >= 0 \
                and self._lasted(shelved_at, conf.shelved_offload_time):
            yield "shelve_offload", "It is shelved for long enough, and leaves this host."
        for claim in facts.claims:
            if claim.kind == FROZEN and (self._off(facts) or self._frozen_long(claim)):
                yield "unquiesce", "Its file systems may stand still, and nobody let them go on."
            if self._forgotten(claim):
                yield "detach_volume", f"Volume {claim.data['volume']} was to be attached, and " \
                    "nobody came back for it."

    def _forgotten(self, claim: Claim) -> bool:
        """Whether a volume was given a name, and its attach never came."""
        return claim.kind == RESERVED and self.world.clock.now() - claim.created >= \
            self.world.conf.timeouts.reserved_volume

    def _lasted(self, text: Any, limit: float) -> bool:
        """Whether so many seconds passed since a datetime field; False when it does not say."""
        try:
            since = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        except (AttributeError, ValueError):
            return False
        return max(self.world.clock.now() - since, 0.0) >= limit

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
        args = {"instance": facts.record.value}
        if verb == "detach_volume":
            args["volume_id"] = next(claim.data["volume"] for claim in facts.claims
                                     if self._forgotten(claim))
        try:
            if verb == "shelve_offload":  # as the API would; killed in between, the task is adopted
                args = {"clean_shutdown": True, "instance": self.world.conductor.save(
                    self.context, facts.record.value, {"task_state": states.SHELVING_OFFLOADING},
                    expected_task_state=[None], expected_vm_state=[states.SHELVED])}
            self.manager.accept(verb, facts.uuid, f"timer-{uuid.uuid4()}", args, self.context)
        except MagnetarError as error:
            LOG.warning("The %s of guest %s is left for the next pass: %s", verb, facts.uuid, error)
