"""The only translation between Nova's objects on the wire and our dataclasses.

Facts: field names and the network_info structure are those of nova.objects.Instance 2.8 and
nova.network.model, as captured from a stock Nova 34.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Refused
from compute.model.guest import Address, Flavor, Guest, Image, KeyPair, NetworkRequest, Nic
from compute.rpc.primitives import Primitive, data, is_object, name, objects


def malformed(what: str) -> Refused:
    """The refusal of a message that cannot be understood."""
    return Refused(what, now="Nothing was done for this message.",
                   next="Send it as version 6.5 of the compute RPC API describes it.",
                   code="bad_request")


def require(args: Mapping[str, Any], key: str, kind: str) -> Primitive:
    """An argument that has to be an object of one kind.

    :raises Refused: code ``bad_request``.
    """
    value: Any = args.get(key)
    if not is_object(value) or name(value) != kind:
        raise malformed(f"Argument '{key}' has to be a {kind} object.")
    return value


def flavor(prim: Primitive | None) -> Flavor:
    """A Flavor object as a dataclass. Raises Refused when a size is missing or absurd."""
    fields = data(prim)
    try:
        made = Flavor(
            name=fields.get("name") or "", flavorid=str(fields.get("flavorid") or ""),
            vcpus=int(fields["vcpus"]), memory_mb=int(fields["memory_mb"]),
            root_gb=int(fields.get("root_gb") or 0),
            ephemeral_gb=int(fields.get("ephemeral_gb") or 0),
            swap_mb=int(fields.get("swap") or 0),
            extra_specs={k: str(v) for k, v in (fields.get("extra_specs") or {}).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(f"The flavor cannot be read: {error!r}.") from error
    if made.vcpus < 1 or made.memory_mb < 1 or min(made.root_gb, made.ephemeral_gb,
                                                   made.swap_mb) < 0:
        raise malformed("The flavor needs at least one vCPU and 1 MiB of memory, "
                        "and no negative disk.")
    return made


def image(meta: Mapping[str, Any] | None) -> Image | None:
    """The image dict of build_and_run_instance as a dataclass; None for an empty one."""
    if not meta or not meta.get("id"):
        return None
    return Image(
        id=str(meta["id"]), name=meta.get("name") or "",
        disk_format=meta.get("disk_format") or "",
        container_format=meta.get("container_format") or "bare",
        size=int(meta.get("size") or 0), min_disk=int(meta.get("min_disk") or 0),
        min_ram=int(meta.get("min_ram") or 0), hash_algo=meta.get("os_hash_algo") or "",
        hash_value=meta.get("os_hash_value") or "",
        properties={k: str(v) for k, v in (meta.get("properties") or {}).items()
                    if v is not None},
    )


def image_of_instance(fields: Mapping[str, Any]) -> Image | None:
    """The image as the Instance remembers it (system_metadata ``image_*``), for verbs that are
    sent without an image."""
    if not fields.get("image_ref"):
        return None
    known = {key[len("image_"):]: value
             for key, value in (fields.get("system_metadata") or {}).items()
             if key.startswith("image_")}
    own = {key: known.pop(key, None) for key in ("disk_format", "container_format", "min_disk",
                                                 "min_ram", "base_image_ref")}
    return image({"id": fields["image_ref"], "properties": known,
                  **{k: v for k, v in own.items() if v}})


# The control plane sends most verbs without the flavor; what needs one reads the Instance anew.
NO_FLAVOR = Flavor(name="", vcpus=0, memory_mb=0)


def instance_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the Instance that a message is about; raises Refused when it has no uuid."""
    fields = data(require(args, "instance", "Instance"))
    uuid = fields.get("uuid")
    if not isinstance(uuid, str) or len(uuid) != 36:
        raise malformed("The Instance has no uuid.")
    return fields


def guest(prim: Primitive, image_meta: Mapping[str, Any] | None = None,
          name_template: str = "instance-%08x") -> Guest:
    """An Instance object as a Guest.

    :raises Refused: code ``bad_request`` when a field that we need is missing.
    """
    fields = instance_of({"instance": prim})
    return Guest(
        uuid=fields["uuid"], name=domain_name(fields, name_template),
        display_name=fields.get("display_name") or "",
        hostname=fields.get("hostname") or "",
        flavor=flavor(fields["flavor"]) if fields.get("flavor") else NO_FLAVOR,
        image=image(image_meta) or image_of_instance(fields),
        project_id=fields.get("project_id") or "", user_id=fields.get("user_id") or "",
        metadata=dict(fields.get("metadata") or {}),
        system_metadata=dict(fields.get("system_metadata") or {}),
        user_data=fields.get("user_data"), keypairs=_keypairs(fields),
        config_drive=str(fields.get("config_drive") or "").lower() in ("true", "1", "yes"),
        availability_zone=fields.get("availability_zone"),
        launch_index=int(fields.get("launch_index") or 0), os_type=fields.get("os_type"),
        created_at=fields.get("created_at") or "", vm_state=fields.get("vm_state"),
        task_state=fields.get("task_state"), power_state=fields.get("power_state") or 0,
        host=fields.get("host"), node=fields.get("node"), nics=nics(fields),
    )


