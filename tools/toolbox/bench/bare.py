"""The same guest and the same moves with bare libvirt: only the calls that the move needs."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt

from tools.toolbox.lab import Lab, LabHost
from virt.libvirt.orders import ALWAYS

NAME = "bare"
INSTANCES = "/var/lib/magnetar/instances"


class BareGuest:
    """A copy of a guest's definition with disks of its own; it boots from the same image.

    Each verb returns the seconds that its calls took. What an operator would have to prepare by
    hand for it, such as the directory at the destination, is not timed.

    :param of: the guest, by uuid, that runs on ``host``.
    """

    def __init__(self, lab: Lab, host: str, of: str):
        self.lab, self.host, self.uuid = lab, lab.host(host), str(uuid.uuid4())
        self._links: dict[str, libvirt.virConnect] = {one.name: one.libvirt() for one in lab.hosts}
        xml = self._links[host].lookupByUUIDString(of).XMLDesc(
            libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
        found = re.search(f"{INSTANCES}/_base/[0-9a-f]+", self._live(host, of))
        assert found, f"{of} has no base"
        self.base = found[0]
        self._drive = (self.host.instances / of / "disk.config").read_bytes()
        self.xml = self._copied(xml, of)
        self._prepare(self.host)
        self._link.defineXML(self.xml).create()

    def _live(self, host: str, of: str) -> str:
        return self._links[host].lookupByUUIDString(of).XMLDesc()

    def _copied(self, xml: str, of: str) -> str:
        xml = re.sub(r"<metadata>.*?</metadata>", "", xml, flags=re.DOTALL)
        xml = re.sub(r"<name>[^<]*</name>", f"<name>{NAME}</name>", xml, count=1)
        xml = re.sub(r"<entry name='(serial|uuid)'>[^<]*</entry>", "", xml)
        return xml.replace(f"{INSTANCES}/{of}/", f"{INSTANCES}/{NAME}/").replace(of, self.uuid)

    @property
    def _link(self) -> libvirt.virConnect:
        return self._links[self.host.name]

    @property
    def domain(self) -> libvirt.virDomain:
        """The domain where it is now."""
        return self._link.lookupByUUIDString(self.uuid)

    def _prepare(self, host: LabHost) -> None:
        """Directory, overlay and config drive, as the guest's definition names them."""
        home = host.instances / NAME
        home.mkdir(exist_ok=True)
        (home / "disk.config").write_bytes(self._drive)
        (home / "console.log").touch()
        host.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.base,
                 f"{INSTANCES}/{NAME}/disk", "1G")

    # -- one host -----------------------------------------------------------------------------

    def pause(self) -> float:
        """virDomainSuspend."""
        return timed(self.domain.suspend)

    def unpause(self) -> float:
        """virDomainResume."""
        return timed(self.domain.resume)

    def suspend(self) -> float:
        """virDomainManagedSave."""
        return timed(self.domain.managedSave)

    def resume(self) -> float:
        """virDomainCreate, which takes what was saved."""
        return timed(self.domain.create)

    def resize(self, ram: int) -> float:
        """Shut down, keep a copy of the disk as the way back, define with other memory, start."""
        def work() -> None:
            self._off()
            home = self.host.instances / NAME
            home.rename(_kept(home))
            shutil.copytree(_kept(home), home)
            self._link.defineXML(self._sized(ram)).create()

        return timed(work)

    def confirm(self) -> float:
        """Remove the copy; libvirt has no part in it."""
        return timed(lambda: shutil.rmtree(_kept(self.host.instances / NAME)))

    def revert(self) -> float:
        """Stop, bring the copy of the disk back, define as before, start."""
        def work() -> None:
            self.domain.destroy()
            home = self.host.instances / NAME
            shutil.rmtree(home)
            _kept(home).rename(home)
            self._link.defineXML(self.xml).create()

        return timed(work)

    def _off(self) -> None:
        """Ask the guest to shut down and wait until it did; again while it does not hear."""
        asked = 0.0
        while self.domain.isActive():
            if time.monotonic() - asked > 5:
                self.domain.shutdown()
                asked = time.monotonic()
            time.sleep(0.02)

    def _sized(self, ram: int) -> str:
        return re.sub(r"<(memory|currentMemory) unit='KiB'>\d+<",
                      lambda m: f"<{m[1]} unit='KiB'>{ram << 10}<", self.xml)

    # -- another host --------------------------------------------------------------------------

    def cold(self, to: str) -> float:
        """Shut down, copy the disks, define and start there, undefine here."""
        target = self.lab.host(to)

        def work() -> None:
            self._off()
            shutil.copytree(self.host.instances / NAME, target.instances / NAME)
            self._links[to].defineXML(self.xml).create()
            self.domain.undefine()

        seconds = timed(work)
        self._left(target)
        return seconds

    def live(self, to: str, shared: bool) -> float:
        """virDomainMigrateToURI3 with the flags and addresses that Magnetar gives it. libvirt's own
        pause limit of 300 ms stays."""
        target = self.lab.host(to)
        if not shared:
            self._prepare(target)
        flags = ALWAYS | libvirt.VIR_MIGRATE_TLS
        flags |= libvirt.VIR_MIGRATE_UNSAFE if shared else libvirt.VIR_MIGRATE_NON_SHARED_INC
        values: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{target.migration_address}",
            libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS: target.migration_address}
        if not shared:
            values[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = ["vda"]
        uri = f"qemu+tls://{target.migration_address}/system"
        domain = self.domain
        seconds = timed(lambda: domain.migrateToURI3(uri, values, flags))
        self._left(target, shared)
        return seconds

    def _left(self, target: LabHost, shared: bool = False) -> None:
        if not shared:
            shutil.rmtree(self.host.instances / NAME)
        self.host = target

    def remove(self) -> None:
        """Nothing of it stays."""
        if self.domain.isActive():
            self.domain.destroy()
        self.domain.undefine()
        for name in (NAME, f"{NAME}_kept"):
            shutil.rmtree(self.host.instances / name, ignore_errors=True)
        for link in self._links.values():
            link.close()


def _kept(home: Path) -> Path:
    return home.with_name(f"{home.name}_kept")


def timed(work: Callable[[], object]) -> float:
    """Seconds that something took."""
    began = time.monotonic()
    work()
    return time.monotonic() - began
