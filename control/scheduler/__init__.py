"""Filter and weigh: which host gets a server, which ones are tried next, and if none: why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import Refused
from compute.rpc import primitives
from control.scheduler import filters, hosts, weighers
from control.scheduler.filters import Request
from control.scheduler.hosts import Host

CELL = "00000000-0000-0000-0000-000000000001"  # there is one cell, and it is this database

__all__ = ["Choice", "Host", "Request", "Scheduler", "selection"]


@dataclass(frozen=True)
class Choice:
    """The host chosen, and those to be tried when the build fails there."""

    host: Host
    alternates: tuple[Host, ...] = ()


class Scheduler:
    """Chooses hosts. The caller holds the transaction in which the choice is written down."""

    def __init__(self, conf: Any):
        self.conf = conf

    def choose(self, connection: Connection, request: Request) -> Choice:
        """The best host and up to ``max_attempts - 1`` alternates.

        :raises Refused: code ``no_valid_host``, with what speaks against each host.
        """
        known = hosts.load(connection, self.conf)
        fitting = [host for host in known if not filters.reasons(host, request)]
        if not fitting:
            raise no_valid_host(known, request)
        best = weighers.ranked(fitting, request, self.conf)
        others = () if request.group_policy == "affinity" else best[1:]
        return Choice(best[0], tuple(others[: self.conf.control.max_attempts - 1]))

    def named(self, connection: Connection, request: Request, name: str) -> Choice:
        """The host that somebody asked for, by its name or its node's; no alternates.

        :raises Refused: codes ``host_not_found``, and ``no_valid_host`` with all that speaks
            against it.
        """
        known = hosts.load(connection, self.conf)
        found = [host for host in known if name in (host.host, host.node, host.uuid)]
        if not found:
            raise Refused(f"There is no host {name}.", now="Nothing was started.",
                          next="See 'magnetar host list'.", code="host_not_found")
        if filters.reasons(found[0], request):
            raise no_valid_host(found[:1], request)
        return Choice(found[0])

    def check(self, connection: Connection, request: Request, node_uuid: str) -> Host | None:
        """This host, if it (still) fits."""
        for host in hosts.load(connection, self.conf):
            if host.uuid == node_uuid and not filters.reasons(host, request):
                return host
        return None


def no_valid_host(known: list[Host], request: Request) -> Refused:
    """The refusal, with each host and each filter that it fails."""
    what = (
        f"No valid host was found for {request.vcpus} vCPUs, {request.memory_mb} MiB of memory "
        f"and {request.disk_gb} GiB of disk."
    )
    if not known:
        return Refused(f"{what} No host has registered yet.", now="Nothing was started.",
                       next="Start the agent on a host; see 'magnetar host list'.",
                       code="no_valid_host")
    lines = [
        f"{host.host}: {'; '.join(filters.reasons(host, request).values())}."
        for host in sorted(known, key=lambda host: host.host)
    ]
    return Refused(
        " ".join([what, *lines]),
        now="Nothing was started.",
        next="Choose a smaller flavor, free room, or mend what is said of the hosts above.",
        code="no_valid_host",
    )


def selection(host: Host, request: Request) -> dict[str, Any]:
    """A host as Nova's Selection object, as it travels in ``host_list``."""
    amounts = {"VCPU": request.vcpus, "MEMORY_MB": request.memory_mb, "DISK_GB": request.disk_gb}
    resources = {name: amount for name, amount in amounts.items() if amount}
    limits = {"numa_topology": None, "vcpu": None, "disk_gb": None, "memory_mb": None}
    return primitives.make("Selection", {
        "compute_node_uuid": host.uuid, "service_host": host.host, "nodename": host.node,
        "cell_uuid": CELL, "limits": primitives.make("SchedulerLimits", limits),
        "allocation_request": json.dumps({
            "allocations": {host.uuid: {"resources": resources}}, "mappings": {"": [host.uuid]},
        }),
        "allocation_request_version": "1.36", "availability_zone": host.zone,
    })

