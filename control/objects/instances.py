"""Instance: loading, compare-and-swap saves, destruction; its parts and its info cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import or_

from compute.model import states
from compute.rpc import primitives
from control import volume_states, wire
from control.objects import Call, class_method, method
from control.wire import failure
from db.control import catalog, consoles, instances, moves, networks, records, services, tables

Primitive = dict[str, Any]
Answer = tuple[dict[str, Any], Any]
C = tables.instances.c
WRITABLE = (frozenset(instances.BASE) | instances.EXTRA) - wire.READ_ONLY - {"uuid"}


def not_found(uuid: str) -> Exception:
    """The error for an instance that is not there, or not any more."""
    return failure("InstanceNotFound", f"Instance {uuid} could not be found.", instance_id=uuid)


def load(call: Call, *where: Any, attrs: Iterable[str], **kwargs: Any) -> list[Primitive]:
    """Instances with these optional attributes, in one statement (two if faults are wanted)."""
    attrs = tuple(dict.fromkeys(attrs))
    rows = instances.query(call.connection, *where, extra=attrs,
                           info_cache="info_cache" in attrs, **kwargs)
    faults: dict[str, Any] = {}
    if "fault" in attrs and rows:
        for fault in instances.faults(call.connection, [row["uuid"] for row in rows]):
            faults.setdefault(fault["instance_uuid"], fault)
    return [wire.instance(row, attrs, faults.get(row["uuid"])) for row in rows]


def _attrs(expected: Iterable[str] | None) -> tuple[str, ...]:
    if expected is None:
        return wire.DEFAULT_ATTRS
    flavors = ("old_flavor", "new_flavor") if "flavor" in expected else ()
    return (*expected, *flavors)


@class_method("Instance.get_by_uuid")
def get_by_uuid(
    call: Call, uuid: str, expected_attrs: list[str] | None = None, use_slave: bool = False
) -> Primitive:
    where = [C.uuid == uuid]
    if not call.sees_deleted:
        where.append(C.deleted.is_(False))
    found = load(call, *where, attrs=_attrs(expected_attrs))
    if not found:
        raise not_found(uuid)
    return found[0]


@class_method("Instance.get_by_id")
def get_by_id(call: Call, inst_id: int, expected_attrs: list[str] | None = None) -> Primitive:
    found = load(call, C.id == inst_id, C.deleted.is_(False), attrs=_attrs(expected_attrs))
    if not found:
        raise not_found(str(inst_id))
    return found[0]


@class_method("InstanceList.get_by_host")
def get_by_host(
    call: Call, host: str, expected_attrs: list[str] | None = None, use_slave: bool = False
) -> Primitive:
    found = load(call, C.host == host, C.deleted.is_(False), attrs=_attrs(expected_attrs))
    return wire.make_list("InstanceList", found)


@class_method("InstanceList.get_by_host_and_node")
def get_by_host_and_node(
    call: Call, host: str, node: str, expected_attrs: list[str] | None = None
) -> Primitive:
    found = load(call, C.host == host, C.node == node, C.deleted.is_(False),
                 attrs=_attrs(expected_attrs))
    return wire.make_list("InstanceList", found)


@class_method("InstanceList.get_uuids_by_host")
def get_uuids_by_host(call: Call, host: str) -> list[str]:
    return instances.uuids_by_host(call.connection, host)


@class_method("InstanceList.get_by_filters")
def get_by_filters(
    call: Call,
    filters: dict[str, Any],
    sort_key: str = "created_at",
    sort_dir: str = "desc",
    limit: int | None = None,
    marker: str | None = None,
    expected_attrs: list[str] | None = None,
    use_slave: bool = False,
    **_sorting: Any,
) -> Primitive:
    try:
        where = instances.by_filters(filters)
    except KeyError as error:
        raise failure(
            "Invalid",
            f"Instances cannot be filtered by {error}. Nothing was listed. "
            f"Use any of: {', '.join(sorted(instances.FILTERS))}."
        ) from error
    found = load(call, *where, attrs=_attrs(expected_attrs), limit=limit,
                 newest_first=sort_dir == "desc")
    return wire.make_list("InstanceList", found)


@method("Instance.save")
def save(
    call: Call,
    objinst: Primitive,
    expected_vm_state: Any = None,
    expected_task_state: Any = None,
    admin_state_reset: bool = False,
) -> Answer:
    """One UPDATE that compares and writes; nothing is written when the state is another."""
    data = primitives.data(objinst)
    uuid = data["uuid"]
    values = wire.changed(objinst, WRITABLE)
    if "node" in values and "compute_id" not in values:
        raise failure(
            "ObjectActionError",
            "Object action save failed because: Instance.node and compute_id go together.",
            action="save", reason="compute_id is missing",
        )
    where = []
    if expected_task_state is not None:
        where.append(instances.matches(C.task_state, expected_task_state))
    if expected_vm_state is not None:
        where.append(instances.matches(C.vm_state, expected_vm_state))
    host = values.get("host")
    if host is not None:  # two hosts never build one guest
        where.append(or_(C.vm_state != states.BUILDING, C.host.is_(None), C.host == host))
        values.update(_place(call, uuid, host, values.get("node", data.get("node"))))
    elif "host" in values:
        values["allocation_node"] = None
    if values.get("vm_state", states.BUILDING) != states.BUILDING:
        values["build_args"] = None  # nobody will send this build again
    if not values:
        row = instances.get(call.connection, uuid)
        if row is not None and not _holds(row, expected_task_state, expected_vm_state):
            row = None
    else:
        row = instances.save(call.connection, uuid, values, *where)
    if row is None:
        raise conflict(call, uuid, expected_task_state, expected_vm_state)
    if host is not None:
        networks.bind_ports(call.connection, uuid, host)
    if "info_cache" in primitives.changes(objinst) and data.get("info_cache"):
        text = primitives.data(data["info_cache"])["network_info"]
        instances.save_cache(call.connection, uuid, text)
    return _saved(objinst, row), None


def _place(call: Call, uuid: str, host: str, node: str | None) -> dict[str, Any]:
    """What follows from an instance's host: the node that it claims, and after a move its zone."""
    nodes = services.nodes(call.connection, host=host)
    nodes = [one for one in nodes if one["hypervisor_hostname"] == node] or nodes
    if not nodes:
        return {}
    found: dict[str, Any] = {"allocation_node": nodes[0]["uuid"]}
    for move in moves.opened(call.connection, C.uuid == uuid):
        zone = (move["args"] or {}).get("zones", {}).get(nodes[0]["uuid"])
        found.update({"availability_zone": zone} if zone else {})
    return found


