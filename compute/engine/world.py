"""Everything outside an operation: its ports to the hypervisor, the control plane and time.

Operations and steps import none of these; they get them here. Tests put fakes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from compute.engine.clock import Clock
from compute.model import states
from compute.model.guest import Guest, GuestState, Image, NetworkRequest, Nic
from compute.model.numa import Placement
from compute.rpc.primitives import Primitive
from db.journal import Journal
from virt.driver import Cancel, Driver, ImageSource, Progress

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

    def elsewhere(self, context: Context, uuids: list[str]) -> dict[str, Primitive]: ...

    def destroy_instance(self, context: Context, prim: Primitive) -> None: ...

    def bdms(self, context: Context, uuid: str) -> list[Primitive]: ...

    def create_bdm(self, context: Context, fields: Mapping[str, Any]) -> Primitive: ...

    def save_bdm(self, context: Context, prim: Primitive, changes: Mapping[str, Any]) -> None: ...

    def destroy_bdm(self, context: Context, prim: Primitive) -> None: ...

    def event_start(self, context: Context, uuid: str, event: str) -> None: ...

    def event_finish(self, context: Context, uuid: str, event: str,
                     error: Mapping[str, str] | None) -> None: ...

    def fault(self, context: Context, uuid: str, error: Mapping[str, str]) -> None: ...

    def authorize_console(self, context: Context, fields: Mapping[str, Any], ttl: int) -> str: ...

    def build_instances(self, context: Context, **args: Any) -> None: ...

    def migration(self, context: Context, id: int) -> Primitive: ...

    def migrations(self, context: Context, filters: Mapping[str, Any]) -> list[Primitive]: ...

    def moves_here(self, context: Context, node: str) -> list[Primitive]: ...

    def storage_of(self, context: Context, host: str) -> str | None:
        """Where a host told that it keeps disks, as an id; None when that is not known."""

    def drop_migration_context(self, context: Context, prim: Primitive) -> Primitive: ...

    def migrate_server(self, context: Context, **args: Any) -> None: ...


class Networks(Protocol):
    """The network service; adapters are in compute.services.networks."""

    def allocate(self, context: Context, guest: str,
                 requests: tuple[NetworkRequest, ...]) -> tuple[Nic, ...]:
        """Ports for a guest; asked again it gives the same. Raises Refused, Retryable, Unknown."""

    def deallocate(self, context: Context, guest: str) -> None:
        """Give the guest's ports back. Quiet if there are none."""

    def attach(self, context: Context, guest: str, port: str, request: NetworkRequest) -> Nic:
        """One more port for a guest, of the id ``port`` (one that is there already, when the
        request names it); asked again it gives the same. Raises Refused, Retryable, Unknown."""

    def detach(self, context: Context, guest: str, port: str) -> None:
        """Give one port of a guest back. Quiet if it is gone."""

    def bind(self, context: Context, guest: str, host: str) -> tuple[Nic, ...]:
        """The guest's ports are on ``host`` from now on; its NICs as they are there. Asked again
        it gives the same. Raises Refused, Retryable, Unknown."""


class Volumes(Protocol):
    """The volume service, in the words of Cinder's API 3.44; adapters are in
    compute.services.volumes and compute.services.cinder.

    Each method raises Refused when the service said no (``volume_not_found``,
    ``attachment_not_found``, ``volume_unavailable``, ``volume_in_use``), Retryable when it cannot
    be reached or has no room, Unknown when no answer came.
    """

    def show(self, context: Context, volume_id: str) -> Mapping[str, Any]:
        """{id, name, status, size (GiB), multiattach, bootable, image_metadata, volume_type,
        migration_status, attachments: [{attachment_id, server_id, host_name, device}]}."""

    def create(self, context: Context, size_gb: int, name: str, image_id: str | None = None,
               snapshot_id: str | None = None, volume_type: str | None = None,
               source_volume_id: str | None = None) -> str:
        """A new volume's id; :meth:`show` tells when it is ``available``, or ``error``. Asked
        again by the same request for the same name it gives the same."""

    def delete(self, context: Context, volume_id: str) -> None:
        """Delete a volume that nobody uses. Quiet if it is gone."""

    def attachment_create(self, context: Context, volume_id: str, guest: str) -> str:
        """Reserve a volume for a guest; the attachment's id."""

    def attachment_update(self, context: Context, attachment_id: str,
                          connector: Mapping[str, Any], mountpoint: str) -> dict[str, Any]:
        """Give this host, which ``connector`` describes, access to the volume; its
        connection_info. Asked again with the same it gives the same."""

    def attachment_complete(self, context: Context, attachment_id: str) -> None:
        """The volume is attached: its status becomes ``in-use``. Quiet if it is."""

    def attachment_delete(self, context: Context, attachment_id: str) -> None:
        """Give the volume, or the reservation, back. Quiet if it is gone."""

    def roll_detaching(self, context: Context, volume_id: str) -> None:
        """A detach that was begun does not take place: ``detaching`` becomes ``in-use``. Quiet if
        the volume is not detaching."""

    def migrate_completion(self, context: Context, old_id: str, new_id: str,
                           error: bool) -> Mapping[str, Any]:
        """A guest works with ``new_id`` in place of ``old_id``, or with ``error`` still with the
        old one. {save_volume_id}: which id the guest's record has to name."""


