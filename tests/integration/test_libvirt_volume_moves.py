"""A guest that moves while it runs, with a volume that each host reaches by a path of its own."""

from dataclasses import replace

import libvirt

from compute.model.volume import Attached, Volume
from tests.integration.move_case import MoveCase
from tests.integration.repeats import repeated
from tests.modes import EVENTLET, NATIVE, once
from virt.xml.domain import Domain

SIZE = 8 << 20
ID = "c0ffee00-0000-4000-8000-000000000001"


@once(NATIVE, EVENTLET)
class TestVolumeMigration(MoveCase):
    def connected(self, side, uuid):
        """The volume, as a host has it once it is connected there."""
        path = self.base / f"volumes-{side.host.uri[-1]}-{id(side)}"
        path.symlink_to(self.base / "volumes")
        info = {"driver_volume_type": "local", "serial": ID, "data": {
            "device_path": str(path / "one"), "format": "raw"}}
        volume = Volume(ID, connection=info, target="vdb")
        return Attached(volume, side.driver.connect_volume(volume, uuid))

    def paths(self, side, guest):
        """Where the volume is, in the definition and in the running guest."""
        domain = side.driver.domains.required(guest.uuid)
        found = []
        for flags in (libvirt.VIR_DOMAIN_XML_INACTIVE, 0):
            disks = Domain.parse(domain.XMLDesc(flags)).devices.disks
            found += [disk.source for disk in disks if disk.serial == ID]
        return found

    @repeated
    def test_its_disks_are_copied_and_its_volume_is_not(self):
        volumes = self.base / "volumes"
        volumes.mkdir()
        (volumes / "one").write_bytes(b"as it was".ljust(SIZE, b"\0"))
        (volumes / "one").chmod(0o666)
        guest = self.guest(self.a)
        here, there = self.connected(self.a, guest.uuid), self.connected(self.b, guest.uuid)
        self.a.driver.attach_volume(guest, here.volume, here.source)
        self.assertEqual([here.source.path] * 2, self.paths(self.a, guest))
        before = max(self.ticks(self.a, guest))
        plan = self.plan(guest, self.a, self.b, to=replace(guest, volumes=(there,)))
        self.assertEqual(("vda",), plan.copy_disks)
        self.a.driver.migrate(guest.uuid, plan)
        self.ends(self.a, guest)
        self.is_only_on(self.b, self.a, guest)
        self.b.driver.arrived(guest)
        self.assertEqual([there.source.path] * 2, self.paths(self.b, guest))
        self.counts_on(self.b, guest, before)
        self.assertEqual(b"as it was", (volumes / "one").read_bytes()[:9])
        self.b.driver.power_off(guest.uuid)
        self.b.driver.detach_volume(guest.uuid, there.volume)
        self.assertEqual([], [p for p in self.definition(guest) if p.serial == ID])

    def definition(self, guest):
        text = self.b.driver.domains.required(guest.uuid).XMLDesc(
            libvirt.VIR_DOMAIN_XML_INACTIVE)
        return Domain.parse(text).devices.disks
