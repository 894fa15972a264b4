"""Soft-deleted guests whose time to be restored is over: nobody's message tells of them."""

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


class Reclaims:
    """Has soft-deleted guests of this host deleted, ``reclaim_instance_interval`` seconds after
    their owners deleted them."""

    def __init__(self, manager: Manager, context: Context):
        self.manager, self.world, self.context = manager, manager.world, context

    def run_pass(self, seen: Observation) -> None:
        """Begin what is due, on what was just observed; the operation looks again itself."""
        for facts in seen.guests.values():
            if not self._due(facts):
                continue
            LOG.info("Guest %s was deleted at %s and nobody restored it: it is deleted for good.",
                     facts.uuid, facts.fields["deleted_at"])
            try:
                self.manager.accept("reclaim", facts.uuid, f"reclaim-{uuid.uuid4()}",
                                    {"instance": facts.record.value}, self.context)
            except MagnetarError as error:
                LOG.warning("Guest %s is reclaimed later: %s", facts.uuid, error)

    def _due(self, facts: GuestFacts) -> bool:
        interval, fields = self.world.conf.reclaim_instance_interval, facts.fields
        if not interval or facts.operation is not None \
                or fields.get("vm_state") != states.SOFT_DELETED \
                or fields.get("task_state") is not None:
            return False
        text: Any = fields.get("deleted_at")
        try:
            since = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        except (AttributeError, ValueError):
            return False  # the control plane does not say since when
        return self.world.clock.now() - since >= interval
