"""Shelved guests whose time on this host is over: they are offloaded by themselves."""

from __future__ import annotations

import logging
import uuid
from datetime import datetime
from typing import Any

from compute.engine.world import Context
from compute.errors import MagnetarError
from compute.manager import Manager
from compute.model import states
from compute.recovery.observe import GuestFacts, Observation

LOG = logging.getLogger(__name__)


class ShelvedGuests:
    """Looks after the shelved guests of this host."""

    def __init__(self, manager: Manager, context: Context):
        self.manager, self.world, self.context = manager, manager.world, context

    def run_pass(self, seen: Observation) -> None:
        """Offload those that are due by shelved_offload_time."""
        limit = self.world.conf.shelved_offload_time
        for facts in seen.guests.values() if limit >= 0 else ():
            fields = facts.fields
            if fields.get("vm_state") == states.SHELVED and fields.get("task_state") is None \
                    and facts.operation is None and self._age(fields) >= limit:
                try:
                    self._offload(facts)
                except MagnetarError as error:
                    LOG.warning("Guest %s is left for the next pass: %s", facts.uuid, error)

    def _age(self, fields: Any) -> float:
        """Seconds since it was shelved; -1 when its record does not say."""
        text: Any = (fields.get("system_metadata") or {}).get("shelved_at")
        try:
            since = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        except (AttributeError, ValueError):
            return -1.0
        return max(self.world.clock.now() - since, 0.0)

    def _offload(self, facts: GuestFacts) -> None:
        """As the API would, when somebody asks; killed in between, the task is adopted."""
        LOG.info("Guest %s is shelved for long enough and is offloaded.", facts.uuid)
        instance = self.world.conductor.save(
            self.context, facts.record.value, {"task_state": states.SHELVING_OFFLOADING},
            expected_task_state=[None], expected_vm_state=[states.SHELVED])
        self.manager.accept("shelve_offload", facts.uuid, f"shelved-{uuid.uuid4()}",
                            {"instance": instance, "clean_shutdown": True}, self.context)
