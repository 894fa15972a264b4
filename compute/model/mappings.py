"""Volumes on the wire: Nova's BlockDeviceMapping 1.21."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from compute.model.volume import Volume, without_secrets
from compute.model.wire import malformed
from compute.rpc.primitives import DATA, Primitive, data, is_object, objects

NAME = "BlockDeviceMapping"
DEVICES = "/dev/"


def of_volumes(prims: Iterable[Primitive]) -> list[Primitive]:
    """Those mappings that are of volumes, the ones that a guest boots from first."""
    found = [prim for prim in prims if data(prim).get("destination_type") == "volume"
             and not data(prim).get("deleted")]
    return sorted(found, key=lambda prim: (_boot_index(data(prim)) != 0, data(prim).get("id") or 0))


def listed(prim: Primitive | None) -> list[Primitive]:
    """The mappings of volumes in a BlockDeviceMappingList."""
    return of_volumes(objects(prim))


def connection_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping's connection_info; empty if there is none. Raises Refused(bad_request)."""
    text = fields.get("connection_info")
    try:
        found = json.loads(text) if text else {}
    except (TypeError, ValueError) as error:
        raise malformed(f"The connection_info of volume {fields.get('volume_id')} cannot be "
                        f"read: {error}.") from error
    return found if isinstance(found, dict) else {}


def volume(fields: Mapping[str, Any]) -> Volume:
    """A mapping's fields as a volume. Raises Refused(bad_request)."""
    try:
        connection = connection_of(fields)
        name = (fields.get("device_name") or "").removeprefix(DEVICES)
        return Volume(
            id=str(fields.get("volume_id") or ""), attachment_id=fields.get("attachment_id") or "",
            connection=connection, target=name, bus=fields.get("disk_bus") or "",
            device=fields.get("device_type") or "disk", boot_index=_boot_index(fields),
            tag=fields.get("tag"), multiattach=bool(connection.get("multiattach")),
            size_gb=int(fields.get("volume_size") or 0),
            delete_on_termination=bool(fields.get("delete_on_termination")))
    except (AttributeError, TypeError, ValueError) as error:
        raise malformed(f"A block device mapping cannot be read: {error!r}.") from error


def _boot_index(fields: Mapping[str, Any]) -> int | None:
    index = fields.get("boot_index")
    return index if isinstance(index, int) and index >= 0 else None


def required(args: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Fields of an argument that has to be a mapping of a volume. Raises Refused(bad_request)."""
    prim: Any = args.get(key)
    if not is_object(prim) or not prim["nova_object.name"] == NAME:
        raise malformed(f"Argument '{key}' has to be a {NAME} object.")
    fields = data(prim)
    if not isinstance(fields.get("volume_id"), str) or not fields["volume_id"]:
        raise malformed(f"The {NAME} has no volume_id.")
    return fields


def changes(volume: Volume) -> dict[str, Any]:
    """A volume as fields of its mapping, its connection's secrets included."""
    return {
        "volume_id": volume.id, "attachment_id": volume.attachment_id or None,
        "device_name": DEVICES + volume.target, "disk_bus": volume.bus,
        "device_type": volume.device, "volume_size": volume.size_gb or None,
        "connection_info": json.dumps(dict(volume.connection)) if volume.connection else None}


def public(prim: Any) -> Any:
    """A mapping, or a list of them, with nothing secret in it: as it may be journalled."""
    if not is_object(prim):
        return prim
    fields = dict(prim[DATA])
    if fields.get("objects"):
        fields["objects"] = [public(one) for one in fields["objects"]]
    if fields.get("connection_info"):
        fields["connection_info"] = json.dumps(without_secrets(connection_of(fields)))
    return {**prim, DATA: fields}
