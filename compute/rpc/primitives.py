"""Versioned objects as they are on the wire, kept as plain dicts.

Nova's objects are not declared again here. A received object is kept whole, read through
:func:`data`, and changed by :func:`patch`, which sets values and names them in
``nova_object.changes``. Fields that a later Nova adds pass through untouched.

Format (oslo.versionedobjects): ``{nova_object.name, nova_object.namespace: 'nova',
nova_object.version: 'M.m', nova_object.data: {...}, nova_object.changes: [...]}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

Primitive = dict[str, Any]

NAME = "nova_object.name"
NAMESPACE = "nova_object.namespace"
VERSION = "nova_object.version"
DATA = "nova_object.data"
CHANGES = "nova_object.changes"
OWN = "magnetar"  # what we tell each other in a LibvirtLiveMigrateData; Nova reads past it

# Versions of the objects that we make or ask for ourselves, as of Nova 2026.2 (release 34).
VERSIONS = {
    "BlockDeviceMapping": "1.21",
    "BlockDeviceMappingList": "1.18",
    "CpuDiagnostics": "1.0",
    "ComputeNode": "1.19",
    "ComputeNodeList": "1.17",
    "ConsoleAuthToken": "1.3",
    "Diagnostics": "1.0",
    "DiskDiagnostics": "1.0",
    "DiskMetadata": "1.0",
    "EC2Ids": "1.0",
    "Flavor": "1.2",
    "HVSpec": "1.2",
    "ImageMeta": "1.8",
    "ImageMetaProps": "1.44",
    "Instance": "2.8",
    "InstanceAction": "1.2",
    "InstanceActionEvent": "1.4",
    "InstanceDeviceMetadata": "1.0",
    "InstanceExternalEvent": "1.5",
    "InstanceFault": "1.2",
    "InstanceInfoCache": "1.5",
    "InstanceList": "2.6",
    "InstancePCIRequests": "1.1",
    "InstanceNUMACell": "1.6",
    "InstanceNUMATopology": "1.3",
    "KeyPair": "1.4",
    "KeyPairList": "1.3",
    "LibvirtLiveMigrateData": "1.14",
    "MemoryDiagnostics": "1.0",
    "Migration": "1.8",
    "MigrationContext": "1.2",
    "MigrationList": "1.5",
    "NetworkInterfaceMetadata": "1.2",
    "NetworkRequest": "1.3",
    "NetworkRequestList": "1.1",
    "NUMACell": "1.5",
    "NUMAPagesTopology": "1.1",
    "NUMATopology": "1.2",
    "NetworkMetadata": "1.0",
    "NicDiagnostics": "1.0",
    "PciDeviceList": "1.3",
    "PciDevicePool": "1.1",
    "PciDevicePoolList": "1.1",
    "RequestLevelParams": "1.1",
    "RequestSpec": "1.15",
    "SchedulerLimits": "1.0",
    "SchedulerRetries": "1.1",
    "SecurityGroup": "1.2",
    "SecurityGroupList": "1.1",
    "Selection": "1.1",
    "Service": "1.22",
    "TagList": "1.1",
    "VirtualInterface": "1.3",
}


def is_object(value: Any) -> bool:
    """Whether a value is an object's primitive."""
    return isinstance(value, dict) and NAME in value and DATA in value


def make(name: str, fields: Mapping[str, Any], changes: Iterable[str] | None = None) -> Primitive:
    """A new object; ``changes`` defaults to all fields given, as for an object not yet saved."""
    prim: Primitive = {
        NAME: name,
        NAMESPACE: "nova",
        VERSION: VERSIONS[name],
        DATA: dict(fields),
    }
    changed = sorted(fields if changes is None else changes)
    if changed:
        prim[CHANGES] = changed
    return prim


def make_list(name: str, objects: Iterable[Primitive]) -> Primitive:
    """A List object with the given members."""
    return make(name, {"objects": list(objects)})


def name(prim: Primitive) -> str:
    return prim[NAME]


def data(prim: Primitive | None) -> dict[str, Any]:
    """An object's fields; empty for None."""
    return prim[DATA] if prim else {}


def objects(prim: Primitive | None) -> list[Primitive]:
    """The members of a List object; empty for None."""
    return list(data(prim).get("objects") or ())


def changes(prim: Primitive) -> list[str]:
    """Names of the fields set since the object was loaded."""
    return list(prim.get(CHANGES) or ())


def patch(prim: Primitive, values: Mapping[str, Any]) -> Primitive:
    """A copy of an object with these fields set and named as changed; the original stays."""
    copy = dict(prim)
    copy[DATA] = {**prim[DATA], **values}
    copy[CHANGES] = sorted({*changes(prim), *values})
    return copy


def own(prim: Primitive | None) -> dict[str, Any]:
    """What was told with :func:`with_own`; empty if nothing was."""
    return data(prim).get(OWN) or {}


def with_own(prim: Primitive, facts: Mapping[str, Any]) -> Primitive:
    """A copy of an object that carries facts of ours, instead of those it carried."""
    return {**prim, DATA: {**data(prim), OWN: dict(facts)}}


def clean(prim: Primitive, updates: Mapping[str, Any] | None = None) -> Primitive:
    """A copy with the saver's ``updates`` merged in and no changes left, as after save()."""
    copy = dict(prim)
    merged = {key: value for key, value in (updates or {}).items() if key != "obj_what_changed"}
    copy[DATA] = {**prim[DATA], **merged}
    copy.pop(CHANGES, None)
    return copy


def now() -> str:
    """The present time as a datetime field on the wire, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
