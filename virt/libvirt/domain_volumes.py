"""Volumes of domains: into one that runs or is off, out of it, larger, and another in its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import libvirt
from lxml import etree

from compute.errors import Failed, MagnetarError, Refused, Retryable
from compute.model.guest import CopyState
from compute.model.volume import Volume, VolumeSource
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.nics import LIVE, STORED, UNDER_WAY
from virt.libvirt.volumes import device, origin
from virt.xml.disk import Disk
from virt.xml.domain import Domain

COPY = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB | libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
SLOW = 120.0  # seconds that ending a copy may take: what is in flight is written first
GONE = ("guest_not_found", "invalid_state", "device_missing")
Found = dict[str, Disk]  # by serial number


def place(source: VolumeSource | Disk) -> tuple[str | None, ...]:
    """Where a disk is, to be compared."""
    found = source.origin if isinstance(source, Disk) else origin(source)
    if found is None:
        return ()
    hosts = [f"{host.name}:{host.port}" for host in found.hosts]
    return (found.file or found.device, found.protocol, found.name, *hosts)


class DomainVolumes:
    """The volumes of the domains of one libvirtd; each is known by its serial number."""

    def __init__(self, connection: Connection, domains: Domains):
        self._connection, self._domains = connection, domains

    # -- in and out ---------------------------------------------------------------------------
    def attach(self, uuid: str, volume: Volume, made: Disk) -> None:
        """Put a volume where it is missing. Into the running domain first: what it cannot take is
        not stored either."""
        domain = self._domains.required(uuid)
        stored, live = self._disks(domain), self._live(domain)
        if made.bus == "scsi":
            _put_on_scsi(made, (*stored, *(live or ())))
        text = made.to_xml()
        if live is not None and volume.shown not in _by_serial(live):
            self._connection.call("attach_volume", domain.attachDeviceFlags, text, LIVE)
        if volume.shown not in _by_serial(stored):
            self._connection.call("store_volume", domain.attachDeviceFlags, text, STORED)

    def detach(self, uuid: str, volume: Volume) -> None:
        """Take a volume out of the definition, and ask a running guest to let go of it."""
        domain = self._domains.required(uuid)
        stored, live = self._disks(domain), self._live(domain)
        if (node := _by_serial(stored).get(volume.shown)) is not None:
            self._connection.call("forget_volume", domain.detachDeviceFlags, _text(node), STORED)
        if live is None or (node := _by_serial(live).get(volume.shown)) is None:
            return
        try:
            self._connection.call("detach_volume", domain.detachDeviceFlags, _text(node), LIVE)
        except MagnetarError as error:
            if error.code not in UNDER_WAY:
                raise

    def seen(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        """See :meth:`virt.driver.Driver.volumes`."""
        domain = self._domains.required(uuid)
        live = self._live(domain)
        return (frozenset(_by_serial(self._disks(domain))),
                None if live is None else frozenset(_by_serial(live)))

    def targets(self, uuid: str) -> frozenset[str]:
        """See :meth:`virt.driver.Driver.disk_targets`."""
        domain = self._domains.required(uuid)
        return frozenset(str(disk.target) for disk in
                         (*self._disks(domain), *(self._live(domain) or ())))

    # -- another size -------------------------------------------------------------------------
    def resize(self, uuid: str, volume: Volume, size: int) -> None:
        """Tell a running guest how much of a volume is its own by now, in bytes; 0 when that is
        not known. Quiet if it is off."""
        domain = self._domains.required(uuid)
        disk = _by_serial(self._live(domain) or ()).get(volume.shown)
        if disk is None:
            return
        if not size:
            raise Failed(f"Volume {volume.id} is encrypted: how much of it LUKS leaves to the "
                         "guest can only be told by QEMU, when it is opened anew.",
                         now="It has grown, and the guest sees it as it was.",
                         next="Stop and start the guest.", code="unsupported")
        self._connection.call("resize_volume", domain.blockResize, disk.target, size,
                              libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)  # fmt: skip

    # -- another one in its place ---------------------------------------------------------------
    def begin_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        """See :meth:`virt.driver.Driver.begin_swap`."""
        domain = self._domains.required(uuid)
        live = self._live(domain)
        if live is None:
            raise Refused(f"Guest {uuid} does not run.", now="Nothing was changed.",
                          code="not_running")
        disk = _by_serial(live).get(volume.shown)
        if disk is None:
            raise Failed(f"Guest {uuid} runs without volume {volume.id}.",
                         now="Nothing was changed.", next="Reboot it hard.", code="device_missing")
        if place(disk) == place(source) or self._job(domain, disk.target):
            return
        target = device(replace(volume, target=str(disk.target), boot_index=None),
                        replace(source, serial="", iotune={})).to_xml()
        self._connection.call("begin_volume_copy", _begin, domain, disk.target, target,
                              timeout=SLOW)

    def swap_state(self, uuid: str, volume: Volume) -> CopyState | None:
        """See :meth:`virt.driver.Driver.swap_state`. libvirt tells done = total only when the copy
        is level."""
        domain = self._domains.find(uuid)
        disk = self._running(domain, volume)
        job = self._job(domain, disk.target) if disk is not None else {}
        if not job:
            return None
        done, total = int(job["cur"]), int(job["end"])
        return CopyState(done, total, done == total > 0)

    def finish_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        """See :meth:`virt.driver.Driver.finish_swap`. libvirt writes the definition itself when it
        switches; where it did not, that is made up for."""
        domain = self._domains.required(uuid)
        disk = self._running(domain, volume)
        if disk is None or place(disk) != place(source):
            job = self._job(domain, disk.target) if disk is not None else {}
            if disk is None or not job or job["cur"] != job["end"]:
                raise Retryable(
                    f"There is no copy of volume {volume.id} that is level with it: the job ended "
                    "by itself, or the guest went off.", now="The guest has the old volume.",
                    next="See the host's libvirtd log.", code="copy_lost")
            self._connection.call("switch_volume", domain.blockJobAbort, disk.target,
                                  libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT, timeout=SLOW)
        kept = _by_serial(self._disks(domain)).get(volume.shown)
        if kept is not None and place(kept) != place(source):
            kept.origin, kept.type, kept.format = origin(source), source.kind, source.format
            self._connection.call("store_switch", domain.updateDeviceFlags, _text(kept), STORED)

    def swapped(self, uuid: str, volume: Volume, source: VolumeSource) -> bool:
        """See :meth:`virt.driver.Driver.swapped`."""
        domain = self._domains.required(uuid)
        live = self._live(domain)
        listed = [self._disks(domain), *([live] if live is not None else [])]
        found = [_by_serial(disks).get(volume.shown) for disks in listed]
        return all(disk is not None and place(disk) == place(source) for disk in found)

    def abort_swap(self, uuid: str, volume: Volume) -> None:
        """See :meth:`virt.driver.Driver.abort_swap`."""
        domain = self._domains.find(uuid)
        disk = self._running(domain, volume)
        if domain is None or disk is None or not self._job(domain, disk.target):
            return
        try:
            self._connection.call("stop_volume_copy", domain.blockJobAbort, disk.target, 0,
                                  timeout=SLOW)
        except MagnetarError:
            if self._job(domain, disk.target):
                raise

    # -- what libvirt has -----------------------------------------------------------------------
    def _running(self, domain: Any | None, volume: Volume) -> Disk | None:
        """A volume's disk in a domain, if that runs and has it."""
        live = self._live(domain) if domain is not None else None
        return _by_serial(live or ()).get(volume.shown)

    def _live(self, domain: Any) -> list[Disk] | None:
        """The disks of a running domain, None if it does not run."""
        active = self._connection.call("read_activity", domain.isActive)
        return self._disks(domain, 0) if active else None

    def _disks(self, domain: Any, flags: int = libvirt.VIR_DOMAIN_XML_INACTIVE) -> list[Disk]:
        text = self._connection.call("read_definition", domain.XMLDesc,
                                     flags | libvirt.VIR_DOMAIN_XML_SECURE)  # fmt: skip
        return Domain.parse(text).devices.disks

    def _job(self, domain: Any, target: str) -> dict[str, Any]:
        """The copy of a disk that is under way; empty if there is none."""
        try:
            found = self._connection.call("read_volume_job", domain.blockJobInfo, target, 0)
        except MagnetarError as error:
            if error.code not in GONE:
                raise
            return {}
        copies = found and found.get("type") == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY
        return dict(found) if copies else {}


def _begin(domain: Any, target: str, text: str) -> None:
    domain.blockCopy(target, text, flags=COPY)


def _by_serial(disks: Iterable[Disk]) -> Found:
    return {disk.serial: disk for disk in disks if disk.serial}


def _put_on_scsi(made: Disk, disks: Iterable[Disk]) -> None:
    """The next unit that is free on the guest's own controller; libvirt itself would begin another
    controller, of another model, after seven."""
    used = {disk.unit for disk in disks if disk.bus == "scsi"}
    made.address_type, made.controller, made.address_bus = "drive", 0, 0
    made.address_target, made.unit = 0, next(n for n in range(256) if n not in used)


def _text(disk: Disk) -> str:
    return etree.tostring(disk.node, encoding="unicode").strip()
