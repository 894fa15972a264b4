"""Handlers of the compute RPC methods by which NICs come to guests and leave them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from compute.engine.world import World
from compute.errors import Failed, MagnetarError, Refused, from_dict
from compute.manager import Manager
from compute.model import wire
from compute.model.guest import Nic
from compute.rpc.exceptions import TO_NOVA
from compute.rpc.primitives import data
from db.journal import OperationRow, rows

LOG = logging.getLogger(__name__)
ATTACH_SECONDS = 1700.0  # below the 1800 s that Nova's API waits
UNDER_WAY = (rows.ACCEPTED, rows.RUNNING, rows.UNDOING, rows.CONCLUDING)
GONE = "network-vif-deleted"


class InterfaceHandlers:
    """Mixin of :class:`compute.rpc.server.Handlers`."""

    manager: Manager
    world: World
    _accept: Callable[..., OperationRow]
    _wait_for: Callable[..., Any]

    def attach_interface(self, context, args) -> dict[str, Any]:
        """Give a guest one more NIC; answers with it, in the structure of nova.network.model."""
        row = self._accept("attach_interface", context, args)
        try:
            return self._wait_for(row, self._attached, ATTACH_SECONDS, UNDER_WAY)
        except MagnetarError as error:
            if error.code in TO_NOVA:
                raise
            raise Failed(error.what, now=error.now, next=error.next,
                         code="attach_failed") from error

    def _attached(self, row: OperationRow) -> dict[str, Any] | None:
        """What came of it once it has ended: the answer is told when nothing is left of it."""
        if row.state == rows.DONE:
            found = {step.name: step.outcome for step in self.world.journal.steps(row.id)}
            return json.loads(wire.network_info([Nic.from_plain(found["port"])]))[0]
        if row.state == rows.UNDONE:
            raise from_dict(dict(row.error or {}))
        return None

    def detach_interface(self, context, args) -> None:
        self._accept("detach_interface", context, args)

    def port_deleted(self, context: Mapping[str, Any], event: Mapping[str, Any],
                     instances: Mapping[str, Any]) -> None:
        """A port was deleted in the network service: its NIC leaves the guest, if it has it."""
        guest, port = str(event.get("instance_uuid")), event.get("tag")
        instance = instances.get(guest)
        if event.get("name") != GONE or instance is None or not port:
            return
        try:
            known = {nic.id for nic in wire.nics(data(instance))}
            if port in known:
                own = {**context, "request_id": f"{context.get('request_id')}-{port}"}
                self._accept("detach_interface", own, {"instance": instance, "port_id": port})
        except Refused as error:
            LOG.warning("Port %s of guest %s was deleted, and its NIC is still there: %s",
                        port, guest, error)
