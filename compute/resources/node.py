"""Who this host is: its node identity, Service record, ComputeNode record and heartbeat.

The uuid in ``<state_path>/compute_id`` is the ComputeNode's. Nova's guards are kept: a host that
lost or changed its identity is refused at start, since it would otherwise disown its guests.
"""

from __future__ import annotations

import logging
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

from compute.errors import NeedsOperator, Refused
from compute.resources.tracker import Tracker, new_record
from compute.rpc.conductor import ConductorClient
from compute.rpc.primitives import Primitive, clean, data, make, objects
from virt.storage import files

LOG = logging.getLogger(__name__)
BINARY = "nova-compute"
HEARTBEAT_SECONDS = 5.0  # the least that a heartbeat waits for its answer
IDENTITY_SINCE = 65  # service version from which the identity file must exist


def refuse(what: str, next: str) -> NeedsOperator:
    return NeedsOperator(what, now="The agent did not start; guests were not touched.", next=next,
                         code="identity")


class Node:
    """Registration and heartbeat of one host."""

    def __init__(self, conf: Any, host: str, conductor: ConductorClient, tracker: Tracker,
                 context: Mapping[str, Any]):
        self.conf, self.host = conf, host
        self.conductor, self.tracker, self.context = conductor, tracker, context
        self.path = pathlib.Path(conf.state_path) / "compute_id"
        self.service: Primitive | None = None
        self.identity = ""

    def check(self, guests_present: bool) -> None:
        """Compare identity file, Service and ComputeNode before anything is changed.

        :param guests_present: whether the hypervisor has domains of ours.
        :raises NeedsOperator: they disagree.
        """
        oldest = self.conductor.class_action(
            self.context, "Service", "get_minimum_version", BINARY)
        if oldest and oldest < self.conf.oldest_service_version:
            raise refuse(
                f"The cell's oldest {BINARY} service has version {oldest}; this agent speaks to "
                f"{self.conf.oldest_service_version} and newer.",
                "Upgrade the older compute services first, or start an agent of their release.")
        self.service = self.conductor.class_action(
            self.context, "Service", "get_by_host_and_binary", self.host, BINARY)
        identity = self._identity(guests_present)
        self._check_node(identity)

    def _identity(self, guests_present: bool) -> str:
        try:
            return str(uuid.UUID(self.path.read_text().strip()))
        except ValueError as error:
            raise refuse(f"{self.path} does not hold a uuid.",
                         "Restore the file from a backup; the uuid is the one of this host's "
                         "ComputeNode record.") from error
        except FileNotFoundError:
            pass
        if self.service is not None and data(self.service).get("version", 0) >= IDENTITY_SINCE:
            raise refuse(
                f"Host {self.host} is registered with the control plane, but its identity file "
                f"{self.path} is missing.",
                f"Restore it from a backup, or write this host's ComputeNode uuid into "
                f"{self.path}, then start again.")
        if self.service is None and guests_present:
            raise refuse(
                f"Host {self.host} is new to the control plane, yet its hypervisor has guests of "
                "ours.", "Check [DEFAULT] host and transport_url: the host may have been renamed "
                "or pointed to another control plane.")
        made = str(uuid.uuid4())
        files.write(os.fspath(self.path), made.encode() + b"\n", mode=0o644)
        LOG.info("This host's new node identity is %s.", made)
        return made

    def _check_node(self, identity: str) -> None:
        found = objects(self.conductor.class_action(
            self.context, "ComputeNodeList", "get_all_by_uuids", [identity]))
        name = self.tracker.facts().hypervisor_hostname
        for node in found:
            fields = data(node)
            if fields.get("host") != self.host:
                raise refuse(f"Node {identity} belongs to host {fields.get('host')}, but this "
                             f"agent is host {self.host}.",
                             f"Set [DEFAULT] host = {fields.get('host')}, or use this host's own "
                             "state directory.")
            if fields.get("hypervisor_hostname") != name:
                raise refuse(f"Node {identity} was registered with the hypervisor host name "
                             f"{fields.get('hypervisor_hostname')}; it is {name} now.",
                             "Give the host its former name back.")
            self.tracker.record = node
        self.identity = identity

    def register(self) -> None:
        """Create or update Service and ComputeNode."""
        version = self.conf.service_version
        if self.service is None:
            self.service = self._create(make("Service", {
                "host": self.host, "binary": BINARY, "topic": "compute", "report_count": 0,
                "version": version}))
        else:
            # A host that starts again is up from now on, not only from its first heartbeat on.
            changes = {"report_count": (data(self.service).get("report_count") or 0) + 1}
            if data(self.service).get("version") != version:
                changes["version"] = version
            self.service = self.conductor.save(self.context, self.service, changes)
        if self.tracker.record is None:
            self.tracker.record = self._create(
                new_record(self.tracker, self.identity, data(self.service).get("id")))
        else:
            self.tracker.report(self.context)

    def _create(self, prim: Primitive) -> Primitive:
        updates, _ = self.conductor.object_action(self.context, prim, "create")
        return clean(prim, updates)

    def heartbeat(self) -> None:
        """Tell the control plane that this host is up."""
        if self.service is None:  # its record was gone, and making it again did not work
            self.register()
            return
        try:
            count = (data(self.service).get("report_count") or 0) + 1
            # One that is lost is not waited for: the next one is due, and a host that waits for a
            # whole [timeouts] conductor counts as down meanwhile.
            soon = self.conductor.within(max(self.conf.report_interval, HEARTBEAT_SECONDS))
            self.service = soon.save(self.context, self.service, {"report_count": count})
        except Refused as error:
            if error.code != "service_not_found":
                raise
            LOG.error("The Service record of host %s is gone; it is made again.", self.host)
            self.service = None
            self.register()
