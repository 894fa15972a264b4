"""The objects of a new server: its Instance row, its root disk, and what its host is sent."""

from __future__ import annotations

import secrets
import string
import uuid as uuidlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from compute.model import states
from compute.model.guest import Image
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control import wire
from control.boot_devices import Boot
from control.scheduler import Choice, Request, selection
from db.control.types import utcnow

Row = dict[str, Any]
BUILD_ATTRS = (
    "metadata", "system_metadata", "info_cache", "security_groups", "numa_topology",
    "pci_requests", "device_metadata", "tags", "flavor", "old_flavor", "new_flavor", "vcpu_model",
    "ec2_ids", "migration_context", "keypairs", "trusted_certs", "resources",
)
NOT_INHERITED = ("cache_in_nova", "bittorrent")


@dataclass(frozen=True)
class Wish:
    """A checked request for one server. ``flavor`` and ``group`` are rows; ``networks`` are
    ``{network_id, port_id, fixed_ip, tag}``; ``user_data`` is base64."""

    name: str
    image: Image
    flavor: Row
    networks: tuple[Row, ...] = ()
    key_name: str | None = None
    public_key: str | None = None
    user_data: str | None = None
    config_drive: bool = False
    metadata: Mapping[str, str] | None = None
    zone: str | None = None
    group: Row | None = None
    boot: Boot | None = None  # None: a disk from the image

    @property
    def image_ref(self) -> str:
        """The image that it boots from; empty when that is a volume."""
        return self.image.id if self.boot is None else self.boot.ref

    @property
    def root_gb(self) -> int:
        """GiB that its root disk takes on the host."""
        from_volume = self.boot is not None and self.boot.from_volume
        return 0 if from_volume else self.flavor["root_gb"]


def hostname(name: str) -> str:
    """A host name from a display name, as Nova makes it: letters, digits and dashes."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in name.lower())
    text = text.replace(".", "-").strip("-")[:63].rstrip("-")
    return text or "server"


def request(wish: Wish, group_nodes: Iterable[str], conf: Any) -> Request:
    """What the scheduler has to find room for."""
    flavor, group = wish.flavor, wish.group or {}
    return Request(
        vcpus=flavor["vcpus"], memory_mb=flavor["memory_mb"],
        disk_gb=wish.root_gb + flavor["ephemeral_gb"], zone=wish.zone,
        properties=wish.image.properties, group_policy=group.get("policy"),
        group_nodes=tuple(group_nodes), group_limit=group.get("max_server_per_host") or 1,
        max_io_ops=conf.control.max_io_ops,
    )


def instance_values(wish: Wish, context: Context, choice: Choice, conf: Any) -> Row:
    """The columns of a new row in ``instances``."""
    uuid, flavor = str(uuidlib.uuid4()), wish.flavor
    return {
        "uuid": uuid, "user_id": context.user_id, "project_id": context.project_id,
        "image_ref": wish.image_ref, "kernel_id": "", "ramdisk_id": "",
        "hostname": hostname(wish.name), "launch_index": 0, "key_name": wish.key_name,
        "key_data": wish.public_key, "power_state": states.NOSTATE, "vm_state": states.BUILDING,
        "task_state": states.SCHEDULING, "memory_mb": flavor["memory_mb"],
        "vcpus": flavor["vcpus"], "root_gb": wish.root_gb,
        "ephemeral_gb": flavor["ephemeral_gb"], "instance_type_id": flavor["id"],
        "user_data": wish.user_data, "reservation_id": "r-" + _random(8),
        "availability_zone": choice.host.zone, "display_name": wish.name,
        "config_drive": "True" if wish.config_drive else "", "progress": 0,
        "metadata": dict(wish.metadata or {}),
        "system_metadata": {**system_metadata(wish.image, context),
                            "image_base_image_ref": wish.image_ref},
        "flavor": wire.flavor(flavor), "keypairs": _keypairs(wish, context),
        "allocation_node": choice.host.uuid, "request_id": context.request_id,
        "server_group": wish.group["uuid"] if wish.group else None, "scheduled_at": utcnow(),
        "build_args": build_args(wish, uuid, context, choice, conf),
    }


def _random(length: int, alphabet: str = string.ascii_lowercase + string.digits) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def system_metadata(image: Image, context: Context) -> dict[str, str]:
    """What an instance remembers of its image and its owner."""
    found = {
        f"image_{name}": str(value)[:255]
        for name, value in image.properties.items()
        if name not in NOT_INHERITED
    }
    return {
        **found, "image_min_ram": str(image.min_ram), "image_min_disk": str(image.min_disk),
        "image_disk_format": image.disk_format, "image_base_image_ref": image.id,
        "image_container_format": image.container_format,
        "owner_user_name": context.user_name or "",
        "owner_project_name": context.project_name or "",
    }


def _keypairs(wish: Wish, context: Context) -> Row:
    pairs = []
    if wish.public_key:
        pairs.append(wire.make("KeyPair", {
            "id": 0, "name": wish.key_name or "key", "user_id": context.user_id,
            "fingerprint": None, "public_key": wish.public_key, "type": "ssh",
            "created_at": None, "updated_at": None, "deleted_at": None, "deleted": False,
        }))
    return wire.make_list("KeyPairList", pairs)


def image_dict(image: Image) -> Row:
    """An image as the image service describes it to Nova."""
    return {
        "id": image.id, "name": image.name, "status": "active", "size": image.size,
        "disk_format": image.disk_format, "container_format": image.container_format,
        "min_ram": image.min_ram, "min_disk": image.min_disk, "checksum": None, "owner": None,
        "is_public": True, "deleted": False, "deleted_at": None, "created_at": None,
        "updated_at": None, "os_hidden": False, "os_hash_algo": image.hash_algo or None,
        "os_hash_value": image.hash_value or None, "properties": dict(image.properties),
    }


def network_requests(networks: Iterable[Mapping[str, Any]]) -> Row:
    """A NetworkRequestList; without networks it says so, as Nova's API does."""
    requests = []
    for network in list(networks) or [{"network_id": "none"}]:
        fields = {"network_id": network.get("network_id"), "port_id": network.get("port_id"),
                  "device_profile": None}
        if fields["network_id"] != "none":
            fields.update(pci_request_id=None, arq_uuid=None)
        if network.get("fixed_ip"):
            fields["address"] = network["fixed_ip"]
        if network.get("tag"):
            fields["tag"] = network["tag"]
        requests.append(primitives.make("NetworkRequest", fields))
    return primitives.make_list("NetworkRequestList", requests)


