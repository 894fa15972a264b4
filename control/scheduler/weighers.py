"""Weighers: which of the hosts that fit is the best.

Each gives a number for each host; the numbers are scaled to 0..1 over all hosts and multiplied by
the option of that weigher, and the sum decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from control.scheduler.filters import Request
from control.scheduler.hosts import Host

# name: (multiplier's option, a host's number)
WEIGHERS: dict[str, tuple[str, Callable[[Host], float]]] = {
    "memory": ("ram_weight", lambda host: host.memory_free),
    "vCPUs": ("cpu_weight", lambda host: host.vcpus_free),
    "disk": ("disk_weight", lambda host: host.disk_free),
    "io ops": ("io_ops_weight", lambda host: float(host.busy)),
}


def ranked(hosts: Iterable[Host], request: Request, conf: Any) -> list[Host]:
    """The hosts, the best first; the name decides between equals."""
    hosts = list(hosts)
    totals = dict.fromkeys((host.uuid for host in hosts), 0.0)
    for option, number in WEIGHERS.values():
        for host, share in zip(hosts, normalized([number(h) for h in hosts]), strict=True):
            totals[host.uuid] += getattr(conf.control, option) * share
    failures = normalized([float(host.failed_builds) for host in hosts])
    for host, share in zip(hosts, failures, strict=True):
        totals[host.uuid] -= conf.control.build_failure_weight * share
    return sorted(hosts, key=lambda host: (-totals[host.uuid], host.host, host.node))


def normalized(values: list[float]) -> list[float]:
    """Values scaled to 0..1; all 0 when they are equal."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
