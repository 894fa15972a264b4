"""From rows to Nova's objects as they are on the wire, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compute.rpc import primitives
from compute.rpc.exceptions import nova_exception
from db.control import instances as instance_rows
from db.control import tables

Primitive = dict[str, Any]
Row = dict[str, Any]

# Versions of Nova 2026.2 of the objects that only a control plane makes.
VERSIONS = {
    **primitives.VERSIONS,
    "BuildRequest": "1.3",
    "Destination": "1.4",
    "InstanceExternalEvent": "1.5",
    "InstanceFaultList": "1.2",
    "InstanceGroup": "1.11",
    "Migration": "1.8",
    "MigrationContext": "1.2",
    "PciDeviceList": "1.3",
    "ResourceList": "1.0",
    "ServiceList": "1.19",
    "ShareMappingList": "1.1",
    "Tag": "1.1",
    "VirtualInterfaceList": "1.0",
}

# Attributes of Instance that are loaded only when asked for, and so may be absent.
OPTIONAL = (*sorted(instance_rows.EXTRA), "info_cache", "security_groups", "pci_devices",
            "ec2_ids", "fault", "services")
DEFAULT_ATTRS = ("info_cache", "security_groups")

COLUMNS = {
    "Service": frozenset(c.name for c in tables.services.c)
    - {"availability_zone", "fenced_at"},
    "ComputeNode": frozenset(c.name for c in tables.compute_nodes.c),
    "BlockDeviceMapping": frozenset(c.name for c in tables.block_device_mapping.c),
    "ConsoleAuthToken": frozenset(c.name for c in tables.console_auth_tokens.c),
    "VirtualInterface": frozenset(c.name for c in tables.virtual_interfaces.c),
    "InstanceFault": frozenset(c.name for c in tables.instance_faults.c),
    "Migration": frozenset(c.name for c in tables.migrations.c),
    "InstanceInfoCache": frozenset(c.name for c in tables.instance_info_caches.c) - {"id"},
}
READ_ONLY = frozenset({"id", "created_at", "updated_at", "deleted_at", "deleted"})


def failure(name: str, message: str, **kwargs: Any) -> Exception:
    """An exception that serializes as ``nova.exception.<name>``; ``kwargs`` travel with it."""
    made: Any = nova_exception(name)
    return made(message, **kwargs)


def make(name: str, fields: Mapping[str, Any]) -> Primitive:
    """An object as loaded: nothing in it counts as changed."""
    return {
        primitives.NAME: name,
        primitives.NAMESPACE: "nova",
        primitives.VERSION: VERSIONS[name],
        primitives.DATA: dict(fields),
    }


def make_list(name: str, objects: Iterable[Primitive]) -> Primitive:
    """A List object as loaded."""
    return make(name, {"objects": list(objects)})


def from_row(name: str, row: Row) -> Primitive:
    """An object of a kind whose fields are its table's columns."""
    return make(name, {key: value for key, value in row.items() if key in COLUMNS[name]})


def changed(objinst: Primitive, columns: Iterable[str] | None = None) -> Row:
    """The changed fields of an object that its table has a column for."""
    known = COLUMNS[objinst[primitives.NAME]] if columns is None else frozenset(columns)
    data = primitives.data(objinst)
    return {name: data[name] for name in primitives.changes(objinst)
            if name in known - READ_ONLY and name in data}


def updates(objinst: Primitive, saved: Mapping[str, Any]) -> Row:
    """What the caller's copy lacks or has otherwise, as the first part of object_action's answer.

    ``obj_what_changed`` keeps the changes that a save of this kind does not write.
    """
    data = primitives.data(objinst)
    differing: Row = {
        key: value for key, value in saved.items() if key not in data or data[key] != value
    }
    differing["obj_what_changed"] = [
        name for name in primitives.changes(objinst) if name not in saved
    ]
    return differing


