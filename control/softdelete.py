"""Servers that were deleted and can be restored for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compute.errors import Refused
from compute.model import states
from db.control.types import utcnow

Row = dict[str, Any]
SENT = ("metadata", "system_metadata", "info_cache", "security_groups", "flavor")
KEPT = (states.ACTIVE, states.STOPPED, states.PAUSED, states.SUSPENDED, states.RESCUED,
        states.ERROR)
FORCE = "Or delete it at once and for good, with --force."


class SoftDeletes:
    """Mixin of :class:`control.api.ControlPlane`."""

    conf: Any
    # given by Servers
    _act: Callable[..., Row]
    _asked: Callable[[str, str, str], bool]
    server_show: Callable[[str], Row]

    def _delete_softly(self, row: Row, request_id: str | None) -> Row | None:
        """Power a server off and call it deleted; the server as it is then.

        None when it has to be deleted for good: nothing shall be restored here, it was never
        built, or it was deleted so before, by another request.

        :raises Refused: something else is going on.
        """
        if not self.conf.reclaim_instance_interval:
            return None
        if request_id and self._asked(row["uuid"], "delete", request_id):
            return self.server_show(row["uuid"])
        vm_states = (*KEPT, states.RESIZED)  # the latter is refused, with what to do first
        if not (row["host"] and row["launched_at"] and row["vm_state"] in vm_states) \
                or row["task_state"] == states.DELETING:
            return None
        try:
            return self._act(row["uuid"], "delete", KEPT, (None,), states.SOFT_DELETING,
                             "soft_delete_instance", SENT, {}, request_id,
                             change={"deleted_at": utcnow()})
        except Refused as error:
            raise Refused(error.what, now=error.now, code=error.code,
                          next=f"{error.next} {FORCE}") from error

    def server_restore(self, server: str, request_id: str | None = None) -> Row:
        """Let a server that was deleted run again, as long as it was not reclaimed."""
        return self._act(server, "restore", (states.SOFT_DELETED,), (None,), states.RESTORING,
                         "restore_instance", SENT, {}, request_id, change={"deleted_at": None})
