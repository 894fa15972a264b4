"""Handlers of the compute RPC methods by which volumes come to guests and leave them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from compute.engine.world import World
from compute.errors import Refused, from_dict
from compute.manager import Manager
from compute.rpc.primitives import Primitive
from db.journal import OperationRow, rows

LOG = logging.getLogger(__name__)
EXTENDED = "volume-extended"
ANSWER_SECONDS = 1700.0  # below the 1800 s that Nova's API waits
UNDER_WAY = (rows.ACCEPTED, rows.RUNNING, rows.UNDOING, rows.CONCLUDING)


class VolumeHandlers:
    """Mixin of :class:`compute.rpc.server.Handlers`."""

    manager: Manager
    world: World
    _accept: Callable[..., OperationRow]
    _wait_for: Callable[..., Any]

    def reserve_block_device_name(self, context, args) -> Primitive:
        """Give a volume that is to come a name in the guest; answers with its mapping."""
        row = self._accept("reserve_device", context, args)
        return self._wait_for(row, self._reserved, ANSWER_SECONDS, UNDER_WAY)

    def _reserved(self, row: OperationRow) -> Primitive | None:
        if row.state == rows.DONE:
            found = {step.name: step.outcome for step in self.world.journal.steps(row.id)}
            return found["mapping"]
        if row.state == rows.UNDONE:
            raise from_dict(dict(row.error or {}))
        return None

    def attach_volume(self, context, args) -> None:
        self._accept("attach_volume", context, args)

    def detach_volume(self, context, args) -> None:
        self._accept("detach_volume", context, args)

    def swap_volume(self, context, args) -> None:
        self._accept("swap_volume", context, args)

    def remove_volume_connection(self, context, args) -> None:
        """Give up this host's connection; answers when it is gone."""
        row = self._accept("disconnect_volume", context, args)
        self._wait_for(row, self._over, ANSWER_SECONDS, UNDER_WAY)

    def _over(self, row: OperationRow) -> bool | None:
        if row.state == rows.UNDONE:
            raise from_dict(dict(row.error or {}))
        return True if row.state == rows.DONE else None

    def volume_extended(self, context: Mapping[str, Any], event: Mapping[str, Any],
                        instances: Mapping[str, Any]) -> None:
        """A volume grew in its service: so it does in the guest that has it."""
        guest, volume = str(event.get("instance_uuid")), event.get("tag")
        instance = instances.get(guest)
        if event.get("name") != EXTENDED or instance is None or not volume:
            return
        try:  # one request may be about several volumes
            self.manager.accept("extend_volume", guest, f"{context.get('request_id')}-{volume}",
                                {"instance": instance, "volume_id": volume}, context)
        except Refused as error:
            LOG.warning("Volume %s of guest %s was extended, and the guest does not see it: %s",
                        volume, guest, error)
