"""The control plane's record on a file, as agents ask for it.

FakeConductor keeps instances, migrations, action events and faults in one JSON file that is
replaced as a whole, with the compare-and-swap of Nova's conductor. It implements
compute.engine.world.Conductor without messaging.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import pathlib
import threading
import uuid as uuids
from collections.abc import Callable

from compute.errors import Refused
from compute.model import states
from compute.rpc.primitives import clean, data, make, now

HOST = "host1"
# Statuses after which nothing of a move is going on; "finished" waits to be confirmed.
ENDED = ("confirmed", "reverted", "completed", "done", "failed", "error", "cancelled")


class FakeConductor:
    """The control plane's record in ``path``.

    :param fail: called with each method's name before it does anything; may raise.
    :param after: the same after it had its effect: what it raises is an answer that got lost.
    """

    def __init__(self, path, host: str = HOST, fail: Callable[[str], None] | None = None,
                 after: Callable[[str], None] | None = None):
        self.path, self.host = pathlib.Path(path), host
        self.fail = fail or (lambda method: None)
        self.after = after or (lambda method: None)
        self.stamp = now  # gives updated_at
        self.storage: Callable[[str], str | None] = lambda host: host  # what a host told
        self.calls: list[str] = []
        if not self.path.exists():
            self._write({"instances": {}, "events": [], "faults": [], "rescheduled": [],
                         "bdms": {}, "nodes": {}, "migrations": {}})

    # -- the file -----------------------------------------------------------------------------
    def read(self) -> dict:
        return json.loads(self.path.read_bytes())

    def _write(self, state: dict) -> None:
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}")
        part.write_text(json.dumps(state))
        part.rename(self.path)

    def _change(self, method: str, change: Callable[[dict], object]) -> object:
        self.calls.append(method)
        self.fail(method)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            result = change(state)
            self._write(state)
        self.after(method)
        return result

    # -- what tests do ------------------------------------------------------------------------
    def add(self, prim: dict) -> None:
        self._change("add", lambda s: s["instances"].update({data(prim)["uuid"]: prim}))

    def add_migration(self, prim: dict) -> None:
        self._change("add", lambda s: s["migrations"].update({str(data(prim)["id"]): prim}))

    def migration_fields(self, id: int) -> dict:
        return self.read()["migrations"][str(id)]["nova_object.data"]

    def fields(self, uuid: str) -> dict:
        return self.read()["instances"][uuid]["nova_object.data"]

    def set(self, uuid: str, **values) -> dict:
        """As the API would; returns the new primitive."""
        def change(state):
            state["instances"][uuid]["nova_object.data"].update(values, updated_at=self.stamp())
            return copy.deepcopy(state["instances"][uuid])
        return self._change("set", change)

    # -- what agents ask ----------------------------------------------------------------------
    def save(self, context, prim, changes, *, expected_task_state=None, expected_vm_state=None):
        if prim["nova_object.name"] == "Migration":
            return self._save_migration(prim, changes)
        if prim["nova_object.name"] != "Instance":
            return clean(prim, changes)
        uuid = data(prim)["uuid"]

        def change(state):
            stored = state["instances"].get(uuid)
            if stored is None or stored["nova_object.data"].get("deleted"):
                raise Refused(f"Instance {uuid} could not be found.", code="guest_not_found")
            fields = stored["nova_object.data"]
            for key, expected in (("task_state", expected_task_state),
                                  ("vm_state", expected_vm_state)):
                if expected is not None and fields[key] not in expected:
                    deleting = fields["task_state"] == states.DELETING
                    raise Refused(f"{key} is {fields[key]}, expected {expected}.",
                                  code="deleting" if deleting else "stale")
            fields.update(json.loads(json.dumps(changes)), updated_at=self.stamp())
            return copy.deepcopy(stored)

        return clean(self._change("save", change))

    def instance(self, context, uuid):
        def look(state):
            if uuid not in state["instances"]:
                raise Refused(f"Instance {uuid} could not be found.", code="guest_not_found")
            found = state["instances"][uuid]
            if found["nova_object.data"].get("deleted"):
                raise Refused(f"Instance {uuid} could not be found.", code="guest_not_found")
            return copy.deepcopy(found)
        return self._change("instance", look)

    def instances(self, context):
        return self._change("instances", lambda s: [
            copy.deepcopy(p) for p in s["instances"].values()
            if data(p).get("host") == self.host and not data(p).get("deleted")])

    def deleted_among(self, context, uuids):
        return self._change("deleted_among", lambda s: {
            u for u in uuids if data(s["instances"].get(u)).get("deleted")})

    def elsewhere(self, context, uuids):
        return self._change("elsewhere", lambda s: {
            u: copy.deepcopy(s["instances"][u]) for u in uuids
            if u in s["instances"] and not data(s["instances"][u]).get("deleted")
            and data(s["instances"][u]).get("host") not in (None, self.host)})

    def destroy_instance(self, context, prim):
        self._change("destroy_instance", lambda s: s["instances"][data(prim)["uuid"]][
            "nova_object.data"].update(deleted=True))

    def add_bdm(self, prim: dict) -> dict:
        """As the API would; returns the primitive as it is stored."""
        def change(state):
            stored = {**data(prim), "id": len(state["bdms"]) + 1, "deleted": False}
            state["bdms"][stored["uuid"]] = stored
            return make("BlockDeviceMapping", stored, changes=())
        return self._change("add", change)

    def bdms(self, context, uuid):
        return self._change("bdms", lambda s: [
            make("BlockDeviceMapping", stored, changes=()) for stored in s["bdms"].values()
            if stored.get("instance_uuid") == uuid and not stored.get("deleted")])

    def create_bdm(self, context, fields):
        def change(state):
            stored = {**fields, "id": len(state["bdms"]) + 1, "deleted": False}
            state["bdms"][stored["uuid"]] = stored
            return make("BlockDeviceMapping", stored, changes=())
        return self._change("create_bdm", change)

    def save_bdm(self, context, prim, changes):
        def change(state):
            stored = state["bdms"].setdefault(data(prim)["uuid"], {})
            if stored.get("deleted"):
                raise Refused("There is no such mapping.", code="mapping_not_found")
            stored.update(changes)
        self._change("save_bdm", change)

    def destroy_bdm(self, context, prim):
        self._change("destroy_bdm", lambda s: s["bdms"].get(data(prim)["uuid"], {}).update(
            deleted=True))

    def event_start(self, context, uuid, event):
        self._change("event_start", lambda s: s["events"].append([uuid, event, "start"]))

    def event_finish(self, context, uuid, event, error):
        result = "Error" if error else "Success"
        self._change("event_finish", lambda s: s["events"].append([uuid, event, result]))

    def fault(self, context, uuid, error):
        self._change("fault", lambda s: s["faults"].append([uuid, error["what"]]))

    def authorize_console(self, context, fields, ttl):
        self._change("authorize_console", lambda s: None)
        return "token"

    def build_instances(self, context, **args):
        uuid = data(args["instances"][0])["uuid"]
        self._change("build_instances", lambda s: s["rescheduled"].append(uuid))

    # -- migrations ---------------------------------------------------------------------------
    def _save_migration(self, prim, changes):
        def change(state):
            stored = state["migrations"].get(str(data(prim)["id"]))
            if stored is None:
                raise Refused(f"Migration {data(prim)['id']} could not be found.",
                              code="migration_not_found")
            stored["nova_object.data"].update(json.loads(json.dumps(changes)),
                                              updated_at=self.stamp())
            return copy.deepcopy(stored)
        return clean(self._change("save_migration", change))

    def migration(self, context, id):
        def look(state):
            if str(id) not in state["migrations"]:
                raise Refused(f"Migration {id} could not be found.", code="migration_not_found")
            return copy.deepcopy(state["migrations"][str(id)])
        return self._change("migration", look)

    def migrations(self, context, filters):
        def fits(fields):
            return all(
                host_of(fields, value) if name == "host" else
                fields.get(name) in (value if isinstance(value, list | tuple) else [value])
                for name, value in filters.items())
        return self._change("migrations", lambda s: [
            copy.deepcopy(p) for p in s["migrations"].values() if fits(data(p))])

    def moves_here(self, context, node):
        return self._change("moves_here", lambda s: [
            copy.deepcopy(p) for p in s["migrations"].values()
            if host_of(data(p), self.host) and data(p)["status"] not in ENDED])

    def storage_of(self, context, host):
        self._change("storage_of", lambda s: None)
        return self.storage(host)

    def drop_migration_context(self, context, prim):
        def change(state):
            state["instances"][data(prim)["uuid"]]["nova_object.data"]["migration_context"] = None
        self._change("drop_migration_context", change)
        return clean(prim, {"migration_context": None})

    def migrate_server(self, context, **args):
        uuid = data(args["instance"])["uuid"]
        self._change("migrate_server", lambda s: s["rescheduled"].append(uuid))

    def object_action(self, context, prim, method, *args, **kwargs):
        return {"id": 1}, None

    def class_action(self, context, objname, method, *args, **kwargs):
        return None

    def ping(self, timeout):
        self.fail("ping")




def host_of(fields: dict, host: str) -> bool:
    """Whether a host is either end of a migration."""
    return host in (fields.get("source_compute"), fields.get("dest_compute"))


def migration(guest: str, source: str, dest: str | None, **fields) -> dict:
    """A Migration as Nova's conductor makes it, of a live migration unless told otherwise."""
    values = {
        "id": 7, "uuid": str(uuids.uuid4()), "instance_uuid": guest, "source_compute": source,
        "source_node": source, "dest_compute": dest, "dest_node": dest, "dest_host": None,
        "dest_compute_id": None, "status": "accepted", "migration_type": "live-migration",
        "hidden": False, "old_instance_type_id": 1, "new_instance_type_id": 1,
        "memory_total": None, "memory_processed": None, "memory_remaining": None,
        "disk_total": None, "disk_processed": None, "disk_remaining": None,
        "cross_cell_move": False, "user_id": "u", "project_id": "p",
        "created_at": "2026-01-01T00:00:00Z", "updated_at": None}
    return make("Migration", {**values, **fields}, changes=())
