"""The protocol between the agent and a hypervisor.

A driver observes and acts; it decides nothing and waits for nothing longer than one call. Waiting
(for a guest to shut down, say) belongs to a step's ``settle``, which polls :meth:`Driver.state`.
Each acting method is idempotent: asked again for what is already so, it returns quietly.

Errors are the kinds of :mod:`compute.errors`. In particular a call that timed out or lost its
connection raises :class:`~compute.errors.Unknown`, and a domain that does not exist raises
:class:`~compute.errors.Refused` with code ``guest_not_found`` (never on a lost connection).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from compute.model.diagnostics import Diagnostics, Usage
from compute.model.guest import (
    CachedImage,
    CopyState,
    Disk,
    Flavor,
    Guest,
    GuestState,
    HostFacts,
    Image,
    Nic,
)
from compute.model.move import Check, JobSample, MovePlan
from compute.model.volume import Volume, VolumeSource

Cancel = Callable[[], None]  # raises when the work should stop
Progress = Callable[[int, int], None]  # done, total (bytes; total 0 = not known)


class ImageSource(Protocol):
    """Where images come from; implemented by compute.services.images."""

    def show(self, image_id: str) -> Image:
        """Describe an image. Raises Refused(code='image_not_found')."""

    def download(self, image_id: str, path: str, progress: Progress, cancel: Cancel) -> None:
        """Write the image's bytes to ``path``. Raises Retryable, Failed."""


