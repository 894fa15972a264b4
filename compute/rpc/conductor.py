"""Client of Nova's conductor: its three object methods, and what we do with them.

The contract: topic ``conductor``, version 3.0, ``object_action`` (a method on an object that is
sent along), ``object_class_action_versions`` (a method on a class), ``object_backport_versions``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import oslo_messaging as messaging

from compute.errors import MagnetarError, Refused
from compute.rpc import primitives
from compute.rpc.exceptions import from_remote
from compute.rpc.line import Line, tries
from compute.rpc.primitives import VERSIONS, Primitive, clean, data, make, objects, patch

LOG = logging.getLogger(__name__)
Context = Mapping[str, Any]


class ConductorClient:
    """See compute.engine.world.Conductor for what each method may raise."""

    def __init__(self, transport: Any, serializer: Any, host: str, timeout: float):
        self.host = host
        self.calls = 0  # counted for tools/bench and the tests of its limits
        self._line = Line()
        client = messaging.get_rpc_client(
            transport, messaging.Target(topic="conductor", version="3.0"),
            serializer=serializer, timeout=timeout, retry=tries(timeout))
        self._client = client
        self._base = client.prepare(namespace="baseapi", version="1.0")
        self._task = client.prepare(namespace="compute_task", version="1.25")

    def within(self, seconds: float) -> ConductorClient:
        """The same with another patience: for what is said again soon, as a heartbeat is."""
        hasty = copy.copy(self)
        hasty._client = self._client.prepare(timeout=seconds, retry=tries(seconds))
        return hasty

    def _call(self, client: Any, context: Context, doing: str, method: str, **args: Any) -> Any:
        self.calls += 1
        try:
            return self._line.say(doing, client.timeout,
                                  lambda: client.call(context, method, **args))
        except Exception as error:  # noqa: BLE001 - translated, never swallowed
            raise from_remote(error, doing) from error

    def ping(self, timeout: float) -> None:
        """Ask whether a conductor is there. Raises Unknown or Retryable if not."""
        client = self._base.prepare(timeout=timeout, retry=tries(timeout))
        self._call(client, {}, "reach the conductor", "ping", arg="magnetar")

    def object_action(self, context: Context, prim: Primitive, method: str, *args: Any,
                      **kwargs: Any) -> tuple[Mapping[str, Any], Any]:
        """Call a method on an object; returns (updated fields, result)."""
        doing = f"{method} {primitives.name(prim)} {data(prim).get('uuid', '')}".strip()
        updates, result = self._call(self._client, context, doing, "object_action",
                                     objinst=prim, objmethod=method, args=args, kwargs=kwargs)
        return updates, result

    def class_action(self, context: Context, objname: str, method: str, *args: Any,
                     **kwargs: Any) -> Any:
        """Call a class method; the answer comes in the versions that we know."""
        return self._call(
            self._client, context, f"{method} of {objname}", "object_class_action_versions",
            objname=objname, objmethod=method, object_versions=_manifest(objname),
            args=args, kwargs=kwargs)

    # -- instances ----------------------------------------------------------------------------
    def save(self, context: Context, prim: Primitive, changes: Mapping[str, Any], *,
             expected_task_state: list | None = None,
             expected_vm_state: list | None = None) -> Primitive:
        """Save fields of an object; for an Instance only while its states are as expected."""
        kwargs: dict[str, Any] = {}
        if expected_task_state is not None:
            kwargs["expected_task_state"] = list(expected_task_state)
        if expected_vm_state is not None:
            kwargs["expected_vm_state"] = list(expected_vm_state)
        patched = patch(clean(prim), changes)
        updates, _ = self.object_action(context, patched, "save", **kwargs)
        return clean(patched, updates)

    def instance(self, context: Context, uuid: str) -> Primitive:
        """An Instance as the control plane has it now."""
        return self.class_action(
            context, "Instance", "get_by_uuid", uuid,
            expected_attrs=["info_cache", "metadata", "system_metadata", "flavor", "keypairs",
                            "numa_topology"])

    def instances(self, context: Context) -> list[Primitive]:
        """All instances of this host, in one call."""
        return objects(self.class_action(
            context, "InstanceList", "get_by_host", self.host,
            expected_attrs=["info_cache", "metadata", "system_metadata", "flavor",
                            "numa_topology"]))

    def deleted_among(self, context: Context, uuids: list[str]) -> set[str]:
        """Which of these guests the control plane positively knows as deleted."""
        if not uuids:
            return set()
        found = self.class_action(
            context, "InstanceList", "get_by_filters",
            {"deleted": True, "soft_deleted": False, "uuid": uuids}, use_slave=True)
        return {data(p)["uuid"] for p in objects(found) if data(p).get("deleted")}

    def elsewhere(self, context: Context, uuids: list[str]) -> dict[str, Primitive]:
        """Those of these guests that the control plane has on another host, by uuid."""
        if not uuids:
            return {}
        found = self.class_action(
            context, "InstanceList", "get_by_filters", {"deleted": False, "uuid": uuids},
            expected_attrs=["system_metadata"], use_slave=True)
        return {data(p)["uuid"]: p for p in objects(found)
                if data(p).get("host") not in (None, self.host)}

    def destroy_instance(self, context: Context, prim: Primitive) -> None:
        """Mark an Instance deleted; quiet if it is."""
        try:
            self.object_action(context, clean(prim), "destroy")
        except Refused as error:
            if error.code != "guest_not_found":
                raise

    def drop_migration_context(self, context: Context, prim: Primitive) -> Primitive:
        """Take the MigrationContext off an Instance; quiet if there is none."""
        bare = clean(prim)
        self.object_action(context, bare, "drop_migration_context")
        return clean(bare, {"migration_context": None})

    # -- migrations ---------------------------------------------------------------------------
    def migration(self, context: Context, id: int) -> Primitive:
        """A Migration by its id. Raises Refused(code='migration_not_found')."""
        return self.class_action(context, "Migration", "get_by_id", id)

    def migrations(self, context: Context, filters: Mapping[str, Any]) -> list[Primitive]:
        """Migrations by Nova's filters: ``instance_uuid``, ``status`` (one or a list), ``host``
        (either end), ``source_compute``, ``migration_type``."""
        return objects(self.class_action(
            context, "MigrationList", "get_by_filters", dict(filters)))

    def moves_here(self, context: Context, node: str) -> list[Primitive]:
        """Migrations from and to this host that have not ended, in one call. A resize that waits
        to be confirmed is one of them."""
        return objects(self.class_action(
            context, "MigrationList", "get_in_progress_by_host_and_node", self.host, node))

    # -- hosts --------------------------------------------------------------------------------
    def storage_of(self, context: Context, host: str) -> str | None:
        """The id of the storage that a host keeps disks on, as it told when it last reported its
        inventory; None when the control plane does not know."""
        try:
            nodes = objects(self.class_action(
                context, "ComputeNodeList", "get_all_by_host", host))
        except Refused as error:
            if error.code != "host_not_found":
                raise
            return None
        told = {(data(node).get("stats") or {}).get("storage") for node in nodes}
        return told.pop() if len(told) == 1 else None

    # -- block devices ------------------------------------------------------------------------
    def bdms(self, context: Context, uuid: str) -> list[Primitive]:
        """The block device mappings of an instance."""
        return objects(self.class_action(
            context, "BlockDeviceMappingList", "get_by_instance_uuid", uuid))

    def create_bdm(self, context: Context, fields: Mapping[str, Any]) -> Primitive:
        """Make a block device mapping; returns it as it was stored."""
        prim = make("BlockDeviceMapping", fields)
        updates, _ = self.object_action(context, prim, "create")
        return clean(prim, updates)

    def save_bdm(self, context: Context, prim: Primitive, changes: Mapping[str, Any]) -> None:
        """Save fields of a block device mapping."""
        self.save(context, prim, changes)

    def destroy_bdm(self, context: Context, prim: Primitive) -> None:
        """Remove a block device mapping; quiet if it is gone."""
        try:
            self.object_action(context, clean(prim), "destroy")
        except Refused as error:
            if error.code != "mapping_not_found":
                raise

    # -- what tenants see of an operation -----------------------------------------------------
    def event_start(self, context: Context, uuid: str, event: str) -> None:
        """Begin an InstanceActionEvent; without an action row to hang it on there is none."""
        self._event(context, "event_start", uuid, event, want_result=False, host=self.host)

    def event_finish(self, context: Context, uuid: str, event: str,
                     error: Mapping[str, str] | None) -> None:
        """End an InstanceActionEvent, with Success or Error."""
        text = " ".join(v for k in ("what", "now", "next") if (v := error.get(k))) \
            if error else None
        self._event(context, "event_finish_with_failure", uuid, event, exc_val=text,
                    exc_tb=None if error is None else f"{error.get('kind')}: {error.get('code')}",
                    want_result=False)

    def _event(self, context: Context, method: str, uuid: str, event: str, **kwargs: Any) -> None:
        try:
            self.class_action(context, "InstanceActionEvent", method, uuid, event, **kwargs)
        except MagnetarError as error:
            if error.code not in ("action_not_found", "guest_not_found", "remote_error"):
                raise
            LOG.info("No action event %s for guest %s: %s", event, uuid, error)

    def fault(self, context: Context, uuid: str, error: Mapping[str, str]) -> None:
        """Write the InstanceFault that 'server show' displays."""
        details = " ".join(v for k in ("what", "now", "next") if (v := error.get(k)))
        self.object_action(context, make("InstanceFault", {
            "instance_uuid": uuid, "code": 500,
            "message": (error.get("what") or "")[:255], "details": details, "host": self.host,
        }), "create")

    def authorize_console(self, context: Context, fields: Mapping[str, Any], ttl: int) -> str:
        """Write a console down for the proxies; the token that lets people in for ``ttl`` s."""
        _, token = self.object_action(context, make("ConsoleAuthToken", fields), "authorize", ttl)
        return token

    def build_instances(self, context: Context, **args: Any) -> None:
        """Hand a build back, to be tried on another host. A cast, as Nova's."""
        self._cast(context, "hand the build back", "build_instances", **args)

    def migrate_server(self, context: Context, **args: Any) -> None:
        """Hand a resize back, to be tried on another host. A cast, as Nova's."""
        self._cast(context, "hand the resize back", "migrate_server", **args)

    def _cast(self, context: Context, doing: str, method: str, **args: Any) -> None:
        self.calls += 1
        try:
            self._line.say(doing, self._task.timeout,
                           lambda: self._task.cast(context, method, **args))
        except Exception as error:  # noqa: BLE001 - translated, never swallowed
            raise from_remote(error, doing) from error

    # -- our own namespace on an embedded control plane -----------------------------------------
    def magnetar(self, context: Context, method: str, **args: Any) -> Any:
        """Call our namespace ``magnetar`` 1.0 on the embedded control plane."""
        client = self._client.prepare(namespace="magnetar", version="1.0")
        return self._call(client, context, method.replace("_", " "), method, **args)


_LIST_MEMBERS = {"InstanceList": "Instance", "ComputeNodeList": "ComputeNode",
                 "BlockDeviceMappingList": "BlockDeviceMapping", "MigrationList": "Migration"}


def _manifest(objname: str) -> dict[str, str]:
    """Versions that the answer may have: the object's own, its members', and those nested."""
    if objname in ("Instance", "InstanceList"):
        return VERSIONS
    names = {objname, _LIST_MEMBERS.get(objname, objname)}
    return {name: VERSIONS[name] for name in names}
