"""The libvirt driver: see :class:`virt.driver.Driver` for what each method promises."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import libvirt
from oslo_log import log

from compute.conf.libvirt import OTHER_TYPES
from compute.errors import MagnetarError, NeedsOperator
from compute.model.guest import Disk, Guest, GuestState, HostFacts, Nic
from compute.model.numa import cpu_sets
from virt.libvirt import host as this_host
from virt.libvirt.attaching import Attaching
from virt.libvirt.call import Calls
from virt.libvirt.connection import CONNECTED, Connection
from virt.libvirt.domains import Domains
from virt.libvirt.errand import connector
from virt.libvirt.host import Host
from virt.libvirt.movable import Movable
from virt.libvirt.moves import Moves
from virt.libvirt.networks import Networks
from virt.libvirt.notes import Notes
from virt.libvirt.plaindomains import Containers, PlainDomains
from virt.libvirt.sleep import Sleep
from virt.libvirt.tended import Tended
from virt.libvirt.tls import Certificates
from virt.libvirt.virttype import VirtType
from virt.storage import console

if TYPE_CHECKING:
    from virt.libvirt.consoles import Consoles
    from virt.libvirt.hardware import Hardware
    from virt.libvirt.nics import DomainNics
    from virt.xml.domain import Domain

LOG = log.getLogger(__name__)
PATIENCE = 0.2  # seconds that a description of the host waits for the proof of KVM


class LibvirtDriver(Movable, Tended, Attaching):
    """Guests under libvirt and QEMU; their disks are the store's matter.

    :param conf: the global configuration.
    :param store: what keeps images and disks (:class:`virt.storage.store.Store`).
    """

    name = "libvirt"

    def __init__(self, conf: Any, store: Any):
        super().__init__(conf, store)
        options = conf.libvirt
        self.calls = Calls(options.call_workers, options.call_timeout)
        keepalive = (options.keepalive_interval, options.keepalive_count)
        self.connection = Connection(options.connection_uri, self.calls, keepalive=keepalive)
        notes = Notes(os.path.join(conf.state_path, "domains.notes"), options.connection_uri)
        kind = Domains
        if self._without_qemu():
            kind = Containers if options.virt_type == "lxc" else PlainDomains
        self.domains = kind(self.connection, options.call_timeout, notes)
        self.networks = Networks(self.connection)
        self.host = Host(self.connection)
        self.certificates = Certificates()
        connect = connector(options.connection_uri, keepalive)
        self._connect = connect
        self.sleep = Sleep(self.connection, self.domains, connect)
        self.moves = Moves(self.connection, self.domains, connect)
        self.connection.on_job = self.moves.completed
        self._virt_type = VirtType(options.virt_type, conf.state_path)
        self._on_event: Callable[[str, str], None] = lambda uuid, what: None

    @cached_property
    def domain_nics(self) -> DomainNics:
        from virt.libvirt.nics import DomainNics

        return DomainNics(self.connection, self.domains)

    @cached_property
    def consoles(self) -> Consoles:
        from virt.libvirt.consoles import Consoles

        return Consoles(self.connection, self.domains, self._connect)

    # -- the host ---------------------------------------------------------------------------
    def start(self, on_event: Callable[[str, str], None]) -> None:
        """Connect, waiting for libvirtd. ``on_event('', 'connected')`` tells of each connection:
        events may have been missed, so everything should be looked at."""
        self._on_event = on_event
        self.domains.ownership.load()
        self.connection.start(self._event)

    def give_up(self) -> None:
        """End a :meth:`start` that waits; safe in a signal handler."""
        self.connection.give_up()

    def stop(self) -> None:
        self.connection.stop()
        self.calls.close()
        self.domains.ownership.close()

    def connected(self) -> bool:
        return self.connection.alive()

    def virt_type(self) -> str:
        """``kvm`` or ``qemu``. Raises Unknown without a connection."""
        return self._virt_type.get(self.host.caps())

    def host_facts(self) -> HostFacts:
        """As the protocol says; while KVM is still being proven, virt_type is ``auto`` and KVM
        is not among what is supported. Traits are told once they are known, which a start does not
        wait for."""
        address = self.conf.my_ip
        virt_type = self._virt_type.known(PATIENCE) or "auto"
        facts = self.host.facts(virt_type, self.conf.disk.instances_path, address)
        known = self.host.known_abilities(virt_type)
        if known is not None:  # else they are still being found out, and told the next time
            from virt.libvirt import traits

            found = traits.found(self.conf, virt_type, self.host.caps(), known)
            facts = replace(facts, traits=found)
        if self.conf.libvirt.file_backed_memory:  # guests get none of the host's RAM then
            facts = replace(facts, memory_mb=self.conf.libvirt.file_backed_memory)
        if self.conf.pci.device_spec:
            from virt.libvirt.nodedevs import NodeDevices

            facts = replace(facts, devices=NodeDevices(self.connection).pci())
        with suppress(MagnetarError):  # a full or broken disk is for others to tell
            facts = replace(facts, storage=self.store.storage_id())
        return facts

    def host_uptime(self) -> str:
        return this_host.uptime()

    def _event(self, uuid: str, what: str) -> None:
        if what == CONNECTED:
            self.domains.ownership.doubt_all()
            threading.Thread(target=self._warm_up, daemon=True, name="libvirt-warm-up").start()
        elif what in ("defined", "undefined", "metadata"):
            self.domains.ownership.forget(uuid)
        self._on_event(uuid, what)

    def _warm_up(self) -> None:
        """Find out beforehand what the first guest would have to wait for."""
        if self._without_qemu():
            return
        from virt.libvirt import builder  # noqa: F401 - the import itself takes a while

        try:
            self.host.abilities(self.virt_type())
        except MagnetarError as error:
            LOG.info("The host is not known yet, the first guest will ask again: %s", error)

    def doctor_checks(self) -> Mapping[str, Callable[[], tuple[bool | None, str, str]]]:
        return {"KVM device": this_host.kvm_device, "lock manager": this_host.lock_manager}

    # -- observing --------------------------------------------------------------------------
    def states(self) -> Mapping[str, GuestState]:
        return self.domains.states()

    def state(self, uuid: str) -> GuestState | None:
        return self.domains.state(uuid)

    def host_devices(self, uuid: str) -> tuple[str, ...]:
        from virt.libvirt import hostdevs

        handle = self.domains.find(uuid)
        if handle is None:
            return ()
        return hostdevs.of_domain(self.connection.call(
            "read_definition", handle.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE))

    def console_log(self, uuid: str, max_bytes: int) -> bytes:
        try:
            return console.tail(self._console(uuid), max_bytes)
        except OSError as error:
            raise NeedsOperator(**this_host.describe_log_error(uuid, error)) from error

    def console_port(self, uuid: str, kind: str) -> int | None:
        return self.consoles.port(uuid, kind)

    def open_console(self, uuid: str, force: bool = False) -> socket.socket:
        return self.consoles.open(uuid, force)

    # -- the domain -------------------------------------------------------------------------
    def define(
        self, guest: Guest, disks: Iterable[Disk], nics: Iterable[Nic], *,
        generation: int, operation: str,
    ) -> Mapping[str, str]:
        decided = None if self._without_qemu() else self.hardware_of(guest)
        domain = self._built(guest, decided, tuple(disks), tuple(nics), generation, operation)
        self.domains.define(guest.uuid, guest.name, domain.to_xml(), generation)
        return decided.recorded() if decided else {}

    def check_guest(self, guest: Guest) -> None:
        decided = None if self._without_qemu() else self.hardware_of(guest)
        self._built(guest, decided, (), guest.nics, 0, "")

    def _without_qemu(self) -> bool:
        return self.conf.libvirt.virt_type in OTHER_TYPES

    def hardware_of(self, guest: Guest) -> Hardware:
        """What hardware the guest gets. Raises Failed for what nobody can do, Refused (host_unfit)
        for what this host has not."""
        from virt.libvirt import abilities, hardware, traits  # not needed to start

        virt_type = self.virt_type()
        host = self.host.abilities(virt_type)
        decided = hardware.decide(guest, self.conf, self.host.caps(), virt_type, host.models)
        abilities.check(guest, decided, host)
        traits.refuse(guest, traits.found(self.conf, virt_type, self.host.caps(), host))
        return decided

    def _built(
        self, guest: Guest, decided: Hardware | None, disks: tuple[Disk, ...],
        nics: tuple[Nic, ...], generation: int, operation: str,
    ) -> Domain:
        from virt.libvirt import builder, othertypes
        from virt.storage import firmware

        if decided is None:
            return othertypes.build(othertypes.Plan(
                self.virt_type(), self.host.caps().arch, guest, disks, nics, generation,
                operation, self.conf.libvirt.vnc_listen))  # fmt: skip

        uefi = decided.firmware
        kept = next((disk.size for disk in disks if disk.role == firmware.KIND), None)
        return builder.build(
            builder.Plan(
                guest=guest, disks=disks, nics=nics, hardware=decided,
                options=self.conf.libvirt, cache=self._cache_mode(),
                console=self._console(guest.uuid), generation=generation, operation=operation,
                firmware=firmware.required(uefi, kept) if uefi else None,
                shared_cpus=self._shared_cpus(), spice_listen=self._spice(),
                serial_host=self.conf.serial_console.proxyclient_address,
            )  # fmt: skip
        )

    def _shared_cpus(self) -> frozenset[int]:
        """The CPUs of guests without a place of their own; empty for all that there are."""
        options = self.conf.compute
        if not (options.cpu_shared_set or options.cpu_dedicated_set):
            return frozenset()
        return cpu_sets(options, self.host.caps().cells)[0]

    def undefine(self, uuid: str) -> None:
        self.domains.undefine(uuid)

    def power_on(self, uuid: str) -> None:
        self.domains.power_on(uuid, lambda: self._prepare_console(uuid))

    def shutdown(self, uuid: str) -> None:
        self.domains.shutdown(uuid)

    def power_off(self, uuid: str) -> None:
        self.domains.power_off(uuid)

    def resume(self, uuid: str) -> None:
        self.domains.resume(uuid)

    # -- networks of this host --------------------------------------------------------------
    def plug(self, guest: Guest, nic: Nic) -> None:
        self.networks.plug(nic)

    def unplug(self, uuid: str, nic: Nic) -> None:
        self.networks.unplug(nic)

    def attach_nic(self, guest: Guest, nic: Nic) -> None:
        from virt.libvirt import builder

        made = builder.network_interface(
            nic, guest.flavor, self.hardware_of(guest), self.conf.libvirt)
        self.domain_nics.attach(guest.uuid, nic, made.to_xml())

    def detach_nic(self, uuid: str, nic: Nic) -> None:
        self.domain_nics.detach(uuid, nic)

    def nics(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        return self.domain_nics.seen(uuid)

    def taps(self) -> Mapping[str, frozenset[str]]:
        return self.domain_nics.taps()

    def create_network(self, network: Mapping) -> None:
        self.networks.create(network)

    def delete_network(self, name: str) -> None:
        self.networks.delete(name)

    def reserve_address(self, network: str, mac: str, address: str, hostname: str) -> None:
        self.networks.reserve(network, mac, address, hostname)

    def release_address(self, network: str, mac: str) -> None:
        self.networks.release(network, mac)
