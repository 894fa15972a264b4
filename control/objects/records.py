"""Info caches, actions, events, faults, block devices, virtual interfaces; and the lists that are
always empty here, since nothing in this control plane makes such things."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from compute.rpc import primitives
from control import wire
from control.objects import Call, class_method, method
from control.wire import failure
from db.control import instances, records, tables

B = tables.block_device_mapping.c
Primitive = dict[str, Any]
Answer = tuple[dict[str, Any], Any]


def _saved(name: str, objinst: Primitive, row: dict[str, Any]) -> Answer:
    return wire.updates(objinst, primitives.data(wire.from_row(name, row))), None


# -- info cache --------------------------------------------------------------------------------


@method("InstanceInfoCache.save")
def save_cache(call: Call, objinst: Primitive, **_how: Any) -> Answer:
    data = primitives.data(objinst)
    row = instances.save_cache(call.connection, data["instance_uuid"], data["network_info"])
    return _saved("InstanceInfoCache", objinst, row)


@method("InstanceInfoCache.refresh")
def refresh_cache(call: Call, objinst: Primitive) -> Answer:
    row = instances.get_cache(call.connection, primitives.data(objinst)["instance_uuid"])
    if row is None:
        raise _no_cache(primitives.data(objinst)["instance_uuid"])
    answer, _ = _saved("InstanceInfoCache", objinst, row)
    return {**answer, "obj_what_changed": []}, None


@class_method("InstanceInfoCache.get_by_instance_uuid")
def get_cache(call: Call, instance_uuid: str) -> Primitive:
    row = instances.get_cache(call.connection, instance_uuid)
    if row is None:
        raise _no_cache(instance_uuid)
    return wire.from_row("InstanceInfoCache", row)


def _no_cache(uuid: str) -> Exception:
    return failure("InstanceInfoCacheNotFound", f"Info cache for instance {uuid} not found.")


# -- actions and faults ------------------------------------------------------------------------


def _action(call: Call, instance_uuid: str) -> dict[str, Any]:
    """The action of this request; a service's own work at start counts to the newest action."""
    request_id = call.context.request_id
    row = records.find_action(call.connection, instance_uuid, request_id)
    if row is None and not call.context.project_id:
        row = records.find_action(call.connection, instance_uuid, None)
    if row is None:
        raise failure(
                       "InstanceActionNotFound",
                       f"Action for request_id {request_id} on instance {instance_uuid} not "
                       "found")
    return row


def _event(row: dict[str, Any] | None, want_result: bool | None) -> Primitive | None:
    if not want_result or row is None:
        return None
    return wire.make("InstanceActionEvent", dict(row))


@class_method("InstanceActionEvent.event_start")
def event_start(
    call: Call, instance_uuid: str, event_name: str, want_result: bool = True,
    host: str | None = None,
) -> Primitive | None:
    action = _action(call, instance_uuid)
    row = records.start_event(call.connection, action["id"], event_name, host)
    return _event(row, want_result)


@class_method("InstanceActionEvent.event_finish_with_failure", "InstanceActionEvent.event_finish")
def event_finish(
    call: Call, instance_uuid: str, event_name: str, exc_val: Any = None, exc_tb: Any = None,
    want_result: bool | None = None, **_unused: Any,
) -> Primitive | None:
    action = _action(call, instance_uuid)
    failed = exc_val is not None or exc_tb is not None
    row = records.finish_event(
        call.connection, action["id"], event_name, "Error" if failed else "Success",
        exc_tb if exc_tb is None else str(exc_tb), exc_val if exc_val is None else str(exc_val),
    )
    if row is None:
        raise failure(
                       "InstanceActionEventNotFound",
                       f"Event {event_name} not found for action id {action['id']}")
    return _event(row, want_result)


@class_method("InstanceAction.action_start")
def action_start(
    call: Call, instance_uuid: str, action_name: str, want_result: bool = True
) -> Primitive | None:
    row = records.start_action(
        call.connection, action_name, instance_uuid, call.context.request_id,
        call.context.user_id, call.context.project_id,
    )
    return wire.make("InstanceAction", dict(row)) if want_result else None


@method("InstanceFault.create")
def create_fault(call: Call, objinst: Primitive) -> Answer:
    row = instances.create_fault(call.connection, wire.changed(objinst))
    return _saved("InstanceFault", objinst, row)


@class_method("InstanceFaultList.get_by_instance_uuids")
def get_faults(call: Call, instance_uuids: list[str]) -> Primitive:
    rows = instances.faults(call.connection, instance_uuids)
    return wire.make_list("InstanceFaultList", _objects("InstanceFault", rows))


# -- block devices -----------------------------------------------------------------------------


def _objects(name: str, rows: Iterable[dict[str, Any]]) -> list[Primitive]:
    return [wire.from_row(name, row) for row in rows]