def _holds(row: dict[str, Any], task_state: Any, vm_state: Any) -> bool:
    return (task_state is None or row["task_state"] in as_list(task_state)) and (
        vm_state is None or row["vm_state"] in as_list(vm_state)
    )


def as_list(value: Any) -> list[Any]:
    """One value or several, as a list."""
    return list(value) if isinstance(value, list | tuple | set) else [value]


def conflict(call: Call, uuid: str, task_state: Any, vm_state: Any) -> Exception:
    """Why a compare-and-swap did not happen, told from the row as it is now."""
    row = instances.get(call.connection, uuid)
    if row is None:
        return not_found(uuid)
    if task_state is not None and row["task_state"] not in as_list(task_state):
        deleting = row["task_state"] == states.DELETING
        name = "UnexpectedDeletingTaskStateError" if deleting else "UnexpectedTaskStateError"
        return failure(
            name,
            f"Conflict updating instance {uuid}. Expected: "
            f"{{'task_state': {as_list(task_state)}}}. "
            f"Actual: {{'task_state': {row['task_state']!r}}}",
            instance_uuid=uuid,
        )
    if vm_state is not None and row["vm_state"] not in as_list(vm_state):
        return failure(
            "UnexpectedVMStateError",
            f"Conflict updating instance {uuid}. Expected: {{'vm_state': {as_list(vm_state)}}}. "
            f"Actual: {{'vm_state': {row['vm_state']!r}}}",
            instance_uuid=uuid,
        )
    return failure(
        "InstanceUpdateConflict",
        f"Conflict updating instance {uuid}: it is on host {row['host']} already.",
        instance_uuid=uuid,
    )


def _saved(objinst: Primitive, row: dict[str, Any]) -> dict[str, Any]:
    """The updates for a saved instance: plain fields that differ from the caller's copy."""
    data = primitives.data(objinst)
    plain = {name: row[name] for name in instances.BASE}
    written = {name: data[name] for name in primitives.changes(objinst) if name in WRITABLE}
    return wire.updates(objinst, {**written, **plain})


@method("Instance.destroy")
def destroy(call: Call, objinst: Primitive) -> Answer:
    """Mark deleted, with all that belongs to it; its addresses are free again."""
    uuid = primitives.data(objinst)["uuid"]
    row = destroy_rows(call, uuid)
    if row is None:
        raise not_found(uuid)
    return _saved(objinst, row), None


def destroy_rows(call: Call, uuid: str, *where: Any,
                 host_lives: bool = True) -> dict[str, Any] | None:
    """Mark an instance deleted, and free what the control plane keeps for it; of its volumes what
    a host that is down may not use any more."""
    row = instances.destroy(call.connection, uuid, *where)
    if row is not None:
        volume_states.free(call.connection, uuid, records.devices(call.connection, [uuid]),
                           host_lives)
        records.delete_devices(call.connection, tables.block_device_mapping.c.instance_uuid == uuid)
        records.delete_interfaces(call.connection, uuid)
        networks.release_ports(call.connection, uuid)
        records.end_migrations(call.connection, uuid)
        consoles.clean(call.connection, uuid)
    return row


