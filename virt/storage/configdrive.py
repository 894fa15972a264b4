"""The config drive: an iso9660 file system, label config-2, from which a guest learns who it is."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Failed
from compute.model.guest import Address, Guest, Nic
from virt.storage import command, files

LABEL = "config-2"
VERSIONS = ("latest", "2018-08-27")  # the newest layout that cloud-init knows by name


def wanted(guest: Guest, forced: bool) -> bool:
    """Whether a guest gets a config drive: asked for, forced by this host, or by its image."""
    return guest.config_drive or forced or guest.prop("img_config_drive") == "mandatory"


def make(
    path: str, guest: Guest, secrets: Mapping[str, Any], *, tool: str, domain: str, timeout: float
) -> None:
    """Write a config drive to ``path``, readable by its owner only.

    :param secrets: may hold ``admin_pass`` (text) and ``files`` (see :func:`_injected`).
    :param tool: the mkisofs command.
    :param domain: DNS domain that is appended to the host name; may be empty.
    :raises Failed: code ``invalid_user_data`` or ``invalid_files``, or the command's.
    """
    tree = _tree(guest, secrets, domain)
    folder = files.part_name(path + ".d")
    try:
        for name, data in tree.items():
            _put(os.path.join(folder, name), data)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        options = ("-quiet", "-J", "-r", "-l", "-ldots", "-allow-lowercase", "-allow-multidot")
        command.run((tool, *options, "-V", LABEL, "-o", path, folder), timeout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)


def _tree(guest: Guest, secrets: Mapping[str, Any], domain: str) -> dict[str, bytes]:
    """All files of the drive: {path: contents}."""
    injected = _injected(secrets.get("files"))
    user_data = _user_data(guest)
    common: dict[str, bytes] = {
        "meta_data.json": _json(meta_data(guest, secrets, domain, [path for path, _ in injected])),
        "network_data.json": _json(network_data(guest.nics)),
        "vendor_data.json": b"{}",
        "vendor_data2.json": b"{}",
    }
    ec2: dict[str, bytes] = {"meta-data.json": _json(_ec2_meta_data(guest, domain))}
    if user_data is not None:
        common["user_data"] = ec2["user-data"] = user_data
    tree = {f"openstack/{version}/{name}": data
            for version in VERSIONS for name, data in common.items()}
    tree |= {f"ec2/latest/{name}": data for name, data in ec2.items()}
    tree |= {f"openstack/content/{index:04}": data for index, (_, data) in enumerate(injected)}
    return tree


def meta_data(
    guest: Guest, secrets: Mapping[str, Any], domain: str, paths: Iterable[str] = ()
) -> dict[str, Any]:
    """The contents of ``meta_data.json``; ``paths`` are those of the injected files."""
    data: dict[str, Any] = {
        "uuid": guest.uuid,
        "name": guest.display_name,
        "hostname": _fqdn(guest, domain),
        "launch_index": guest.launch_index,
        "availability_zone": guest.availability_zone,
        "project_id": guest.project_id,
        "meta": dict(guest.metadata),
        "random_seed": base64.b64encode(os.urandom(512)).decode(),
        "dedicated_cpus": [],
        "devices": [
            {"type": "nic", "bus": "none", "address": "none", "mac": nic.mac, "tags": [nic.tag]}
            for nic in guest.nics
            if nic.tag
        ],
    }
    if guest.keypairs:
        data["public_keys"] = {key.name: key.public_key for key in guest.keypairs}
        data["keys"] = [
            {"name": key.name, "type": key.type, "data": key.public_key} for key in guest.keypairs
        ]
    listed = [
        {"path": path, "content_path": f"/content/{index:04}"} for index, path in enumerate(paths)
    ]
    if listed:
        data["files"] = listed
    if secrets.get("admin_pass"):
        data["admin_pass"] = secrets["admin_pass"]
    return data


def network_data(nics: Iterable[Nic]) -> dict[str, Any]:
    """The contents of ``network_data.json``: links, networks and DNS services.

    Of each NIC the first IPv4 and the first IPv6 address are described, as guests expect.
    """
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, str]] = []
    for nic in nics:
        links.append(
            {
                "id": nic.tap,
                "vif_id": nic.id,
                "type": "bridge",
                "mtu": nic.mtu,
                "ethernet_mac_address": nic.mac,
            }
        )
        for version in (4, 6):
            first = next((each for each in nic.addresses if each.version == version), None)
            if first is None:
                continue
            networks.append(_network(f"network{len(networks)}", nic, first))
            dns = [{"type": "dns", "address": address} for address in first.dns]
            services += [service for service in dns if service not in services]
    return {"links": links, "networks": networks, "services": services}


def _network(name: str, nic: Nic, address: Address) -> dict[str, Any]:
    network: dict[str, Any] = {
        "id": name,
        "link": nic.tap,
        "network_id": nic.network_id,
        "type": f"ipv{address.version}" + ("_dhcp" if address.dhcp else ""),
    }
    if address.dhcp:
        return network
    routes = list(address.routes)
    if address.gateway:
        routes.insert(0, ("0.0.0.0/0" if address.version == 4 else "::/0", address.gateway))
    network |= {
        "ip_address": address.address,
        "netmask": str(ipaddress.ip_network(address.cidr, strict=False).netmask),
        "routes": [_route(cidr, gateway) for cidr, gateway in routes],
        "services": [{"type": "dns", "address": dns} for dns in address.dns],
    }
    return network


def _route(cidr: str, gateway: str) -> dict[str, str]:
    network = ipaddress.ip_network(cidr, strict=False)
    return {
        "network": str(network.network_address),
        "netmask": str(network.netmask),
        "gateway": gateway,
    }


def _ec2_meta_data(guest: Guest, domain: str) -> dict[str, Any]:
    addresses = [each.address for nic in guest.nics for each in nic.addresses if each.version == 4]
    data: dict[str, Any] = {
        "instance-id": guest.uuid,
        "hostname": _fqdn(guest, domain),
        "local-hostname": _fqdn(guest, domain),
        "instance-type": guest.flavor.name,
        "ami-launch-index": guest.launch_index,
        "local-ipv4": addresses[0] if addresses else "",
        "placement": {"availability-zone": guest.availability_zone},
    }
    if guest.keypairs:
        data["public-keys"] = {
            str(index): {"_name": f"{index}={key.name}", "openssh-key": key.public_key}
            for index, key in enumerate(guest.keypairs)
        }
    return data


def _user_data(guest: Guest) -> bytes | None:
    if not guest.user_data:
        return None
    return _decoded(guest.user_data, "The user data", "invalid_user_data")


def _injected(value: Any) -> list[tuple[str, bytes]]:
    """Files for the guest: pairs of path and base64 contents, as a list or as its JSON text."""
    try:
        pairs = json.loads(value) if isinstance(value, str) and value else value
        pairs = [(str(path), contents) for path, contents in pairs or ()]
    except (TypeError, ValueError) as error:
        raise Failed(
            "The files for the guest are not a list of pairs of path and contents.",
            now="No config drive was made.",
            next="Create the guest again with files in the form that the API describes.",
            code="invalid_files",
        ) from error
    return [(path, _decoded(text, f"The file {path}", "invalid_files")) for path, text in pairs]


def _decoded(text: Any, what: str, code: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError, AttributeError) as error:
        raise Failed(
            f"{what} cannot be decoded from base64 ({error}).",
            now="No config drive was made.",
            next="Create the guest again with contents that are encoded as base64.",
            code=code,
        ) from error


def _fqdn(guest: Guest, domain: str) -> str:
    return f"{guest.hostname}.{domain}" if domain else guest.hostname


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data).encode()
