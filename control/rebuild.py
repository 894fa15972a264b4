"""Rebuilding servers: new disks from an image, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compute.model import states
from compute.model.guest import Image
from compute.rpc import primitives
from control import building, common
from control.common import context_for
from control.objects import Call
from control.objects.records import device_list
from control.servers import SENT_ALL, check_fit
from db.control.store import Store

Row = dict[str, Any]
FROM = (states.ACTIVE, states.STOPPED, states.ERROR)


class Rebuild:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    _act: Callable[..., Row]  # given by Servers
    _find: Callable[[str], Row]
    _fields: Callable[[str], Row]
    _bootable_image: Callable[[str], Image]

    def server_rebuild(
        self, server: str, image: str | None = None, name: str | None = None,
        password: str | None = None, properties: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Row:
        """Give a server new disks from an image; name, addresses and metadata stay.

        :param image: its own, when none is given.
        :param properties: instead of the server's, when any are given.
        :raises Refused: what is wrong with the request; nothing was changed.
        """
        context = context_for(request_id)
        uuid = self._find(server)["uuid"]
        fields = self._fields(uuid)
        wanted = self._bootable_image(image or fields["image_ref"])
        check_fit(wanted, primitives.data(fields["flavor"]), "The server was not changed.")
        before = fields["system_metadata"] or {}
        kept = {key: value for key, value in before.items() if not key.startswith("image_")}
        change: Row = {
            "image_ref": wanted.id,
            "system_metadata": {**kept, **building.system_metadata(wanted, context)},
        }
        if name is not None:
            change["display_name"] = common.checked_name("server", name)
        if properties:
            change["metadata"] = common.checked_properties("property", properties)
        with self.store.begin() as connection:
            devices = device_list(Call(connection, context), [uuid])
        return self._act(uuid, "rebuild", FROM, (None,), states.REBUILDING, "rebuild_instance",
                         SENT_ALL, {
                             "new_pass": password or building.admin_password(),
                             "injected_files": [], "image_ref": wanted.id,
                             "orig_image_ref": fields["image_ref"],
                             "orig_sys_metadata": before, "bdms": devices, "recreate": False,
                             "on_shared_storage": False, "preserve_ephemeral": False,
                             "migration": None, "scheduled_node": None, "limits": {},
                             "request_spec": None, "accel_uuids": [],
                             "reimage_boot_volume": False, "target_state": None,
                         }, request_id, change)