def flavor(row: Row) -> Primitive:
    """A Flavor from a row of ``flavors``."""
    return make("Flavor", {
        "id": row["id"], "name": row["name"], "memory_mb": row["memory_mb"],
        "vcpus": row["vcpus"], "root_gb": row["root_gb"], "ephemeral_gb": row["ephemeral_gb"],
        "flavorid": row["flavorid"], "swap": row["swap"], "rxtx_factor": 1.0, "vcpu_weight": 0,
        "disabled": False, "is_public": True, "extra_specs": row["extra_specs"] or {},
        "description": row["description"], "created_at": row["created_at"],
        "updated_at": row["updated_at"], "deleted_at": None, "deleted": False,
    })


def info_cache(uuid: str, network_info: str | None, created: str | None,
               updated: str | None) -> Primitive:
    """An InstanceInfoCache. ``network_info`` is JSON text."""
    return make("InstanceInfoCache", {
        "instance_uuid": uuid, "network_info": network_info or "[]", "created_at": created,
        "updated_at": updated, "deleted_at": None, "deleted": False,
    })


def ec2_ids(row: Row) -> Primitive:
    """EC2Ids in the way of Nova: made of the instance's number."""
    return make("EC2Ids", {"instance_id": f"i-{row['id']:08x}", "ami_id": None,
                           "kernel_id": None, "ramdisk_id": None})


def _empty(attr: str, row: Row) -> Primitive | None:
    if attr == "security_groups":
        return make_list("SecurityGroupList", [])
    if attr == "pci_devices":
        return make_list("PciDeviceList", [])
    if attr == "ec2_ids":
        return ec2_ids(row)
    if attr == "services":
        return make_list("ServiceList", [])
    return None


def instance(row: Row, attrs: Iterable[str] = (), fault: Row | None = None) -> Primitive:
    """An Instance with the plain fields and the optional attributes asked for."""
    data = {name: row[name] for name in instance_rows.BASE}
    for attr in attrs:
        if attr == "info_cache":
            data[attr] = info_cache(row["uuid"], row["cache_network_info"],
                                    row["cache_created_at"], row["cache_updated_at"])
        elif attr == "fault":
            data[attr] = from_row("InstanceFault", fault) if fault else None
        elif attr in instance_rows.EXTRA:
            data[attr] = extra(attr, row)
        elif attr in OPTIONAL:
            data[attr] = _empty(attr, row)
    return make("Instance", data)


def extra(attr: str, row: Row) -> Any:
    """An attribute that is kept in a JSON column, with what it is when it was never set."""
    value = row[attr]
    if value is not None:
        return value
    if attr in ("metadata", "system_metadata"):
        return {}
    if attr == "tags":
        return make_list("TagList", [])
    if attr == "keypairs":
        return make_list("KeyPairList", [])
    if attr == "pci_requests":
        return make("InstancePCIRequests", {"instance_uuid": row["uuid"], "requests": []})
    return None


def backport(value: Any, manifest: Mapping[str, str]) -> Any:
    """A copy of an object, and of all within it, at no newer versions than the manifest says.

    Nova's readers ignore fields that they do not know, so the version is all that has to change.

    :raises ValueError: another major version is wanted.
    """
    if isinstance(value, list):
        return [backport(item, manifest) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {key: backport(item, manifest) for key, item in value.items()}
    if primitives.is_object(value):
        wanted = manifest.get(value[primitives.NAME])
        if wanted:
            copy[primitives.VERSION] = _lower(value, wanted)
    return copy


def _lower(objinst: Primitive, wanted: str) -> str:
    have = objinst[primitives.VERSION]
    major, minor = (int(part) for part in wanted.split(".")[:2])
    own_major, own_minor = (int(part) for part in have.split(".")[:2])
    if major != own_major:
        raise ValueError(f"{objinst[primitives.NAME]} {have} cannot be made {wanted}")
    return wanted if minor < own_minor else have


def needs_backport(manifest: Mapping[str, str] | None) -> bool:
    """Whether a caller's manifest names anything older than what we make."""
    return any(VERSIONS.get(name, version) != version for name, version in (manifest or {}).items())
