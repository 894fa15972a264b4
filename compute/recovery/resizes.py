"""Resizes that nobody's task tells of: confirmations whose message was lost, and those that are due
by themselves.

A resize that waits to be confirmed, or whose confirmation was asked for, has no task_state: its
Migration alone tells. One call a pass brings all migrations of this host.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from compute.engine.world import Context
from compute.errors import MagnetarError, Refused
from compute.manager import Manager
from compute.model import states
from compute.recovery.reconcile import LOST_AFTER
from compute.rpc.primitives import Primitive, data

LOG = logging.getLogger(__name__)
TYPES = ("resize", "migration")  # a cold migration is a resize to the same flavor


class Resizes:
    """Looks after the resizes from and to this host."""

    def __init__(self, manager: Manager, context: Context, *, lost_after: float = LOST_AFTER):
        self.manager, self.world, self.context = manager, manager.world, context
        self.lost_after = lost_after

    def run_pass(self) -> None:
        """Look at all migrations of this host once. Raises what the conductor raises."""
        for moving in self.world.conductor.moves_here(self.context, self.world.inventory.node):
            if data(moving).get("migration_type") not in TYPES:
                continue
            try:
                self._one(moving)
            except MagnetarError as error:
                LOG.warning("The resize of guest %s is left for the next pass: %s",
                            data(moving).get("instance_uuid"), error)

    def _one(self, moving: Primitive) -> None:
        fields, here = data(moving), self.world.host
        age, window = self._age(fields), self.world.conf.resize_confirm_window
        if self.world.journal.find(guest=fields["instance_uuid"], active=True):
            return
        if fields["status"] == "confirming" and fields["source_compute"] == here \
                and age >= self.lost_after:
            self._confirm_lost(moving)
        elif fields["status"] == "finished" and fields["dest_compute"] == here \
                and window and age >= window:
            self._confirm_due(moving)

    def _age(self, fields: Mapping[str, Any]) -> float:
        """Seconds since the control plane last changed it; 0 when it does not say."""
        text: Any = fields.get("updated_at") or fields.get("created_at")
        try:
            since = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        except (AttributeError, ValueError):
            return 0.0
        return max(self.world.clock.now() - since, 0.0)

    def _confirm_lost(self, moving: Primitive) -> None:
        guest = data(moving)["instance_uuid"]
        LOG.warning("Guest %s: the message to confirm its resize was lost: it is done now.", guest)
        instance = self._instance(guest) or {
            "nova_object.name": "Instance", "nova_object.namespace": "nova",
            "nova_object.version": "2.8", "nova_object.data": {"uuid": guest}}
        self.manager.accept("resize_confirm", guest, f"lost-cast-{uuid.uuid4()}",
                            {"instance": instance, "migration": moving}, self.context)

    def _confirm_due(self, moving: Primitive) -> None:
        """As the API would, when the tenant confirms."""
        guest = data(moving)["instance_uuid"]
        instance = self._instance(guest)
        fields = data(instance)
        if fields.get("vm_state") != states.RESIZED or fields.get("task_state") is not None:
            return
        LOG.info("Guest %s was resized %.0f s ago and is confirmed by itself.", guest,
                 self._age(data(moving)))
        moving = self.world.conductor.save(self.context, moving, {"status": "confirming"})
        context = {**self.context, "request_id": f"auto-confirm-{data(moving)['uuid']}"}
        self.world.peers.cast(context, data(moving)["source_compute"], "confirm_resize",
                              instance=instance, migration=moving)

    def _instance(self, guest: str) -> Primitive | None:
        try:
            return self.world.conductor.instance(self.context, guest)
        except Refused as error:
            if error.code != "guest_not_found":
                raise
            return None
