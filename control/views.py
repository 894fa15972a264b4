"""Rows as people and machines see them: plain dicts that go into JSON as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from compute.model import states
from compute.model.guest import Image
from compute.rpc import primitives
from control.scheduler import Host

Row = dict[str, Any]

# vm_state, and task_state where it matters: the status that Nova's API shows.
STATUS = {
    states.ACTIVE: "ACTIVE", states.BUILDING: "BUILD", states.STOPPED: "SHUTOFF",
    states.PAUSED: "PAUSED", states.SUSPENDED: "SUSPENDED", states.RESCUED: "RESCUE",
    states.RESIZED: "VERIFY_RESIZE", states.ERROR: "ERROR", states.DELETED: "DELETED",
    states.SOFT_DELETED: "SOFT_DELETED", states.SHELVED: "SHELVED",
    states.SHELVED_OFFLOADED: "SHELVED_OFFLOADED",
}
REBOOT = frozenset({states.REBOOTING, states.REBOOT_PENDING, states.REBOOT_STARTED})
HARD_REBOOT = frozenset({
    states.REBOOTING_HARD, states.REBOOT_PENDING_HARD, states.REBOOT_STARTED_HARD,
})
RESIZE = frozenset({
    states.RESIZE_PREP, states.RESIZE_MIGRATING, states.RESIZE_MIGRATED, states.RESIZE_FINISH,
})
TASKS = {states.RESIZE_REVERTING: "REVERT_RESIZE", states.MIGRATING: "MIGRATING",
         states.REBUILDING: "REBUILD", states.REBUILD_BLOCK_DEVICE_MAPPING: "REBUILD",
         states.REBUILD_SPAWNING: "REBUILD"}


def status(row: Row) -> str:
    """The word of Nova's API for vm_state and task_state."""
    if row["deleted"]:
        return "DELETED"
    if row["vm_state"] == states.ACTIVE and row["task_state"] in REBOOT:
        return "REBOOT"
    if row["task_state"] in HARD_REBOOT and row["vm_state"] != states.ERROR:
        return "HARD_REBOOT"
    if row["task_state"] in RESIZE and row["vm_state"] in (states.ACTIVE, states.STOPPED):
        return "RESIZE"
    if row["task_state"] in TASKS:
        return TASKS[row["task_state"]]
    return STATUS.get(row["vm_state"], "UNKNOWN")


def server(row: Row, ports: Iterable[Row], fault: Row | None, image: str | None) -> Row:
    """A server. ``ports`` come with their network's name, ``image`` is the image's name."""
    flavor = primitives.data(row["flavor"])
    addresses: dict[str, list[str]] = {}
    for port in ports:
        addresses.setdefault(port["network_name"], []).append(port["address"])
    return {
        "id": row["uuid"], "name": row["display_name"], "status": status(row),
        "vm_state": "deleted" if row["deleted"] else row["vm_state"],
        "task_state": row["task_state"],
        "power_state": states.POWER_NAMES.get(row["power_state"] or 0, "no state"),
        "addresses": addresses, "image": image or row["image_ref"], "image_id": row["image_ref"],
        "flavor": flavor.get("name"), "vcpus": row["vcpus"], "ram": row["memory_mb"],
        "disk": row["root_gb"], "host": row["host"], "node": row["node"],
        "hostname": row["hostname"], "instance_name": f"instance-{row['id']:08x}",
        "availability_zone": row["availability_zone"], "key_name": row["key_name"],
        "config_drive": bool(row["config_drive"]), "properties": row["metadata"] or {},
        "created_at": row["created_at"], "updated_at": row["updated_at"],
        "launched_at": row["launched_at"], "deleted_at": row["deleted_at"],
        "fault": shown_fault(row, fault), "request_id": row["request_id"],
    }


def shown_fault(row: Row, fault: Row | None) -> Row | None:
    """The newest fault, while it still is what ails the server."""
    if fault is None or row["vm_state"] not in (states.ERROR, states.DELETED):
        return None
    return {name: fault[name] for name in ("code", "message", "details", "host", "created_at")}


def flavor(row: Row) -> Row:
    """A flavor: memory and swap in MiB, disks in GiB."""
    return {
        "id": row["flavorid"], "name": row["name"], "vcpus": row["vcpus"],
        "ram": row["memory_mb"], "disk": row["root_gb"], "ephemeral": row["ephemeral_gb"],
        "swap": row["swap"], "properties": row["extra_specs"] or {},
    }


def image(found: Image) -> Row:
    """An image: size in bytes, ``min_disk`` GiB, ``min_ram`` MiB."""
    return {**asdict(found), "properties": dict(found.properties)}


def network(row: Row, ports: int) -> Row:
    """A network, and how many addresses are in use."""
    return {
        "id": row["uuid"], "name": row["name"], "kind": row["kind"], "source": row["source"],
        "subnet": row["cidr"], "gateway": row["gateway"], "dns": row["dns"] or [],
        "dhcp": row["dhcp"], "mtu": row["mtu"], "status": row["status"], "ports": ports,
        "created_at": row["created_at"],
    }


def host(found: Host) -> Row:
    """A host with what its living servers claim: memory in MiB, disk in GiB."""
    return {
        "host": found.host, "node": found.node, "id": found.uuid,
        "state": "up" if found.up else "down",
        "status": "disabled" if found.disabled else "enabled",
        "disabled_reason": found.disabled_reason or None, "availability_zone": found.zone,
        "vcpus": found.totals["vcpus"], "vcpus_used": found.vcpus_used,
        "vcpus_limit": found.vcpus_limit, "memory_mb": found.totals["memory_mb"],
        "memory_mb_used": found.memory_used, "memory_mb_limit": found.memory_limit,
        "local_gb": found.totals["local_gb"], "local_gb_used": found.disk_used,
        "local_gb_limit": found.disk_limit, "servers": found.servers, "busy": found.busy,
        "failed_builds": found.failed_builds, "seconds_since_heartbeat": int(found.silent),
        "hypervisor_type": found.totals["hypervisor_type"],
        "hypervisor_version": found.totals["hypervisor_version"],
        "host_ip": found.totals["host_ip"], "machine_types": sorted(found.machine_types),
    }


def keypair(row: Row) -> Row:
    """A key pair's public half."""
    return {"name": row["name"], "fingerprint": row["fingerprint"], "type": row["type"],
            "public_key": row["public_key"]}


def group(row: Row, members: Iterable[Mapping[str, Any]] = ()) -> Row:
    """A server group with its living members."""
    return {
        "id": row["uuid"], "name": row["name"], "policy": row["policy"],
        "max_server_per_host": row["max_server_per_host"],
        "members": [member["uuid"] for member in members],
    }


def action(row: Row, events: Iterable[Row]) -> Row:
    """One thing that was asked of a server, and what hosts did for it."""
    wanted = ("event", "host", "start_time", "finish_time", "result", "details")
    return {
        "action": row["action"], "request_id": row["request_id"],
        "start_time": row["start_time"], "finish_time": row["finish_time"],
        "message": row["message"],
        "events": [{name: event[name] for name in wanted} for event in events],
    }
