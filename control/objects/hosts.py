"""Service and ComputeNode: registration, heartbeats, inventory."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import IntegrityError

from compute.rpc import primitives
from control import wire
from control.objects import Call, class_method, method
from control.wire import failure
from db.control import services

Primitive = dict[str, Any]
Answer = tuple[dict[str, Any], Any]


@class_method("Service.get_minimum_version")
def minimum_version(call: Call, binary: str, use_slave: bool = False) -> int:
    return services.minimum_version(call.connection, binary)


@class_method("Service.get_by_host_and_binary")
def service_by_host(call: Call, host: str, binary: str) -> Primitive | None:
    row = services.get(call.connection, host, binary)
    return wire.from_row("Service", row) if row else None


@class_method("Service.get_by_compute_host")
def service_by_compute_host(call: Call, host: str, use_slave: bool = False) -> Primitive:
    row = services.get(call.connection, host)
    if row is None:
        raise host_not_found(host)
    return wire.from_row("Service", row)


@class_method("Service.get_by_id", "Service.get_by_uuid")
def service_by_id(call: Call, key: int | str) -> Primitive:
    row = services.get_by(call.connection, **{"id" if isinstance(key, int) else "uuid": key})
    if row is None:
        raise service_not_found(key)
    return wire.from_row("Service", row)


@method("Service.create")
def create_service(call: Call, objinst: Primitive) -> Answer:
    values = wire.changed(objinst)
    check_version(call, values.get("version", 0), values.get("binary", ""))
    try:
        row = services.create(call.connection, values)
    except IntegrityError as error:
        raise failure(
            "ServiceBinaryExists",
            f"Service with host {values['host']} binary {values['binary']} exists."
        ) from error
    return _saved("Service", objinst, row)


@method("Service.save")
def save_service(call: Call, objinst: Primitive) -> Answer:
    data = primitives.data(objinst)
    values = wire.changed(objinst)
    if "version" in values:
        check_version(call, values["version"], data.get("binary", ""))
    row = services.save(call.connection, data["id"], values)
    if row is None:
        raise service_not_found(data["id"])
    return _saved("Service", objinst, row)


@method("Service.destroy")
def destroy_service(call: Call, objinst: Primitive) -> Answer:
    services.destroy(call.connection, primitives.data(objinst)["id"])
    return wire.updates(objinst, primitives.data(objinst)), None


def check_version(call: Call, version: int, binary: str) -> None:
    """A service older than the oldest there is may not join.

    :raises ServiceTooOld:
    """
    oldest = services.minimum_version(call.connection, binary)
    if version < oldest:
        raise failure(
            "ServiceTooOld",
            f"This service is older (v{version}) than the minimum (v{oldest}) version of the rest "
            "of the deployment. Unable to continue.",
            thisver=version, minver=oldest,
        )


def service_not_found(key: Any) -> Exception:
    """The error for a service that is not there."""
    return failure("ServiceNotFound", f"Service {key} could not be found.", service_id=key)


# -- compute nodes ---------------------------------------------------------------------------


@class_method("ComputeNodeList.get_all_by_host")
def nodes_by_host(call: Call, host: str, use_slave: bool = False) -> Primitive:
    rows = services.nodes(call.connection, host=host)
    if not rows:
        raise host_not_found(host)
    return node_list(rows)


@class_method("ComputeNodeList.get_all_by_uuids")
def nodes_by_uuids(call: Call, uuids: list[str]) -> Primitive:
    return node_list(services.nodes(call.connection, uuids=uuids))


@class_method("ComputeNodeList.get_all")
def all_nodes(call: Call) -> Primitive:
    return node_list(services.nodes(call.connection))


@class_method("ComputeNode.get_by_uuid")
def node_by_uuid(call: Call, uuid: str) -> Primitive:
    return _one_node(services.nodes(call.connection, uuids=[uuid]), uuid)


@class_method("ComputeNode.get_by_id")
def node_by_id(call: Call, node_id: int) -> Primitive:
    return _one_node(services.nodes(call.connection, id=node_id), node_id)


@class_method("ComputeNode.get_by_nodename")
def node_by_name(call: Call, name: str) -> Primitive:
    return _one_node(services.nodes(call.connection, hypervisor_hostname=name), name)


@class_method("ComputeNode.get_by_host_and_nodename")
def node_by_host_and_name(call: Call, host: str, name: str) -> Primitive:
    rows = services.nodes(call.connection, host=host, hypervisor_hostname=name)
    return _one_node(rows, f"{host}/{name}")


@class_method("ComputeNode.get_first_node_by_host_for_old_compat")
def first_node(call: Call, host: str, use_slave: bool = False) -> Primitive:
    return _one_node(services.nodes(call.connection, host=host)[:1], host)


@method("ComputeNode.create")
def create_node(call: Call, objinst: Primitive) -> Answer:
    try:
        row = services.create_node(call.connection, wire.changed(objinst))
    except IntegrityError as error:
        uuid = primitives.data(objinst).get("uuid")
        raise failure(
            "DuplicateRecord",
            f"A compute node {uuid} exists, or another one of this host and name.", target=uuid
        ) from error
    return _saved("ComputeNode", objinst, row)


@method("ComputeNode.save")
def save_node(call: Call, objinst: Primitive) -> Answer:
    data = primitives.data(objinst)
    row = services.save_node(call.connection, data["id"], wire.changed(objinst))
    if row is None:
        raise host_not_found(data.get("host", data["id"]))
    return _saved("ComputeNode", objinst, row)


@method("ComputeNode.destroy")
def destroy_node(call: Call, objinst: Primitive) -> Answer:
    services.destroy_node(call.connection, primitives.data(objinst)["id"])
    return wire.updates(objinst, primitives.data(objinst)), None


def node_list(rows: list[dict[str, Any]]) -> Primitive:
    """A ComputeNodeList of rows."""
    return wire.make_list("ComputeNodeList", (wire.from_row("ComputeNode", row) for row in rows))


def host_not_found(host: Any) -> Exception:
    """The error for a host that has no service or no node."""
    return failure("ComputeHostNotFound", f"Compute host {host} could not be found.", host=host)


def _one_node(rows: list[dict[str, Any]], key: Any) -> Primitive:
    if not rows:
        raise host_not_found(key)
    return wire.from_row("ComputeNode", rows[0])


def _saved(name: str, objinst: Primitive, row: dict[str, Any]) -> Answer:
    return wire.updates(objinst, primitives.data(wire.from_row(name, row))), None
