"""Everything outside an operation: its ports to the hypervisor, the control plane and time.

Operations and steps import none of these; they get them here. Tests put fakes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from compute.engine.clock import Clock
from compute.model.guest import NetworkRequest, Nic
from compute.rpc.primitives import Primitive
from db.journal import Journal
from virt.driver import Driver, ImageSource

Context = Mapping[str, Any]


class Conductor(Protocol):
    """What steps ask of the control plane; compute.rpc.conductor implements it.

    Each method raises Unknown on a timeout, Retryable when the conductor cannot be reached, and
    Refused with a code (``stale``, ``deleting``, ``guest_not_found``) when it said no.
    """

    def save(self, context: Context, prim: Primitive, changes: Mapping[str, Any], *,
             expected_task_state: list | None = None,
             expected_vm_state: list | None = None) -> Primitive: ...

    def instance(self, context: Context, uuid: str) -> Primitive: ...

    def instances(self, context: Context) -> list[Primitive]: ...

    def deleted_among(self, context: Context, uuids: list[str]) -> set[str]: ...

    def destroy_instance(self, context: Context, prim: Primitive) -> None: ...

    def save_bdm(self, context: Context, prim: Primitive, changes: Mapping[str, Any]) -> None: ...

    def event_start(self, context: Context, uuid: str, event: str) -> None: ...

    def event_finish(self, context: Context, uuid: str, event: str,
                     error: Mapping[str, str] | None) -> None: ...

    def fault(self, context: Context, uuid: str, error: Mapping[str, str]) -> None: ...

    def build_instances(self, context: Context, **args: Any) -> None: ...


class Networks(Protocol):
    """The network service; adapters are in compute.services.networks."""

    def allocate(self, context: Context, guest: str,
                 requests: tuple[NetworkRequest, ...]) -> tuple[Nic, ...]:
        """Ports for a guest; asked again it gives the same. Raises Refused, Retryable, Unknown."""

    def deallocate(self, context: Context, guest: str) -> None:
        """Give the guest's ports back. Quiet if there are none."""


class Inventory(Protocol):
    """Room on this host; compute.resources.tracker implements it."""

    node: str

    def check(self, guest: str, need: Mapping[str, int]) -> None:
        """Raise Refused(code='no_room') with the figures if it does not fit."""

    def compute_id(self, context: Context) -> int:
        """The ComputeNode row's id."""


@dataclass
class World:
    """What one agent works with."""

    host: str
    conf: Any
    journal: Journal
    driver: Driver
    conductor: Conductor
    images: ImageSource
    networks: Networks
    inventory: Inventory
    secrets: Any
    clock: Clock
