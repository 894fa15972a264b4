"""The half of the libvirt driver that lets guests sleep, grow and move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import libvirt

from compute.errors import MagnetarError, Unknown
from compute.model.guest import CachedImage, CopyState, Disk, Flavor, Guest
from compute.model.move import Check, JobSample, MovePlan
from compute.model.numa import format_set
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.host import Host
from virt.libvirt.moves import Moves
from virt.libvirt.networks import Networks
from virt.libvirt.sleep import Sleep
from virt.libvirt.stored import Stored
from virt.libvirt.tls import Certificates

if TYPE_CHECKING:
    from virt.libvirt.blockcopy import BlockCopy
    from virt.libvirt.checks import Checks
    from virt.libvirt.facts import Facts
    from virt.libvirt.hotplug import Hotplug
    from virt.libvirt.size import Size


class Movable(Stored):
    """Methods of :class:`virt.driver.Driver`: asleep, another size while it runs, another host."""

    connection: Connection
    domains: Domains
    networks: Networks
    host: Host
    sleep: Sleep
    moves: Moves
    certificates: Certificates
    check_guest: Callable[[Guest], None]
    _shared_cpus: Callable[[], frozenset[int]]

    # What reads whole definitions is only loaded when it is needed: a start does without.
    @cached_property
    def hotplug(self) -> Hotplug:
        from virt.libvirt.hotplug import Hotplug

        return Hotplug(self.connection, self.domains)

    @cached_property
    def blockcopy(self) -> BlockCopy:
        from virt.libvirt.blockcopy import BlockCopy

        return BlockCopy(self.connection, self.domains, self.store.copies)

    @cached_property
    def size(self) -> Size:
        from virt.libvirt.size import Size

        return Size(self.connection, self.domains, self.store.disks)

    @cached_property
    def facts(self) -> Facts:
        from virt.libvirt.facts import Facts

        return Facts(
            self.conf, self.connection, self.domains, self.host, self.store, self.certificates
        )

    @cached_property
    def checks(self) -> Checks:
        from virt.libvirt.checks import Checks

        return Checks(
            self.conf, self.connection, self.domains, self.networks, self.facts,
            self.certificates,
        )  # fmt: skip

    # -- asleep -----------------------------------------------------------------------------
    def pause(self, uuid: str) -> None:
        self.domains.pause(uuid)

    def save(self, uuid: str, seconds: float) -> None:
        self.sleep.save(uuid, seconds)

    def discard_saved(self, uuid: str) -> None:
        self.sleep.discard(uuid)

    def sync_time(self, uuid: str) -> bool:
        return self.sleep.sync_time(uuid)

    def unsaveable(self, uuid: str) -> tuple[str, ...]:
        return self.hotplug.unsaveable(uuid)

    def unplug_device(self, uuid: str, device: str) -> None:
        self.hotplug.unplug(uuid, device)

    def plug_device(self, uuid: str, device: str) -> None:
        self.hotplug.plug(uuid, device)

    # -- a copy of its root disk ------------------------------------------------------------
    def begin_copy(self, uuid: str) -> None:
        self.blockcopy.begin(uuid)

    def copy_state(self, uuid: str) -> CopyState | None:
        return self.blockcopy.state(uuid)

    def finish_copy(self, uuid: str) -> None:
        self.blockcopy.finish(uuid)

    def discard_copy(self, uuid: str) -> None:
        self.blockcopy.discard(uuid)

    # -- another size -----------------------------------------------------------------------
    def why_not_live(self, uuid: str, flavor: Flavor) -> str | None:
        return self.size.why_not(uuid, flavor)

    def resize_live(self, uuid: str, flavor: Flavor) -> None:
        self.size.resize(uuid, flavor)

    # -- to another host: the source --------------------------------------------------------
    def outgoing(self, uuid: str) -> Mapping[str, Any]:
        return self.facts.outgoing(uuid)

    def check_outgoing(self, uuid: str, incoming: Mapping[str, Any]) -> tuple[Check, ...]:
        return self.checks.outgoing(uuid, incoming)

    def outgoing_console(self, uuid: str) -> str:
        return self.store.outgoing_console(uuid)

    def migrate(self, uuid: str, plan: MovePlan) -> None:
        self.moves.migrate(uuid, plan)

    def job(self, uuid: str) -> JobSample | None:
        return self.moves.job(uuid)

    def abort_job(self, uuid: str) -> None:
        self.moves.abort(uuid)
        self.sleep.abort(uuid)

    def tune_job(self, uuid: str, *, downtime_ms: int | None = None,
                 bandwidth: int | None = None) -> None:  # fmt: skip
        self.moves.tune(uuid, downtime_ms, bandwidth)

    def start_postcopy(self, uuid: str) -> None:
        self.moves.start_postcopy(uuid)

    def recover_postcopy(self, uuid: str, plan: MovePlan) -> None:
        self.moves.recover(uuid, plan)

    def measure_dirty_rate(self, uuid: str, seconds: int) -> int | None:
        return self.moves.dirty_rate(uuid, seconds)

    # -- to another host: the destination ---------------------------------------------------
    def incoming_facts(self) -> Mapping[str, Any]:
        return self.facts.incoming()

    def check_incoming(self, guest: Guest, outgoing: Mapping[str, Any]) -> tuple[Check, ...]:
        return (
            *self.checks.incoming(guest, outgoing),
            self._fitness(guest),
            *self.store.check_incoming_disks(guest, outgoing),
        )

    def _fitness(self, guest: Guest) -> Check:
        """Whether this host has what the guest's hardware needs."""
        try:
            self.check_guest(guest)
        except Unknown:
            raise
        except MagnetarError as error:
            return Check("hardware", False, error.what.rstrip("."), error.next)
        return Check("hardware", True, "everything that its flavor and image ask for is here")

    def prepare_incoming(self, guest: Guest, outgoing: Mapping[str, Any],
                         base: CachedImage | None) -> Mapping[str, Any]:  # fmt: skip
        from virt.libvirt import rewrite
        from virt.storage import firmware

        made = dict(self.store.prepare_incoming(guest, outgoing, base))
        self._prepare_console(guest.uuid)
        uefi = firmware.wish(guest)
        sizes = [disk["size"] for disk in outgoing["disks"] if disk["role"] == firmware.KIND]
        loader = firmware.required(uefi, *sizes[:1]).loader if uefi else None
        told = rewrite.describe(
            made.pop("paths"), self._console(guest.uuid), self.conf.libvirt.vnc_listen,
            guest.nics, made["shared"], self._cache_mode(), loader, guest.placement,
            format_set(self._shared_cpus()), self.conf.libvirt.realtime_scheduler_priority,
            guest.volumes,
        )  # fmt: skip
        listens = [self.conf.serial_console.proxyclient_address, guest.serial_port]
        told |= {"spice": self._spice(), "serial": listens if guest.serial_port else []}
        return {**self.facts.incoming(), **made, "rewrite": told}

    def _spice(self) -> str | None:
        """Where SPICE listens on this host; None: guests have none."""
        return self.conf.spice.server_listen if self.conf.spice.enabled else None

    def keep_console(self, uuid: str, packed: str) -> None:
        self.store.keep_console(uuid, packed)

    def arrived(self, guest: Guest) -> tuple[Disk, ...]:
        """As the protocol says. QEMU itself announces the guest on its networks when it goes on
        after a migration, so that switches learn where it is; nothing is added to that."""
        domain = self.domains.required(guest.uuid)
        self.domains.ownership.forget(guest.uuid)
        self.moves.forget(guest.uuid)
        if not self.connection.call("read_persistence", domain.isPersistent):
            self.connection.call("keep_definition", _define_again, domain)
        return self.store.arrived(guest)


def _define_again(domain: Any) -> None:
    """Make a running domain persistent with the definition that it runs with."""
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    domain.connect().defineXML(domain.XMLDesc(flags))


