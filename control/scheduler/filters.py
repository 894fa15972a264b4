"""Filters: each says why a host cannot take a server, or nothing if it can.

A filter is a function of (host, request). The reason is written for a person and has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from control.scheduler.hosts import Host


@dataclass(frozen=True)
class Request:
    """What a new or a moving server needs. Memory in MiB, disk in GiB.

    ``group_nodes`` are the compute nodes of the group's other members, one entry for each.
    ``excluded`` says of hosts by name why they cannot be, whatever room they have. ``here`` is what
    a server that is resized gives up on the compute node where it is: (uuid, vCPUs, MiB).
    """

    vcpus: int
    memory_mb: int
    disk_gb: int
    zone: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    tried: frozenset[str] = frozenset()
    group_policy: str | None = None
    group_nodes: tuple[str, ...] = ()
    group_limit: int = 1
    max_io_ops: int = 8
    excluded: Mapping[str, str] = field(default_factory=dict)
    here: tuple[str, int, int] = ("", 0, 0)

    def given_up(self, host: Host) -> tuple[int, int]:
        """vCPUs and MiB that the server itself claims of a host and will not need any more."""
        return self.here[1:] if self.here[0] == host.uuid else (0, 0)


def number(value: float) -> str:
    """A number without needless decimals."""
    return f"{value:.1f}".removesuffix(".0")


def enabled(host: Host, request: Request) -> str | None:
    if host.disabled:
        return f"it is disabled ({host.disabled_reason or 'no reason given'})"
    return None


def up(host: Host, request: Request) -> str | None:
    if host.up:
        return None
    if host.forced_down:
        return "it was forced down"
    return f"it has not been heard of for {number(host.silent)} seconds"


def not_excluded(host: Host, request: Request) -> str | None:
    return request.excluded.get(host.host)


def not_tried(host: Host, request: Request) -> str | None:
    return "the build failed there before" if host.host in request.tried else None


def zone(host: Host, request: Request) -> str | None:
    if request.zone and host.zone != request.zone:
        return f"it is in availability zone {host.zone}, not {request.zone}"
    return None


def memory(host: Host, request: Request) -> str | None:
    free = host.memory_free + request.given_up(host)[1]
    if request.memory_mb <= free:
        return None
    return (f"{request.memory_mb} MiB of memory wanted, {number(max(free, 0))} of "
            f"{number(host.memory_limit)} MiB free")


def vcpus(host: Host, request: Request) -> str | None:
    if request.vcpus > host.totals.get("vcpus", request.vcpus):
        return f"{request.vcpus} vCPUs wanted, the host has {host.totals['vcpus']} CPUs"
    free = host.vcpus_free + request.given_up(host)[0]
    if request.vcpus <= free:
        return None
    return (f"{request.vcpus} vCPUs wanted, {number(max(free, 0))} of "
            f"{number(host.vcpus_limit)} free")


def disk(host: Host, request: Request) -> str | None:
    if request.disk_gb <= host.disk_free:
        return None
    return (f"{request.disk_gb} GiB of disk wanted, {number(max(host.disk_free, 0))} of "
            f"{number(host.disk_limit)} GiB free")


def image_properties(host: Host, request: Request) -> str | None:
    """Architecture, hypervisor, VM mode and machine type, as far as image and host name them."""
    props = request.properties
    wanted = (
        props.get("hw_architecture") or props.get("architecture"),
        props.get("img_hv_type") or props.get("hypervisor_type"),
        props.get("hw_vm_mode") or props.get("vm_mode"),
    )
    if host.supported and not any(_matches(wanted, spec) for spec in host.supported):
        text = "/".join(w or "any" for w in wanted)
        have = ", ".join(sorted({"/".join(spec) for spec in host.supported}))
        return f"the image wants {text} (architecture/hypervisor/mode), it offers {have}"
    machine = props.get("hw_machine_type")
    if machine and host.machine_types and machine not in host.machine_types:
        return f"the image wants machine type {machine}, which it does not offer"
    return None


def _matches(wanted: tuple[str | None, ...], spec: tuple[str, ...]) -> bool:
    return all(w is None or w.lower() == s.lower() for w, s in zip(wanted, spec, strict=True))


def group(host: Host, request: Request) -> str | None:
    """Affinity and anti-affinity with the other members of the server group."""
    here = request.group_nodes.count(host.uuid)
    if request.group_policy == "affinity" and request.group_nodes and not here:
        return "the server group (affinity) is on another host"
    if request.group_policy == "anti-affinity" and here >= request.group_limit:
        return f"{here} of the server group (anti-affinity) are on it already"
    return None


def io_ops(host: Host, request: Request) -> str | None:
    if host.busy >= request.max_io_ops:
        return f"{host.busy} servers are being built or moved there, {request.max_io_ops} may be"
    return None


FILTERS: dict[str, Callable[[Host, Request], str | None]] = {
    "enabled": enabled,
    "up": up,
    "move": not_excluded,
    "retries": not_tried,
    "availability zone": zone,
    "memory": memory,
    "vCPUs": vcpus,
    "disk": disk,
    "image properties": image_properties,
    "server group": group,
    "io ops": io_ops,
}


def reasons(host: Host, request: Request) -> dict[str, str]:
    """All that speaks against a host, by filter; empty when it fits."""
    found = {name: check(host, request) for name, check in FILTERS.items()}
    return {name: reason for name, reason in found.items() if reason}
