"""The protocol between the agent and a hypervisor.

A driver observes and acts; it decides nothing and waits for nothing longer than one call. Waiting
(for a guest to shut down, say) belongs to a step's ``settle``, which polls :meth:`Driver.state`.
Each acting method is idempotent: asked again for what is already so, it returns quietly.

Errors are the kinds of :mod:`compute.errors`. In particular a call that timed out or lost its
connection raises :class:`~compute.errors.Unknown`, and a domain that does not exist raises
:class:`~compute.errors.Refused` with code ``guest_not_found`` (never on a lost connection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from compute.model.guest import CachedImage, Disk, Guest, GuestState, HostFacts, Image, Nic

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
        """Describe the host, in a constant number of calls. Raises Unknown."""

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

    def disks(self, uuid: str) -> tuple[Disk, ...]:
        """The disks that exist for a guest, empty if there are none. Raises Unknown."""

    def guest_dirs(self) -> Iterable[str]:
        """The uuids that have a directory of disks on this host (quarantine not included)."""

    def console_log(self, uuid: str, max_bytes: int) -> bytes:
        """The last ``max_bytes`` of a guest's console log; empty when there is none."""

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
        """Let a paused domain run."""

    # -- networks of this host --------------------------------------------------------------
    def plug(self, guest: Guest, nic: Nic) -> None:
        """Make sure that what the NIC attaches to exists. Raises Failed(code='network_missing')."""

    def unplug(self, uuid: str, nic: Nic) -> None:
        """Remove what ``plug`` or a dead domain left of a NIC. Quiet if nothing is there."""

    def create_network(self, network: Mapping) -> None:
        """Create and start a libvirt NAT network {name, bridge?, cidr, gateway, dhcp_start,
        dhcp_end}, or check that an existing bridge {bridge} is there. Raises Refused."""

    def delete_network(self, name: str) -> None:
        """Remove a network that :meth:`create_network` made. Quiet if it is gone."""

    def reserve_address(self, network: str, mac: str, address: str, hostname: str) -> None:
        """Tell the DHCP server of a libvirt network which address a MAC shall get."""

    def release_address(self, network: str, mac: str) -> None:
        """Forget what :meth:`reserve_address` told. Quiet if nothing is known."""
