"""Tending to servers: crash dumps, rescue, passwords, diagnostics."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from compute.model import states
from compute.model.guest import Image
from compute.rpc.serializer import Context
from control.common import context_for
from control.messages import Computes
from control.objects import Call
from control.objects.instances import load
from control.refusals import refusal
from db.control import instances, records
from db.control.store import Store
from db.control.tables import instances as table

Row = dict[str, Any]
C = table.c
SENT = ("metadata", "system_metadata")
SENT_SHOWN = (*SENT, "info_cache", "security_groups")
SENT_RESCUE = (*SENT_SHOWN, "flavor", "old_flavor", "new_flavor")
DUMPED = (states.ACTIVE, states.PAUSED, states.RESCUED, states.RESIZED, states.ERROR)


class Tending:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    computes: Computes
    # given by Servers
    _find: Callable[..., Row]
    _act: Callable[..., Row]
    _asked: Callable[[str, str, str], bool]
    _tell: Callable[..., None]
    server_show: Callable[[str], Row]
    _image: Callable[[str], Image]

    def server_dump(self, server: str, request_id: str | None = None) -> Row:
        """Interrupt a server, so that its kernel writes a crash dump if it is set up to."""
        verb = "trigger_crash_dump"
        context, row = context_for(request_id), self._find(server)
        if request_id and self._asked(row["uuid"], verb, request_id):
            return self.server_show(row["uuid"])
        instance = self._ready(context, row, verb, DUMPED)
        self._tell(context, instance, None, "trigger_crash_dump")
        return self.server_show(row["uuid"])

    def server_rescue(self, server: str, image: str | None = None, password: str | None = None,
                      request_id: str | None = None) -> Row:
        """Boot another system beside a server's own disks, so that they can be mended.

        :param image: name or id; without it the image that the server was made from.
        :param password: for the rescue system; one is made up without it.
        :returns: the server, with ``admin_pass``.
        """
        chosen = self._image(image).id if image else None
        word = password or secrets.token_urlsafe(9)
        args = {"rescue_password": word, "rescue_image_ref": chosen, "clean_shutdown": True}
        shown = self._act(server, "rescue", (states.ACTIVE, states.STOPPED, states.ERROR), (None,),
                          states.RESCUING, "rescue_instance", SENT_RESCUE, args, request_id)
        return {**shown, "admin_pass": word}

    def server_unrescue(self, server: str, request_id: str | None = None) -> Row:
        """Let a rescued server boot its own system again."""
        return self._act(server, "unrescue", (states.RESCUED,), (None,), states.UNRESCUING,
                         "unrescue_instance", SENT_SHOWN, {}, request_id)

    def _ready(self, context: Context, row: Row, verb: str, vm_states: Sequence[str],
               attrs: Sequence[str] = SENT) -> Row:
        """The server as its host is told of it, for a verb that sets no task; the action is noted.

        :raises Refused: ``busy``, ``bad_state``, ``not_ready``.
        """
        with self.store.begin() as connection:
            now = instances.get(connection, row["uuid"])
            if now is None or now["deleted"] or now["task_state"] is not None \
                    or now["vm_state"] not in vm_states or not now["host"]:
                raise refusal(now, row, verb.replace("_", " "), vm_states, (None,))
            records.start_action(connection, verb, row["uuid"], context.request_id or "",
                                 context.user_id, context.project_id)
            return load(Call(connection, context), C.uuid == row["uuid"], attrs=attrs)[0]
