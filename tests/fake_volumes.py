"""A volume service on a file: volumes and attachments, without any contents.

It implements compute.engine.world.Volumes, with the manners of Cinder: a volume that somebody has
is not deleted, an attachment that nobody connected is not complete.
"""

from __future__ import annotations

import fcntl
import json
import pathlib
import uuid as uuids
from collections.abc import Callable

from compute.errors import Failed, Refused
from virt.fake import hooked, replace


class FakeVolumes:
    """Volumes in a directory.

    :param hook: called with each method's name and ``before`` or ``after``; may raise.
    """

    def __init__(self, root, hook: Callable[[str, str], None] | None = None):
        self.root = pathlib.Path(root)
        self.hook = hook or (lambda method, when: None)
        self.calls: dict[str, int] = {}

    # -- what tests do ------------------------------------------------------------------------
    def add(self, volume_id: str, size: int = 1, **more) -> str:
        """A volume that is there."""
        def change(state):
            state["volumes"][volume_id] = {"status": "available", "size": size, "name": "",
                                           "multiattach": False, "path": f"/volumes/{volume_id}",
                                           **more}
        self._change(change)
        return volume_id

    def set(self, volume_id: str, **values) -> None:
        """Change what it says of a volume."""
        self._change(lambda s: s["volumes"][volume_id].update(values))

    def reserve(self, volume_id: str, guest: str, attachment: str) -> str:
        """As the API does before it asks an agent."""
        self._change(lambda s: s["attachments"].update({attachment: {
            "volume": volume_id, "guest": guest, "host": None, "complete": False}}))
        return attachment

    def read(self) -> dict:
        """Volumes and attachments, by id."""
        path = self.root / "state.json"
        return json.loads(path.read_bytes()) if path.exists() else \
            {"volumes": {}, "attachments": {}}

    def _change(self, change):
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            result = change(state)
            replace(self.root / "state.json", json.dumps(state).encode())
        return result

    # -- what agents ask ----------------------------------------------------------------------
    @staticmethod
    def _need(state, volume_id):
        if volume_id not in state["volumes"]:
            raise Refused(f"Volume {volume_id} could not be found.", code="volume_not_found")
        return state["volumes"][volume_id]

    @staticmethod
    def _attachment(state, attachment_id):
        if attachment_id not in state["attachments"]:
            raise Refused(f"There is no attachment {attachment_id}.", code="attachment_not_found")
        return state["attachments"][attachment_id]

    @hooked
    def show(self, context, volume_id):
        state = self.read()
        return {"id": volume_id, **self._need(state, volume_id), "attachments": [
            {"attachment_id": key, "server_id": one["guest"], "host_name": one["host"]}
            for key, one in state["attachments"].items() if one["volume"] == volume_id]}

    @hooked
    def create(self, context, size_gb, name, image_id=None, snapshot_id=None, volume_type=None,
               source_volume_id=None):
        if volume_type == "none":
            raise Failed("There is no such type of volumes.", code="volume_failed")
        return self.add(str(uuids.uuid4()), size_gb, name=name, image=image_id,
                        snapshot=snapshot_id)

    @hooked
    def delete(self, context, volume_id):
        def change(state):
            if [one for one in state["attachments"].values() if one["volume"] == volume_id]:
                raise Refused(f"Volume {volume_id} is in use.", code="volume_unavailable")
            state["volumes"].pop(volume_id, None)
        self._change(change)

    @hooked
    def attachment_create(self, context, volume_id, guest):
        self._need(self.read(), volume_id)
        return self.reserve(volume_id, guest, str(uuids.uuid4()))

    @hooked
    def attachment_update(self, context, attachment_id, connector, mountpoint):
        def change(state):
            one = self._attachment(state, attachment_id)
            one.update(host=connector["host"], mountpoint=mountpoint)
            return one["volume"], self._need(state, one["volume"])["path"]
        volume_id, path = self._change(change)
        return {"driver_volume_type": "local", "serial": volume_id, "data": {
            "device_path": path, "format": "raw", "access_mode": "rw",
            "auth_password": "volume-secret"}}

    @hooked
    def attachment_complete(self, context, attachment_id):
        def change(state):
            one = self._attachment(state, attachment_id)
            if not one["host"]:
                raise Refused(f"Attachment {attachment_id} has no connector.",
                              code="volume_unavailable")
            one["complete"] = True
            volume = self._need(state, one["volume"])
            volume["status"] = "in-use" if volume["status"] in ("available", "reserved") \
                else volume["status"]
        self._change(change)

    @hooked
    def attachment_delete(self, context, attachment_id):
        def change(state):
            one = state["attachments"].pop(attachment_id, None)
            left = [a for a in state["attachments"].values()
                    if one and a["volume"] == one["volume"]]
            if one and not left and one["volume"] in state["volumes"]:
                state["volumes"][one["volume"]]["status"] = "available"
        self._change(change)

    @hooked
    def roll_detaching(self, context, volume_id):
        def change(state):
            volume = self._need(state, volume_id)
            if volume["status"] == "detaching":
                volume["status"] = "in-use"
        self._change(change)

    @hooked
    def migrate_completion(self, context, old_id, new_id, error):
        """As Cinder's: the old id goes on, with what the new one is."""
        def change(state):
            old = self._need(state, old_id)
            if not error:
                for one in state["attachments"].values():
                    if one["volume"] == new_id:
                        one["volume"] = old_id
                old["path"] = state["volumes"].pop(new_id)["path"]
            old["status"] = "in-use"
            return {"save_volume_id": old_id}
        return self._change(change)
