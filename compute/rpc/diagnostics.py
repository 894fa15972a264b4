"""Diagnostics in Nova's two forms: a flat dict of counters, and the Diagnostics object."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from compute.model import states
from compute.model.diagnostics import Diagnostics
from compute.rpc.primitives import Primitive, make

STATES = {states.RUNNING: "running", states.POWER_PAUSED: "paused", states.SHUTDOWN: "shutdown",
          states.CRASHED: "crashed", states.POWER_SUSPENDED: "suspended"}
KIB_PER_MIB = 1024


def flat(found: Diagnostics) -> dict[str, int]:
    """The old form: names of counters as Nova's libvirt driver makes them; memory in KiB."""
    made = {f"cpu{number}_time": time for number, time in enumerate(found.cpus)}
    for disk in found.disks:
        made |= {f"{disk.name}_read_req": disk.reads, f"{disk.name}_read": disk.read_bytes,
                 f"{disk.name}_write_req": disk.writes, f"{disk.name}_write": disk.write_bytes,
                 f"{disk.name}_errors": disk.errors}
    for nic in found.nics:
        for way, counted in (("rx", nic.rx), ("tx", nic.tx)):
            octets, packets, errors, drops = counted
            made |= {f"{nic.name}_{way}": octets, f"{nic.name}_{way}_packets": packets,
                     f"{nic.name}_{way}_errors": errors, f"{nic.name}_{way}_drop": drops}
    made |= {"memory": found.memory_max, "memory-actual": found.memory_now}
    return made | {f"memory-{name}": value for name, value in found.memory.items()}


def whole(found: Diagnostics, fields: Mapping[str, Any], driver: str, now: float) -> Primitive:
    """The new form, a Diagnostics object; memory in MiB.

    :param fields: the Instance's.
    :param now: seconds since the epoch.
    """
    return make("Diagnostics", {
        "state": STATES.get(found.power_state, "pending"), "driver": driver,
        "hypervisor": found.virt_type, "hypervisor_os": "linux",
        "uptime": _uptime(fields.get("launched_at"), now),
        "config_drive": str(fields.get("config_drive") or "").lower() in ("true", "1", "yes"),
        "num_cpus": len(found.cpus), "num_nics": len(found.nics), "num_disks": len(found.disks),
        "memory_details": make("MemoryDiagnostics", {
            "maximum": found.memory_max // KIB_PER_MIB, "used": found.memory_now // KIB_PER_MIB}),
        "cpu_details": [make("CpuDiagnostics", {"id": number, "time": time, "utilisation": None})
                        for number, time in enumerate(found.cpus)],
        "disk_details": [make("DiskDiagnostics", {
            "read_bytes": disk.read_bytes, "read_requests": disk.reads,
            "write_bytes": disk.write_bytes, "write_requests": disk.writes,
            "errors_count": disk.errors}) for disk in found.disks],
        "nic_details": [make("NicDiagnostics", {
            "mac_address": nic.mac, **_way("rx", nic.rx), **_way("tx", nic.tx)})
            for nic in found.nics],
    })


def _way(way: str, counted: tuple[int, int, int, int]) -> dict[str, int | None]:
    octets, packets, errors, drops = counted
    return {f"{way}_octets": octets, f"{way}_packets": packets, f"{way}_errors": errors,
            f"{way}_drop": drops, f"{way}_rate": None}


def _uptime(launched: Any, now: float) -> int | None:
    """Seconds since a guest was launched; None when the record does not say."""
    try:
        since = datetime.fromisoformat(launched.replace("Z", "+00:00")).timestamp()
    except (AttributeError, ValueError):
        return None
    return max(int(now - since), 0)
