"""What the scheduler knows of each host, gathered in two statements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from db.control import instances, services
from db.control.types import parse_time, utcnow


@dataclass(frozen=True)
class Host:
    """One compute node. Memory in MiB, disk in GiB; ``limit`` is what may be promised in all
    (total minus reserved, times the allocation ratio), ``used`` what living servers claim."""

    host: str
    node: str
    uuid: str
    compute_id: int
    zone: str
    disabled: bool
    disabled_reason: str
    forced_down: bool
    last_seen: datetime | None
    silent: float  # seconds since the last heartbeat
    up: bool
    vcpus_limit: float
    vcpus_used: int
    memory_limit: float
    memory_used: int
    disk_limit: float
    disk_used: int
    servers: int
    busy: int
    failed_builds: int
    supported: tuple[tuple[str, str, str], ...] = ()  # (arch, hv_type, vm_mode)
    machine_types: frozenset[str] = frozenset()
    totals: Mapping[str, Any] = field(default_factory=dict)

    @property
    def memory_free(self) -> float:
        """MiB that may still be promised."""
        return self.memory_limit - self.memory_used

    @property
    def vcpus_free(self) -> float:
        """vCPUs that may still be promised."""
        return self.vcpus_limit - self.vcpus_used

    @property
    def disk_free(self) -> float:
        """GiB that may still be promised."""
        return self.disk_limit - self.disk_used


def load(connection: Connection, conf: Any, now: datetime | None = None) -> list[Host]:
    """All hosts that have a service, with what is claimed on each."""
    claims = instances.allocations(connection)
    by_host = {row["host"]: row for row in services.all_hosts(connection)}
    found = []
    for node in services.nodes(connection):
        service = by_host.get(node["host"])
        if service is not None:
            found.append(build(service, node, claims.get(node["uuid"], {}), conf, now or utcnow()))
    return found


def is_up(service: Mapping[str, Any], conf: Any, now: datetime | None = None) -> bool:
    """Whether a service was heard of within ``service_down_time`` and is not forced down."""
    return not service["forced_down"] and silence(service, now) <= conf.control.service_down_time


def silence(service: Mapping[str, Any], now: datetime | None = None) -> float:
    """Seconds since a service's last heartbeat, or since it registered."""
    heard = service["last_seen_up"] or service["created_at"]
    return max(((now or utcnow()) - parse_time(heard)).total_seconds(), 0.0)


def build(
    service: Mapping[str, Any], node: Mapping[str, Any], claim: Mapping[str, int], conf: Any,
    now: datetime,
) -> Host:
    """One host from its rows."""
    stats = node["stats"] or {}
    reserved = {
        name: float(stats.get(name, getattr(conf, name)))
        for name in ("reserved_host_memory_mb", "reserved_host_disk_mb", "reserved_host_cpus")
    }
    cpu_ratio = node["cpu_allocation_ratio"] or conf.cpu_allocation_ratio
    ram_ratio = node["ram_allocation_ratio"] or conf.ram_allocation_ratio
    disk_ratio = node["disk_allocation_ratio"] or conf.disk_allocation_ratio
    return Host(
        host=node["host"], node=node["hypervisor_hostname"], uuid=node["uuid"],
        compute_id=node["id"],
        zone=service["availability_zone"] or conf.control.default_availability_zone,
        disabled=service["disabled"], disabled_reason=service["disabled_reason"] or "",
        forced_down=service["forced_down"],
        last_seen=parse_time(service["last_seen_up"]) if service["last_seen_up"] else None,
        silent=silence(service, now), up=is_up(service, conf, now),
        vcpus_limit=(node["vcpus"] - reserved["reserved_host_cpus"]) * cpu_ratio,
        vcpus_used=claim.get("vcpus", 0),
        memory_limit=(node["memory_mb"] - reserved["reserved_host_memory_mb"]) * ram_ratio,
        memory_used=claim.get("memory_mb", 0),
        disk_limit=(node["local_gb"] - reserved["reserved_host_disk_mb"] / 1024) * disk_ratio,
        disk_used=claim.get("disk_gb", 0), servers=claim.get("servers", 0),
        busy=claim.get("busy", 0), failed_builds=_count(stats.get("failed_builds")),
        supported=_supported(node["supported_hv_specs"]), machine_types=_machine_types(node),
        totals={"vcpus": node["vcpus"], "memory_mb": node["memory_mb"],
                "local_gb": node["local_gb"], "hypervisor_type": node["hypervisor_type"],
                "hypervisor_version": node["hypervisor_version"], "host_ip": node["host_ip"]},
    )


def _count(value: Any) -> int:
    text = str(value or 0)
    return int(text) if text.isdigit() else 0


def _supported(specs: Any) -> tuple[tuple[str, str, str], ...]:
    fields = [spec.get("nova_object.data", {}) for spec in specs or ()]
    return tuple((f.get("arch", ""), f.get("hv_type", ""), f.get("vm_mode", "")) for f in fields)


def _machine_types(node: Mapping[str, Any]) -> frozenset[str]:
    """Machine types, where the host reports them in cpu_info or stats."""
    reported = (node["stats"] or {}).get("machine_types")
    if not reported and node["cpu_info"]:
        try:
            info = json.loads(node["cpu_info"])
        except ValueError:
            return frozenset()
        reported = info.get("machine_types") if isinstance(info, dict) else None
    if isinstance(reported, str):
        reported = reported.split(",")
    return frozenset(name.strip() for name in reported or ())
