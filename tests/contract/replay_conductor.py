"""A conductor in this process that answers as the captured one did, and remembers what it was told.

It keeps one Instance, the one whose messages are replayed, with the conductor's compare-and-swap,
and the Migration that it is on. Everything else is answered with the captured reply to the same
request.
"""

import dataclasses
import threading
import typing

import oslo_messaging as messaging

from compute.rpc.exceptions import nova_exception
from tests.contract import wire

Primitive = dict[str, typing.Any]
_MOVING = ("MigrationList.get_by_filters", "MigrationList.get_in_progress_by_host_and_node")
_UNDER_WAY = ["pre-migrating", "migrating", "post-migrating", "finished", "confirming", "reverting"]
_QUIET = ("InstanceActionEvent.event_start", "InstanceActionEvent.event_finish_with_failure")


@dataclasses.dataclass
class Kept:
    """The one Instance as a database row would have it, and what was asked in which order."""

    instance: Primitive = dataclasses.field(default_factory=dict)
    migration: Primitive = dataclasses.field(default_factory=dict)
    deleted: bool = False
    heard: list[wire.Message] = dataclasses.field(default_factory=list)
    guard: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def fields(self) -> dict[str, typing.Any]:
        """The Instance's fields; empty before there is one."""
        return self.instance.get("nova_object.data", {})

    def take(self, args: dict[str, typing.Any]) -> None:
        """Start with the Instance and the Migration of a message, and an empty memory.

        A message brings only some fields of an Instance; what an earlier one of the same guest
        brought stays, as it would in a database, and so does what our agent wrote down.
        """
        with self.guard:
            fields = dict(args["instance"]["nova_object.data"])
            earlier = self.fields if self.fields.get("uuid") == fields["uuid"] else {}
            if "system_metadata" in fields:
                fields["system_metadata"] = {**earlier.get("system_metadata", {}),
                                             **fields["system_metadata"]}
            self.instance = {**args["instance"], "nova_object.data": {**earlier, **fields}}
            self.migration = args.get("migration") or {}
            self.deleted = False
            self.heard.clear()

    def said(self, what: str | None = None) -> list[wire.Message]:
        """What the conductor was asked since `take`, heartbeats and audits left out."""
        with self.guard:
            return [m for m in self.heard if what in (None, m.what)]


class BaseApi:
    """baseapi.ping, as every Nova service has it."""

    target = messaging.Target(namespace="baseapi", version="1.1")

    def ping(self, context: object, arg: object) -> dict[str, object]:
        """Echo."""
        return {"service": "conductor", "arg": arg}


class Objects:
    """The conductor's three object methods."""

    target = messaging.Target(version="3.0")

    def __init__(self, kept: Kept, captures: tuple[wire.Capture, ...]) -> None:
        self.kept = kept
        self.replies: dict[str, wire.Message] = {}
        for capture in captures:
            for message in capture.calls():
                self.replies.setdefault(message.what, message)

    def object_class_action_versions(self, context: object, objname: str, objmethod: str,
                                     object_versions: dict[str, str], args: list[object],
                                     kwargs: dict[str, object]) -> object:
        """Answer a class method."""
        what = f"{objname}.{objmethod}"
        self._hear("object_class_action_versions", what, {
            "objname": objname, "objmethod": objmethod, "object_versions": object_versions,
            "args": list(args), "kwargs": kwargs})
        if what in _QUIET:
            return None
        if what == "Instance.get_by_uuid":
            return self._instance()
        if what == "InstanceList.get_by_host":
            mine = [] if self.kept.deleted or not self.kept.fields.get("host") else [
                self.kept.instance]
            return {**self._captured(what), "nova_object.data": {"objects": mine}}
        if what == "Migration.get_by_id":
            return self.kept.migration
        if what in _MOVING:
            filters = args[0] if what.endswith("filters") else {"status": _UNDER_WAY}
            return {**self._captured(_MOVING[0]),
                    "nova_object.data": {"objects": self._moving(filters)}}
        return self._captured(what)

    def _moving(self, filters: dict[str, typing.Any]) -> list[Primitive]:
        """The Migration, if it fits."""
        if not self.kept.migration:
            return []
        fields = self.kept.migration["nova_object.data"]
        fits = all(fields.get(name) in (value if isinstance(value, list) else [value])
                   for name, value in filters.items() if name in fields)
        return [self.kept.migration] if fits else []

    def object_action(self, context: object, objinst: Primitive, objmethod: str,
                      args: list[object], kwargs: dict[str, typing.Any]) -> list[object]:
        """Answer a method on an object: [updated fields, result]."""
        what = f"{objinst['nova_object.name']}.{objmethod}"
        self._hear("object_action", what, {
            "objinst": objinst, "objmethod": objmethod, "args": list(args), "kwargs": kwargs})
        if what == "Instance.save":
            self._save(objinst, kwargs)
        elif what == "Migration.save":
            self.kept.migration = merged(self.kept.migration, objinst)
        elif what == "Instance.drop_migration_context":
            self._instance()["nova_object.data"]["migration_context"] = None
        elif what == "Instance.destroy":
            self._instance()
            self.kept.deleted = True
        elif objmethod == "create":
            return [{**self._captured(what)[0], "obj_what_changed": []}, None]
        return [{"obj_what_changed": []}, None]

    def object_backport_versions(self, context: object, objinst: Primitive,
                                 object_versions: dict[str, str]) -> Primitive:
        """Nothing is newer than what was captured."""
        return objinst

    def _hear(self, method: str, what: str, args: dict[str, typing.Any]) -> None:
        with self.kept.guard:
            self.kept.heard.append(wire.Message(
                "call", "conductor", method, "3.0", None, what, args))

    def _captured(self, what: str) -> typing.Any:
        message = self.replies[what]
        if message.failure:
            raise nova_exception(message.failure["class"])(message.failure["message"])
        return message.result

    def _instance(self) -> Primitive:
        if self.kept.deleted or not self.kept.instance:
            raise nova_exception("InstanceNotFound")("Instance could not be found.")
        return self.kept.instance

    def _save(self, objinst: Primitive, kwargs: dict[str, typing.Any]) -> None:
        stored = self._instance()["nova_object.data"]
        for column in ("task_state", "vm_state"):
            expected = kwargs.get(f"expected_{column}")
            allowed = expected if isinstance(expected, list) else [expected]
            if expected is not None and stored[column] not in allowed:
                raise nova_exception("UnexpectedTaskStateError")(
                    f"Conflict updating instance. Expected: {{'{column}': {expected}}}. "
                    f"Actual: {{'{column}': {stored[column]!r}}}")
        self.kept.instance = merged(self.kept.instance, objinst)


def merged(stored: Primitive, saved: Primitive) -> Primitive:
    """What is stored after a save."""
    changed = {name: saved["nova_object.data"][name]
               for name in saved.get("nova_object.changes", ())}
    return {**stored, "nova_object.data": {**stored["nova_object.data"], **changed}}


class ReplayConductor:
    """The RPC server on topic `conductor`. `kept` is what it knows and has heard."""

    def __init__(self, transport: object, *captures: str) -> None:
        self.kept = Kept()
        loaded = tuple(wire.load(name) for name in captures)
        self._server = messaging.get_rpc_server(
            transport, messaging.Target(topic="conductor", server="replay"),
            [BaseApi(), Objects(self.kept, loaded)])

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop()
        self._server.wait()