def request_spec(wish: Wish, instance_uuid: str, context: Context) -> Row:
    """A RequestSpec, which travels with the build and comes back with a reschedule."""
    image = image_dict(wish.image)
    fields = ("id", "name", "status", "size", "container_format", "disk_format", "min_ram",
              "min_disk")
    meta = {name: image[name] for name in fields}
    properties = primitives.make("ImageMetaProps", _typed(wish.image.properties))
    limits = {"numa_topology": None, "vcpu": None, "disk_gb": None, "memory_mb": None}
    groups = [primitives.make("SecurityGroup", {"name": "default"})]
    hints = {"group": [wish.group["uuid"]]} if wish.group else {}
    return primitives.make("RequestSpec", {
        "image": primitives.make("ImageMeta", {**meta, "properties": properties}),
        "numa_topology": None,
        "pci_requests": primitives.make("InstancePCIRequests", {"requests": []}),
        "project_id": context.project_id, "user_id": context.user_id,
        "availability_zone": wish.zone, "flavor": wire.flavor(wish.flavor), "num_instances": 1,
        "ignore_hosts": None, "force_hosts": None, "force_nodes": None,
        "requested_destination": None, "retry": None,
        "limits": primitives.make("SchedulerLimits", limits), "instance_group": None,
        "scheduler_hints": hints, "instance_uuid": instance_uuid,
        "security_groups": primitives.make_list("SecurityGroupList", groups),
        "is_bfv": wish.boot is not None and wish.boot.from_volume,
        "requested_resources": [], "request_level_params": wire.make("RequestLevelParams", {}),
        "requested_networks": network_requests(wish.networks),
    })


def _typed(properties: Mapping[str, str]) -> dict[str, str]:
    """The image properties that have a place in ImageMetaProps."""
    return {name: value for name, value in properties.items()
            if name.startswith(("hw_", "os_", "img_"))}


def build_args(wish: Wish, uuid: str, context: Context, choice: Choice, conf: Any) -> Row:
    """All of build_and_run_instance but the instance and its disks, which are read when it is
    sent, and the administrator's password, which is made then."""
    filter_properties: Row = {"limits": {}}
    if conf.control.max_attempts > 1:
        tried = [[choice.host.host, choice.host.node]]
        filter_properties["retry"] = {"num_attempts": 1, "hosts": tried}
    return {
        "image": image_dict(wish.image), "request_spec": request_spec(wish, uuid, context),
        "filter_properties": filter_properties,
        "injected_files": [], "requested_networks": network_requests(wish.networks),
        "security_groups": ["default"], "node": choice.host.node, "limits": {},
        "host_list": [selection(host, request(wish, (), conf)) for host in choice.alternates],
        "accel_uuids": [],
    }


def admin_password() -> str:
    """A password for the guest's administrator, 12 characters."""
    return _random(12, string.ascii_letters + string.digits)