def device_list(call: Call, uuids: Iterable[str]) -> Primitive:
    """A BlockDeviceMappingList of all devices of these instances."""
    rows = records.devices(call.connection, uuids)
    return wire.make_list("BlockDeviceMappingList", _objects("BlockDeviceMapping", rows))


@class_method("BlockDeviceMappingList.get_by_instance_uuid")
def devices_of(call: Call, instance_uuid: str, use_slave: bool = False) -> Primitive:
    return device_list(call, [instance_uuid])


@class_method("BlockDeviceMappingList.get_by_instance_uuids")
def devices_of_all(call: Call, instance_uuids: list[str], use_slave: bool = False) -> Primitive:
    return device_list(call, instance_uuids)


@class_method("BlockDeviceMapping.get_by_volume_and_instance")
def device_by_volume(call: Call, volume_id: str, instance_uuid: str, **_how: Any) -> Primitive:
    row = records.find_device(call.connection, volume_id=volume_id, instance_uuid=instance_uuid)
    if row is None:
        raise failure(
                       "VolumeBDMNotFound",
                       f"No volume Block Device Mapping with id {volume_id}.")
    return wire.from_row("BlockDeviceMapping", row)


@class_method("BlockDeviceMapping.get_by_id")
def device_by_id(call: Call, id: int) -> Primitive:  # noqa: A002 - Nova's word
    return _device(records.find_device(call.connection, id=id), id)


@class_method("BlockDeviceMapping.get_by_volume")
def device_of_volume(call: Call, volume_id: str, instance_uuid: str | None = None,
                     **_how: Any) -> Primitive:
    """The only one of a volume; of a shared volume that of one instance."""
    where = [B.volume_id == volume_id]
    if instance_uuid:
        where.append(B.instance_uuid == instance_uuid)
    found = records.query_devices(call.connection, *where)
    if len(found) > 1:
        raise failure("BDMNotFound",
                      f"{len(found)} block device mappings have volume {volume_id}.")
    return _device(found[0] if found else None, volume_id)


def _device(row: dict[str, Any] | None, key: Any) -> Primitive:
    if row is None:
        raise failure("BDMNotFound", f"No Block Device Mapping with id {key}.")
    return wire.from_row("BlockDeviceMapping", row)


@method("BlockDeviceMapping.create")
def create_device(call: Call, objinst: Primitive) -> Answer:
    row = records.create_device(call.connection, wire.changed(objinst))
    return _saved("BlockDeviceMapping", objinst, row)


@method("BlockDeviceMapping.save")
def save_device(call: Call, objinst: Primitive) -> Answer:
    data = primitives.data(objinst)
    row = records.save_device(call.connection, data["id"], wire.changed(objinst))
    if row is None:
        raise failure("NotFound", f"Block device mapping {data['id']} could not be found.")
    return _saved("BlockDeviceMapping", objinst, row)


@method("BlockDeviceMapping.update_or_create")
def update_or_create_device(call: Call, objinst: Primitive) -> Answer:
    values = wire.changed(objinst)
    instance_uuid = values.get("instance_uuid") or primitives.data(objinst)["instance_uuid"]
    old = None
    if values.get("device_name"):
        old = records.find_device(
            call.connection, instance_uuid=instance_uuid, device_name=values["device_name"]
        )
    row = records.save_device(call.connection, old["id"], values) if old else None
    row = row or records.create_device(call.connection, values)
    return _saved("BlockDeviceMapping", objinst, row)


@method("BlockDeviceMapping.destroy")
def destroy_device(call: Call, objinst: Primitive) -> Answer:
    data = primitives.data(objinst)
    records.delete_devices(call.connection, B.id == data["id"])
    return {"deleted": True, "obj_what_changed": []}, None


# -- virtual interfaces ------------------------------------------------------------------------


@method("VirtualInterface.create")
def create_interface(call: Call, objinst: Primitive) -> Answer:
    values = wire.changed(objinst)
    values["address"] = values["address"].split("/", 1)[0]  # sent as MAC/port to be unique
    row = records.create_interface(call.connection, values)
    return _saved("VirtualInterface", objinst, row)


@class_method("VirtualInterface.delete_by_instance_uuid")
def delete_interfaces(call: Call, instance_uuid: str) -> None:
    records.delete_interfaces(call.connection, instance_uuid)


@class_method("VirtualInterfaceList.get_by_instance_uuid")
def interfaces_of(call: Call, instance_uuid: str, use_slave: bool = False) -> Primitive:
    rows = records.interfaces(call.connection, instance_uuid)
    return wire.make_list("VirtualInterfaceList", _objects("VirtualInterface", rows))


# -- always empty ------------------------------------------------------------------------------


@class_method("PciDeviceList.get_by_compute_node", "PciDeviceList.get_by_instance_uuid")
def pci_devices(call: Call, key: int | str) -> Primitive:
    return wire.make_list("PciDeviceList", [])


@class_method("ShareMappingList.get_by_instance_uuid")
def shares(call: Call, instance_uuid: str) -> Primitive:
    return wire.make_list("ShareMappingList", [])
