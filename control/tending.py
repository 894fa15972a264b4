"""Tending to servers: crash dumps, rescue, passwords, diagnostics."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from compute.errors import MagnetarError, Refused
from compute.model import states
from compute.model.guest import Image
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control.common import NOTHING, context_for
from control.messages import Computes
from control.objects import Call
from control.objects.instances import load
from control.refusals import not_ready, refusal
from db.control import instances, records
from db.control.store import Store
from db.control.tables import instances as table

Row = dict[str, Any]
C = table.c
SENT = ("metadata", "system_metadata")
SENT_SHOWN = (*SENT, "info_cache", "security_groups")
SENT_RESCUE = (*SENT_SHOWN, "flavor", "old_flavor", "new_flavor")
WORDS = {"trigger_crash_dump": "interrupt", "changePassword": "set the password of"}
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
        :returns: the server, with ``admin_pass``; without when it was asked for before.
        """
        if request_id and self._asked(self._find(server)["uuid"], "rescue", request_id):
            return self.server_show(server)
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

    def server_set_password(self, server: str, password: str,
                            request_id: str | None = None) -> None:
        """Set the password of a server's administrator, through the agent in it.

        :raises Refused: ``bad_password``, ``busy``, ``bad_state``, and what the host refuses.
        """
        if not isinstance(password, str) or not password or not password.isprintable():
            raise Refused("That cannot be a password.", now=NOTHING, code="bad_password",
                          next="Use printable characters.")
        verb, context, row = "changePassword", context_for(request_id), self._find(server)
        if request_id and self._asked(row["uuid"], verb, request_id):
            return
        instance = self._ready(context, row, verb, (states.ACTIVE,),
                               task=states.UPDATING_PASSWORD)
        try:
            self.computes.call_long(context, row["host"], "set_admin_password",
                                    instance=instance, new_pass=password)
        except MagnetarError:
            self._no_task(row["uuid"])  # when the host did not hear it, nobody else does that
            raise

    def _no_task(self, uuid: str) -> None:
        with self.store.begin() as connection:
            instances.save(connection, uuid, {"task_state": None},
                           C.task_state == states.UPDATING_PASSWORD)

    def server_diagnostics(self, server: str) -> Row:
        """What a running server has used since it was started, as its host counts it: memory in
        MiB, time of CPUs in nanoseconds.

        :raises Refused: ``not_ready`` when it has no host yet; when it does not run.
        """
        row = self._find(server)
        if not row["host"]:
            raise not_ready(row, "measure")
        context = context_for()
        with self.store.begin() as connection:
            instance = load(Call(connection, context), C.uuid == row["uuid"],
                            attrs=SENT_SHOWN)[0]
        return plain(self.computes.call(context, row["host"], "get_instance_diagnostics",
                                        instance=instance))

    def _ready(self, context: Context, row: Row, verb: str, vm_states: Sequence[str],
               task: str | None = None) -> Row:
        """The server as its host is told of it, with ``task`` as its task; the action is noted.

        :raises Refused: ``busy``, ``bad_state``, ``not_ready``.
        """
        with self.store.begin() as connection:
            where = (instances.matches(C.vm_state, vm_states), C.task_state.is_(None),
                     C.host.is_not(None))
            if instances.save(connection, row["uuid"], {"task_state": task}, *where) is None:
                raise refusal(instances.get(connection, row["uuid"]), row, WORDS[verb], vm_states,
                              (None,))
            records.start_action(connection, verb, row["uuid"], context.request_id or "",
                                 context.user_id, context.project_id)
            return load(Call(connection, context), C.uuid == row["uuid"], attrs=SENT)[0]


def plain(value: Any) -> Any:
    """Objects as plain dicts, in whatever depth."""
    if primitives.is_object(value):
        return {name: plain(field) for name, field in primitives.data(value).items()}
    return [plain(one) for one in value] if isinstance(value, list) else value