def domain_name(fields: Mapping[str, Any], template: str) -> str:
    """The libvirt domain's name: from the template on the database id, as Nova names it."""
    if template == "uuid" or fields.get("id") is None:
        return fields["uuid"]
    try:
        return template % fields["id"]
    except (TypeError, ValueError):
        return template % {"uuid": fields["uuid"], "id": fields["id"],
                           "hostname": fields.get("hostname") or ""}


def _keypairs(fields: Mapping[str, Any]) -> tuple[KeyPair, ...]:
    pairs = [KeyPair(data(p).get("name") or "", data(p).get("public_key") or "",
                     data(p).get("type") or "ssh") for p in objects(fields.get("keypairs"))]
    if not pairs and fields.get("key_data"):
        pairs = [KeyPair(fields.get("key_name") or "key", fields["key_data"])]
    return tuple(pairs)


def network_requests(prim: Primitive | None) -> tuple[NetworkRequest, ...]:
    """A NetworkRequestList as dataclasses."""
    return tuple(
        NetworkRequest(
            network_id=data(p).get("network_id"), port_id=data(p).get("port_id"),
            fixed_ip=data(p).get("address"), tag=data(p).get("tag"))
        for p in objects(prim))


def injected_files(value: Any) -> list[list[str]]:
    """Injected files as [[path, base64 text]]. Raises Refused when one is not base64."""
    try:
        files = [[path, text] for path, text in value or ()]
        for _, text in files:
            base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise malformed("An injected file is not a [path, base64] pair.") from error
    return files


# -- network_info: what Nova's API shows as addresses ---------------------------------------------
def nics(fields: Mapping[str, Any]) -> tuple[Nic, ...]:
    """The NICs in an Instance's info cache."""
    text = data(fields.get("info_cache")).get("network_info")
    if not text:
        return ()
    try:
        return tuple(_nic(vif) for vif in json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise malformed(f"The info cache cannot be read: {error!r}.") from error


def _nic(vif: Mapping[str, Any]) -> Nic:
    network = vif["network"]
    meta = network.get("meta") or {}
    found = [
        Address(
            address=ip["address"], cidr=subnet["cidr"], version=subnet.get("version") or 4,
            gateway=(subnet.get("gateway") or {}).get("address"),
            dns=tuple(entry["address"] for entry in subnet.get("dns") or ()),
            dhcp=bool((subnet.get("meta") or {}).get("dhcp_server")
                      or (subnet.get("meta") or {}).get("enable_dhcp")),
            routes=tuple((r["cidr"], r["gateway"]["address"]) for r in subnet.get("routes") or ()),
        )
        for subnet in network.get("subnets") or () for ip in subnet.get("ips") or ()
    ]
    details = vif.get("details") or {}
    return Nic(
        id=vif["id"], mac=vif["address"], network_id=network["id"],
        label=network.get("label") or "",
        kind="network" if details.get("libvirt_network")
        else "ovs" if vif.get("type") == "ovs" else "bridge",
        source=details.get("libvirt_network") or network.get("bridge") or "",
        mtu=meta.get("mtu"), addresses=tuple(found), tag=(vif.get("meta") or {}).get("tag"),
        kept=bool(vif.get("preserve_on_delete")),
    )


def network_info(guest_nics: Iterable[Nic]) -> str:
    """NICs as the JSON text of the info cache, in the structure of nova.network.model."""
    return json.dumps([_vif(nic) for nic in guest_nics])


def _vif(nic: Nic) -> dict[str, Any]:
    subnets: dict[str, dict[str, Any]] = {}
    for address in nic.addresses:
        subnet = subnets.setdefault(address.cidr, {
            "cidr": address.cidr, "version": address.version, "ips": [],
            "dns": [_ip(server, "dns", address.version) for server in address.dns],
            "gateway": _ip(address.gateway, "gateway", address.version),
            "routes": [{"cidr": cidr, "gateway": _ip(via, "gateway", address.version),
                        "interface": None} for cidr, via in address.routes],
            "meta": {"enable_dhcp": address.dhcp},
        })
        subnet["ips"].append({**_ip(address.address, "fixed", address.version),
                              "floating_ips": []})
    is_network = nic.kind == "network"
    return {
        "id": nic.id, "address": nic.mac,
        "network": {
            "id": nic.network_id, "bridge": None if is_network else nic.source,
            "label": nic.label, "subnets": list(subnets.values()),
            "meta": {"injected": False, "mtu": nic.mtu},
        },
        "type": "ovs" if nic.kind == "ovs" else "bridge",
        "details": {"libvirt_network": nic.source} if is_network else {},
        "devname": nic.tap,
        "ovs_interfaceid": nic.id if nic.kind == "ovs" else None,
        "qbh_params": None, "qbg_params": None, "active": True, "vnic_type": "normal",
        "profile": {}, "preserve_on_delete": nic.kept, "delegate_create": True,
        "meta": {"tag": nic.tag} if nic.tag else {},
    }


def _ip(address: str | None, kind: str, version: int) -> dict[str, Any]:
    return {"address": address, "type": kind, "version": version if address else None, "meta": {}}