class Driver(Protocol):
    """What a hypervisor must be able to do."""

    name: str

    # -- the host ---------------------------------------------------------------------------
    def start(self, on_event: Callable[[str, str], None]) -> None:
        """Connect, waiting for the hypervisor if need be; then call ``on_event(uuid, what)`` on
        lifecycle events. Events only wake the observer; they are no facts."""

    def give_up(self) -> None:
        """End a :meth:`start` that waits. Takes no lock; a signal handler may call it."""

    def stop(self) -> None:
        """Disconnect; guests keep running."""

    def connected(self) -> bool:
        """Whether the hypervisor answered lately."""

    def host_facts(self) -> HostFacts:
        """Describe the host, in a constant number of calls; its PCI devices only where
        [pci] device_spec gives any to guests. Raises Unknown."""

    def host_uptime(self) -> str:
        """The text of ``uptime``."""

    def doctor_checks(self) -> Mapping[str, Callable[[], tuple[bool | None, str, str]]]:
        """Checks of this kind of hypervisor for ``magnetar doctor``: each returns (fine, found,
        what to do); fine None is worth knowing and not wrong."""

    # -- observing --------------------------------------------------------------------------
    def states(self) -> Mapping[str, GuestState]:
        """All domains, ours and others, by uuid, in a constant number of calls. Raises Unknown."""

    def state(self, uuid: str) -> GuestState | None:
        """One domain, or None if the hypervisor positively does not know it. Raises Unknown."""

    def host_devices(self, uuid: str) -> tuple[str, ...]:
        """Addresses of the host's PCI devices that a domain has been defined with; empty where
        there is no domain. Raises Unknown."""

    def disks(self, uuid: str) -> tuple[Disk, ...]:
        """The disks that exist for a guest, empty if there are none. Raises Unknown."""

    def guest_dirs(self) -> Iterable[str]:
        """The uuids that have a directory of disks on this host (quarantine not included)."""

    def console_log(self, uuid: str, max_bytes: int) -> bytes:
        """The last ``max_bytes`` of a guest's console log; empty when there is none."""

    def console_port(self, uuid: str, kind: str) -> int | None:
        """The TCP port on which a running domain shows its screen (``kind`` is ``vnc`` or
        ``spice``), or its serial console (``serial``); None when it has none, or only one on a
        unix socket. Raises Refused(code='guest_not_found')."""

    def open_console(self, uuid: str, force: bool = False) -> socket.socket:
        """A running domain's serial console, as one end of a pair of sockets: what the guest
        writes can be read from it, and what is written to it is typed. It ends when the guest
        does, or when it is closed. What the guest writes is in its console log all the same.

        :param force: end the session of whoever has it now.
        :raises Refused: codes ``guest_not_found``, ``invalid_state``, ``console_busy``.
        """

    # -- images and disks -------------------------------------------------------------------
    def cached_image(self, image: Image) -> CachedImage | None:
        """The cached base, if it is complete. Never downloads."""

    def fetch_image(
        self, image: Image, source: ImageSource, progress: Progress, cancel: Cancel
    ) -> CachedImage:
        """Bring an image into the cache: download, inspect, write down its format. Several
        callers at once make one download. Raises Failed(code='image_unacceptable'),
        Retryable(code='disk_full'), or what the source raises."""

    def check_image(self, guest: Guest, base: CachedImage) -> None:
        """Raise Failed(code='flavor_disk_too_small') if the base does not fit the flavor."""

    def create_disks(
        self, guest: Guest, base: CachedImage | None, secrets: Mapping[str, str]
    ) -> tuple[Disk, ...]:
        """Create what is missing of root, ephemeral, swap and config drive; record formats in
        ``disks.json`` with one atomic rename at the end. ``secrets`` may hold ``admin_pass`` and
        ``files`` for the config drive. Raises Retryable(code='disk_full'), Failed."""

    def delete_disks(self, uuid: str) -> None:
        """Remove a guest's directory of disks. Only called with a proof of ownership."""

    def quarantine_disks(self, uuid: str) -> str:
        """Rename a guest's directory into quarantine; returns the new path."""

    def sweep(self, in_use: Iterable[str], max_age: int) -> list[str]:
        """Remove half-made downloads of dead processes, bases unused for ``max_age`` seconds (not
        in ``in_use`` image ids, no disk backed by them) and quarantine that is due. Returns what
        was removed, for people."""

    # -- the domain -------------------------------------------------------------------------
    def check_guest(self, guest: Guest) -> None:
        """See that this host can give a guest what its flavor and image ask for; changes nothing.

        :raises Failed: code ``flavor_unacceptable`` or ``image_unacceptable``: nobody can.
        :raises Refused: code ``host_unfit``, naming everything that is missing here.
        """

    def define(
        self, guest: Guest, disks: Iterable[Disk], nics: Iterable[Nic], *,
        generation: int, operation: str,
    ) -> Mapping[str, str]:
        """Define (or redefine) the persistent domain. Returns what must be recorded for the
        guest's life, as image properties: ``hw_machine_type`` and so on. Raises
        Refused(code='uuid_in_use') if a domain with this uuid or name is not ours."""

    def undefine(self, uuid: str) -> None:
        """Remove the persistent definition, with managed save. Not an error if it is gone."""

    def power_on(self, uuid: str) -> None:
        """Start a defined domain. Quiet if it runs."""

    def shutdown(self, uuid: str) -> None:
        """Ask the guest to shut down (ACPI or agent); returns at once."""

    def power_off(self, uuid: str) -> None:
        """Stop the domain by force. Quiet if it is off or gone."""

    def resume(self, uuid: str) -> None:
        """Let a paused domain run. Quiet if it runs."""

    def pause(self, uuid: str) -> None:
        """Stop a running domain's CPUs; its memory stays. Quiet if it is paused."""

    # -- asleep -----------------------------------------------------------------------------
    def save(self, uuid: str, seconds: float) -> None:
        """Write a running or paused domain's memory to a file of the hypervisor's and stop it
        (libvirt's managed save), within ``seconds``. :meth:`power_on` continues from it. Quiet if
        it is off and ``GuestState.saved``. Raises Unknown when it takes longer."""

    def discard_saved(self, uuid: str) -> None:
        """Remove a saved memory, so that the next start is a boot. Quiet if there is none."""

    def unsaveable(self, uuid: str) -> tuple[str, ...]:
        """Devices of a running domain that cannot be saved or moved (host devices and so on), each
        as text that :meth:`plug_device` takes."""

    def unplug_device(self, uuid: str, device: str) -> None:
        """Take one device out of a running domain, and wait until the guest let it go. Quiet if
        it is out. Raises Failed(code='device_stays')."""

    def plug_device(self, uuid: str, device: str) -> None:
        """Put a device back into a running domain. Quiet if it is in."""

    def sync_time(self, uuid: str) -> bool:
        """Set a running guest's clock through its agent; False when no agent answers."""

    # -- tended by its owner ------------------------------------------------------------------
    def inject_nmi(self, uuid: str) -> None:
        """Send a running or paused guest a non-maskable interrupt. Not idempotent. Raises
        Refused(code='invalid_state') when it does not run, Failed(code='unsupported')."""

    def diagnostics(self, uuid: str) -> Diagnostics:
        """What a running domain has used, in a constant number of calls. Raises
        Refused(code='not_running')."""

    def usage(self) -> Mapping[str, Usage]:
        """What all running guests of ours use, by uuid, in a constant number of calls."""

    def set_password(self, uuid: str, user: str, password: str) -> None:
        """Have the agent in a running guest set a user's password. Raises
        Failed(code='agent_missing', 'password_refused'), Retryable(code='agent_unresponsive')."""

    def freeze(self, uuid: str) -> None:
        """Have the agent in a running guest write everything to its disks and let its file systems
        stand still. Raises Failed(code='agent_missing'), Retryable(code='agent_unresponsive')."""

    def thaw(self, uuid: str) -> None:
        """Let the guest's file systems go on; quiet if they do. Raises as :meth:`freeze`."""

    def create_rescue_disks(self, guest: Guest, image: Image, base: CachedImage,
                            secrets: Mapping[str, str]) -> tuple[Disk, ...]:
        """Make the disks of another system beside the guest's own, from ``base``; the properties of
        ``image`` may say where it goes. Returns all disks that the guest has while it is rescued,
        in their order. Raises Failed(code='image_unacceptable'), Retryable(code='disk_full')."""

    def rescue_disks(self, uuid: str) -> tuple[Disk, ...]:
        """What :meth:`create_rescue_disks` returned; empty when there is no rescue system."""

    def delete_rescue_disks(self, uuid: str) -> None:
        """Remove the rescue system's disks. Quiet if there are none."""

    # -- a copy of its root disk ------------------------------------------------------------
    def begin_copy(self, uuid: str) -> None:
        """Begin to copy a running guest's root disk to a file beside it. The guest writes on, and
        its definition stays. What an earlier attempt left is removed first. Quiet if a copy is
        under way. Raises Retryable(code='disk_full'), Failed(code='disks_missing')."""

    def copy_state(self, uuid: str) -> CopyState | None:
        """How that copy stands; None when none is under way. Raises Unknown."""

    def finish_copy(self, uuid: str) -> None:
        """End a copy that is level: the file is the disk as it was at one moment, and gets its
        final name. Raises Retryable(code='copy_lost') when it is not level or not there."""

    def copy_off(self, uuid: str, progress: Progress, cancel: Cancel) -> None:
        """The same for a guest that is off, in one go. Raises Retryable(code='disk_full')."""

    def copied(self, uuid: str) -> Disk | None:
        """The copy, once it is whole."""

    def shape_copy(self, uuid: str, format: str, compress: bool, cancel: Cancel) -> None:
        """Give the copy that is whole another format, or the same one with compressed contents;
        quiet when it was done already. Raises Retryable(code='disk_full')."""

    def discard_copy(self, uuid: str) -> None:
        """Stop copying, and remove what there is of it. Quiet if there is nothing."""

    def detach_base(self, uuid: str) -> None:
        """Let the root disk of a guest that is off stand by itself, so that the image that it was
        made of is not needed any more. Quiet if it does. Raises Retryable(code='disk_full')."""

    # -- another size -----------------------------------------------------------------------
    def check_resize(self, guest: Guest, flavor: Flavor) -> None:
        """Raise Failed(code='disk_shrink') when the guest's disks are larger than the flavor."""

    def set_aside_disks(self, uuid: str) -> None:
        """Rename the guest's directory to ``<uuid>_resize``: the way back. Quiet if done."""

    def bring_back_disks(self, uuid: str) -> None:
        """Rename ``<uuid>_resize`` back; refuses (NeedsOperator) to replace disks that are there.
        Quiet if done."""

    def aside_disks(self, uuid: str) -> bool:
        """Whether ``<uuid>_resize`` exists here."""

    def delete_aside_disks(self, uuid: str) -> None:
        """Remove ``<uuid>_resize``. Quiet if it is gone. Only called with a proof of ownership."""

    def copy_disks(self, guest: Guest, source: str | None, base: CachedImage | None,
                   progress: Progress, cancel: Cancel) -> tuple[Disk, ...]:
        """Make the guest's directory here from the ``<uuid>_resize`` directory of another host.

        :param source: that host's hypervisor as this one reaches it (a libvirt URI); None when
            the directory is on this machine or on storage that both share.
        :param base: the image in this host's cache that overlays refer to; None when none does.

        Sparse; a copy that was cut goes on where it was; ``disks.json`` comes last, with one
        rename. Raises Retryable (the other end does not answer), Failed(code='disk_full').
        """

    def grow_disks(self, guest: Guest) -> tuple[Disk, ...]:
        """Enlarge disks to the guest's flavor; never shrinks. Only while the guest is off."""

    def why_not_live(self, uuid: str, flavor: Flavor) -> str | None:
        """Why a running guest cannot get this flavor without a restart; None when it can."""

    def resize_live(self, uuid: str, flavor: Flavor) -> None:
        """Give a running guest a flavor's memory and vCPUs. Quiet if it has them."""

    # -- to another host: the source --------------------------------------------------------
    def outgoing(self, uuid: str) -> Mapping[str, Any]:
        """What the destination must know of a running domain before it moves, as plain data:
        ``disks`` ([{role, target, path, format, size, allocated, backing_image}]), ``memory_mb``,
        ``vcpus``, ``machine``, ``cpu`` (the guest's own CPU as XML), ``emulator_version``,
        ``libvirt_version``, ``host_uuid``, ``tls`` (certificates are here), ``storage`` (an id of
        the file system that holds the disks), ``immovable`` (device names), ``time`` (seconds
        since 1970), ``nics`` ([mac]), ``console`` (the end of its console log, packed)."""

    def check_outgoing(self, uuid: str, incoming: Mapping[str, Any]) -> tuple[Check, ...]:
        """What can be found out on the source about moving a guest, given what
        :meth:`prepare_incoming` or :meth:`incoming_facts` said. Changes nothing."""

    def outgoing_console(self, uuid: str) -> str:
        """The end of a guest's console log, packed as :meth:`outgoing`'s ``console``; also when
        its domain has left. Raises Failed."""

    def migrate(self, uuid: str, plan: MovePlan) -> None:
        """Begin a peer-to-peer live migration and return; the hypervisor goes on with it even if
        this process dies. Quiet if the domain has a migration job. :meth:`job` tells the rest.
        A guest that had been stopped for the switch-over may stand still when it fails, for it may
        go on at the destination: :meth:`resume` lets it go on."""

    def job(self, uuid: str) -> JobSample | None:
        """How the domain's outgoing migration stands; its end as well, as long as this process
        or the hypervisor remembers it. None: there is none. Raises Unknown."""

    def abort_job(self, uuid: str) -> None:
        """Ask a migration to stop; quiet if there is none. Raises Refused(code='too_late') in
        post-copy."""

    def tune_job(self, uuid: str, *, downtime_ms: int | None = None,
                 bandwidth: int | None = None) -> None:
        """Change the allowed pause (ms) or the bandwidth (MiB/s) of a running migration. Quiet if
        there is none."""

    def start_postcopy(self, uuid: str) -> None:
        """Let the guest go on at the destination now. Quiet if it does."""

    def recover_postcopy(self, uuid: str, plan: MovePlan) -> None:
        """Continue a post-copy migration whose network broke; returns when it goes on."""

    def measure_dirty_rate(self, uuid: str, seconds: int) -> int | None:
        """How much memory a running guest writes, in bytes/s; None when it cannot be measured."""

    # -- to another host: the destination -----------------------------------------------------
    def incoming_facts(self) -> Mapping[str, Any]:
        """What a source must know of this host, as plain data: ``uri``, ``migrate_uri``,
        ``listen``, ``host_uuid``, ``emulator_version``, ``libvirt_version``, ``machine_types``,
        ``tls``, ``storage``, ``time``, ``disk_free`` (bytes)."""

    def check_incoming(self, guest: Guest, outgoing: Mapping[str, Any]) -> tuple[Check, ...]:
        """What can be found out here about taking a guest, given :meth:`outgoing`'s facts of the
        source. Changes nothing."""

    def prepare_incoming(self, guest: Guest, outgoing: Mapping[str, Any],
                         base: CachedImage | None) -> Mapping[str, Any]:
        """Make what an arriving guest needs here: its directory, overlays or empty disks of the
        right size for what is not shared, its console log. Idempotent. Returns the facts of
        :meth:`incoming_facts` with ``copy_disks`` (targets), ``incremental``, ``shared`` (whether
        the disks are on storage that both hosts see) and ``rewrite`` (plain data: the
        destination's paths and listen addresses)."""

    def arrived(self, guest: Guest) -> tuple[Disk, ...]:
        """After the guest runs here: write ``disks.json`` down, make sure that the definition is
        persistent, let it announce itself on its networks. Idempotent."""

    def keep_console(self, uuid: str, packed: str) -> None:
        """Let the console log begin with this, which :meth:`outgoing_console` told on the host
        that the guest came from; it replaces what came along with it. Idempotent, and nothing of
        what the guest writes here is touched.

        :raises Refused: code ``guest_not_found``: its disks are not here (any more).
        """

    # -- volumes ----------------------------------------------------------------------------
    def volume_connector(self) -> Mapping[str, Any]:
        """What a volume service must know of this host to give it access, as os-brick tells it."""

    def connect_volume(self, volume: Volume, uuid: str) -> VolumeSource:
        """Make a volume that a guest shall have reachable on this host; again, it tells where it
        is. Raises Failed(code='volume_unreachable')."""

    def disconnect_volume(self, volume: Volume, uuid: str) -> None:
        """Take that back; what other guests here need of it stays. Quiet if it is gone."""

    def attach_volume(self, guest: Guest, volume: Volume, source: VolumeSource) -> None:
        """Put a connected volume into what a domain is defined with, and into the domain if it
        runs. Quiet where it is in. Raises Failed."""

    def detach_volume(self, uuid: str, volume: Volume) -> None:
        """Take a volume out of what a domain is defined with, and ask a running guest to let go of
        it; returns at once, :meth:`volumes` tells whether it did. Quiet where it is out."""

    def volumes(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        """The serial numbers of the disks that a domain is defined with, and of those in the
        running domain, None if it does not run. Raises Refused(code='guest_not_found')."""

    def disk_targets(self, uuid: str) -> frozenset[str]:
        """The names (``vda``) of all disks that a domain is defined with or has while it runs."""

    def extend_volume(self, uuid: str, volume: Volume, size: int) -> int:
        """Make a volume that grew known on this host, and to the guest if it runs; its size in
        bytes, which is at least ``size``, or Raises Retryable(code='volume_not_grown')."""

    def begin_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        """Begin to copy a running guest's volume to a connected one. The guest writes on. Quiet if
        a copy is under way. Raises Refused(code='not_running'), Failed."""

    def swap_state(self, uuid: str, volume: Volume) -> CopyState | None:
        """How that copy stands; None when none is under way."""

    def finish_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        """Let the guest go on with the copy, which is level, from now on; so does its definition.
        Raises Retryable(code='copy_lost') when the copy is not level or not there."""

    def swapped(self, uuid: str, volume: Volume, source: VolumeSource) -> bool:
        """Whether a volume's place is taken by the one at ``source``, in the definition and in the
        domain if it runs."""

    def abort_swap(self, uuid: str, volume: Volume) -> None:
        """Stop that copy; the guest keeps what it has. Quiet if there is none."""

    # -- networks of this host --------------------------------------------------------------
    def plug(self, guest: Guest, nic: Nic) -> None:
        """Make sure that what the NIC attaches to exists. Raises Failed(code='network_missing')."""

    def unplug(self, uuid: str, nic: Nic) -> None:
        """Remove what ``plug`` or a dead domain left of a NIC. Quiet if nothing is there."""

    def attach_nic(self, guest: Guest, nic: Nic) -> None:
        """Put a NIC into what a domain is defined with, and into the domain if it runs. Quiet
        where it is in. Raises Failed."""

    def detach_nic(self, uuid: str, nic: Nic) -> None:
        """Take a NIC out of what a domain is defined with, and ask a running guest to let go of
        it; returns at once, :meth:`nics` tells whether it did. Quiet where it is out."""

    def nics(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        """The MAC addresses (lower case) of the NICs that a domain is defined with, and of those
        in the running domain, None if it does not run. Raises Refused(code='guest_not_found')."""

    def taps(self) -> Mapping[str, frozenset[str]]:
        """The names of the tap devices of all running domains, by uuid, in one call."""

    def create_network(self, network: Mapping) -> None:
        """Create and start a libvirt NAT network {name, bridge?, cidr, gateway, dhcp_start,
        dhcp_end}, or check that an existing bridge {bridge} is there. Raises Refused."""

    def delete_network(self, name: str) -> None:
        """Remove a network that :meth:`create_network` made. Quiet if it is gone."""

    def reserve_address(self, network: str, mac: str, address: str, hostname: str) -> None:
        """Tell the DHCP server of a libvirt network which address a MAC shall get."""

    def release_address(self, network: str, mac: str) -> None:
        """Forget what :meth:`reserve_address` told. Quiet if nothing is known."""