@method("Instance.refresh")
def refresh(call: Call, objinst: Primitive, use_slave: bool = False) -> Answer:
    data = primitives.data(objinst)
    attrs = [name for name in wire.OPTIONAL if name in data]
    where = [C.uuid == data["uuid"]]
    if not call.sees_deleted:
        where.append(C.deleted.is_(False))
    found = load(call, *where, attrs=attrs)
    if not found:
        raise not_found(data["uuid"])
    fresh = wire.updates(objinst, primitives.data(found[0]))
    return {**fresh, "obj_what_changed": []}, None


@method("Instance.drop_migration_context")
def drop_migration_context(call: Call, objinst: Primitive) -> Answer:
    uuid = primitives.data(objinst)["uuid"]
    row = instances.save(call.connection, uuid, {"migration_context": None})
    if row is None:
        raise not_found(uuid)
    return {"migration_context": None, "obj_what_changed": []}, None


def _part(call: Call, uuid: str, attr: str) -> Any:
    row = instances.get(call.connection, uuid, deleted=True, extra=(attr,))
    if row is None:
        raise not_found(uuid)
    return wire.extra(attr, row)


@class_method("InstanceNUMATopology.get_by_instance_uuid")
def numa_topology(call: Call, instance_uuid: str) -> Primitive | None:
    return _part(call, instance_uuid, "numa_topology")


@class_method("VirtCPUModel.get_by_instance_uuid")
def vcpu_model(call: Call, instance_uuid: str) -> Primitive | None:
    return _part(call, instance_uuid, "vcpu_model")


@class_method("TrustedCerts.get_by_instance_uuid")
def trusted_certs(call: Call, instance_uuid: str) -> Primitive | None:
    return _part(call, instance_uuid, "trusted_certs")


@class_method("MigrationContext.get_by_instance_uuid")
def migration_context(call: Call, instance_uuid: str) -> Primitive | None:
    return _part(call, instance_uuid, "migration_context")


@class_method("ResourceList.get_by_instance_uuid")
def resources(call: Call, instance_uuid: str) -> Primitive | None:
    return _part(call, instance_uuid, "resources")


@class_method("InstanceDeviceMetadata.get_by_instance_uuid")
def device_metadata(call: Call, instance_uuid: str) -> Primitive | None:
    return _part(call, instance_uuid, "device_metadata")


@class_method("InstancePCIRequests.get_by_instance_uuid")
def pci_requests(call: Call, instance_uuid: str) -> Primitive:
    return _part(call, instance_uuid, "pci_requests")


@class_method("Flavor.get_by_instance_uuid")
def instance_flavor(call: Call, instance_uuid: str) -> Primitive:
    return _part(call, instance_uuid, "flavor")


@class_method("KeyPairList.get_by_instance_uuid")
def keypairs(call: Call, instance_uuid: str) -> Primitive:
    return _part(call, instance_uuid, "keypairs")


@class_method("TagList.get_by_resource_id")
def tags(call: Call, resource_id: str) -> Primitive:
    return _part(call, resource_id, "tags")


@class_method("EC2Ids.get_by_instance")
def ec2_ids(call: Call, instance: Primitive) -> Primitive:
    return wire.ec2_ids(primitives.data(instance))


# -- groups ----------------------------------------------------------------------------------


def group(call: Call, row: dict[str, Any]) -> Primitive:
    """An InstanceGroup with its living members."""
    members = catalog.group_members(call.connection, row["uuid"])
    rules = {}
    if row["max_server_per_host"]:
        rules["max_server_per_host"] = row["max_server_per_host"]
    return wire.make("InstanceGroup", {
        "id": row["id"], "user_id": None, "project_id": None, "uuid": row["uuid"],
        "name": row["name"], "policy": row["policy"], "rules": rules,
        "members": [member["uuid"] for member in members],
        "hosts": sorted({member["host"] for member in members if member["host"]}),
        "created_at": row["created_at"], "updated_at": row["updated_at"], "deleted_at": None,
        "deleted": False,
    })


@class_method("InstanceGroup.get_by_uuid", "InstanceGroup.get_by_hint", "InstanceGroup.get_by_name")
def group_by_key(call: Call, key: str) -> Primitive:
    rows = catalog.find_groups(call.connection, key)
    if not rows:
        raise group_not_found(key)
    return group(call, rows[0])


@class_method("InstanceGroup.get_by_instance_uuid")
def group_by_instance(call: Call, instance_uuid: str) -> Primitive:
    row = instances.get(call.connection, instance_uuid, extra=("server_group",))
    if row is None or not row["server_group"]:
        raise group_not_found(instance_uuid)
    return group_by_key(call, row["server_group"])


@method("InstanceGroup.get_hosts")
def group_hosts(call: Call, objinst: Primitive, exclude: list[str] | None = None) -> Answer:
    members = catalog.group_members(call.connection, primitives.data(objinst)["uuid"])
    hosts = {m["host"] for m in members if m["host"] and m["uuid"] not in (exclude or ())}
    return {"obj_what_changed": []}, sorted(hosts)


def group_not_found(key: str) -> Exception:
    """The error for a server group that is not there."""
    return failure("InstanceGroupNotFound", f"Instance group {key} could not be found.",
                   group_uuid=key)