@dataclass(frozen=True)
class PeerView:
    """What the agent of another host sees of a guest there.

    ``domain`` is None when its hypervisor positively does not know the guest. ``operations`` are
    its newest journal rows of the guest: {id, verb, state, step, request_id, migration}.
    """

    host: str
    domain: GuestState | None
    disks: bool = False
    aside: bool = False
    operations: tuple[Mapping[str, Any], ...] = ()

    def runs(self) -> bool:
        """Whether the guest runs there."""
        return self.domain is not None and self.domain.power_state == states.RUNNING


class Peers(Protocol):
    """The agents of other hosts; compute.rpc.peer implements it.

    Methods are those of the compute RPC API that agents call of each other. Each raises Unknown
    on a timeout, Retryable when nobody listens, and what the other agent raised.
    """

    def call(self, context: Context, host: str, method: str, **args: Any) -> Any:
        """Call a method and wait for its answer."""

    def cast(self, context: Context, host: str, method: str, **args: Any) -> None:
        """Send a message; it may be lost, which :meth:`look` tells."""

    def ask(self, host: str, method: str, **args: Any) -> Any:
        """Call a method of our own namespace. Raises Refused(code='no_peer') when the agent there
        is not one of ours, and what it answered as an error."""

    def look(self, host: str, guest: str) -> PeerView:
        """What the host's agent sees of a guest."""


class Images(ImageSource, Protocol):
    """The image service; compute.services.images implements it. What it stores is made known first
    (by the control plane's API), then filled by an agent; until it is whole it is ``queued``, and
    nobody can use it. An image's bytes never change, so what is ``active`` is never filled again.
    """

    def find(self, context: Context, properties: Mapping[str, str]) -> tuple[Image, ...]:
        """The images that have all these properties, the newest first."""

    def status(self, context: Context, image_id: str) -> str | None:
        """``queued``, ``active``; None when there is no such image."""

    def upload(self, context: Context, image_id: str, path: str, disk_format: str,
               progress: Progress, cancel: Cancel) -> None:
        """Fill a queued image with the bytes of a file, and make it active in the end. Begins anew
        after an earlier attempt that was cut; quiet if it is active. Raises Refused
        (``image_not_found``), Retryable(``disk_full``), Failed(``image_unacceptable``)."""

    def remove(self, context: Context, image_id: str) -> None:
        """Remove an image, filled or not. Quiet if it is gone."""


class Inventory(Protocol):
    """Room on this host; compute.resources.tracker implements it."""

    node: str

    @property
    def address(self) -> str:
        """This host's address, as the control plane has it."""

    def check(self, guest: str, need: Mapping[str, int], moving: bool = False) -> None:
        """Raise Refused(code='no_room') with the figures if it does not fit; ``moving``: beside
        what the guest may have here already."""

    def check_guest(self, guest: Guest, moving: bool = False) -> None:
        """The same for all that a guest takes, its place on the host's cells included."""

    def place(self, guest: Guest, operation: str, moving: bool = False) -> Placement | None:
        """Claim a guest's place on the host's cells; None where it asks for none. Raises
        Refused(code='no_room')."""

    def held(self, guest: Guest, topology: Primitive | None) -> dict[str, Any]:
        """Data of a claim for a guest that is here without one; ``topology`` as its record has
        it."""

    def compute_id(self, context: Context) -> int:
        """The ComputeNode row's id."""


@dataclass
class World:
    """What one agent works with. ``transfers`` holds how each migration out of here stands, by
    guest, for whoever asks; the journal does not need it. Nor ``fetches``: bytes that are here, and
    of how many, of each image that is being cached beforehand."""

    host: str
    conf: Any
    journal: Journal
    driver: Driver
    conductor: Conductor
    images: Images
    networks: Networks
    volumes: Volumes
    peers: Peers
    inventory: Inventory
    secrets: Any
    clock: Clock
    transfers: dict[str, dict[str, Any]] = field(default_factory=dict)
    fetches: dict[str, tuple[int, int]] = field(default_factory=dict)
