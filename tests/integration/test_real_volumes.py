"""A real guest whose volumes come, grow, are exchanged and go; and one that boots from a volume."""

from __future__ import annotations

import os

import libvirt

from tests.integration import test_real_guest
from tests.integration.test_real_guest import NAME
from tests.modes import AGENTS, EVENTLET, once
from virt.xml.disk import Disk
from virt.xml.domain import Domain

GIB = 1 << 30


@once(AGENTS, EVENTLET)
class RealVolumesTest(test_real_guest.RealGuest):
    test_life = test_libvirtd_is_absent_at_start = test_libvirtd_dies_during_a_build = None
    test_a_guest_that_stops_by_itself_is_stopped_in_the_record = None

    def setUp(self):
        super().setUp()
        self.agent.start()
        self.agent.load_image()

    def disks(self, flags: int) -> dict[str, Disk]:
        """What libvirt says of the guest's volumes, by id."""
        connection = libvirt.open(self.daemon.uri)
        try:
            domain = connection.lookupByName(self.shown()["instance_name"])
            found = Domain.parse(domain.XMLDesc(flags)).devices.disks
            return {disk.serial: disk for disk in found if disk.serial}
        finally:
            connection.close()

    def size(self, target: str) -> int:
        """Bytes that the running guest sees of a disk."""
        connection = libvirt.open(self.daemon.uri)
        try:
            return connection.lookupByName(self.shown()["instance_name"]).blockInfo(target)[0]
        finally:
            connection.close()

    def volume(self, name: str, **how) -> str:
        made = self.agent.call("volume.create", name=name, **{"size": 1, **how})
        self.agent.until(lambda: self.status(made["id"]) == "available", f"volume {name}")
        return made["id"]

    def status(self, volume: str) -> str:
        return self.agent.call("volume.show", volume=volume)["status"]

    def path(self, volume: str) -> str:
        """The file of a volume of the embedded service."""
        found = [os.path.join(where, name) for where, _, names in os.walk(self.agent.home)
                 for name in names if name.startswith(volume)]
        return os.path.realpath(found[0])

    def assert_has(self, **volumes: str) -> None:
        """The guest has these volumes, id by target, everywhere; and nothing is amiss."""
        self.settled("active")
        for flags in (libvirt.VIR_DOMAIN_XML_INACTIVE, 0):
            found = {disk.target: disk.source for disk in self.disks(flags).values()}
            wanted = {target: self.path(volume) for target, volume in volumes.items()}
            self.assertEqual(wanted, {k: os.path.realpath(v) for k, v in found.items()})
        listed = self.agent.call("server.volumes", server=NAME)
        self.assertEqual(set(volumes.values()), {one["volume_id"] for one in listed}, listed)
        self.assertEqual({"in-use"}, {self.status(volume) for volume in volumes.values()}
                         or {"in-use"})
        self.assertEqual([], self.agent.call("audit")["findings"])

    def ended(self, verb: str) -> dict:
        def last():
            return self.agent.call("op.list", guest=self.shown()["id"], all=True)[-1]

        self.agent.until(lambda: last()["verb"] == verb and last()["state"] in ("done", "undone"),
                         f"the end of {verb}")
        self.assertEqual("done", last()["state"], last())
        return last()

    def test_volumes_come_grow_are_exchanged_and_go(self):
        self.create()
        self.settled("active")
        self.said("GUEST-READY")
        one, two, cow = self.volume("one"), self.volume("two"), self.volume(
            "cow", disk_format="qcow2")
        with open(self.path(one), "r+b") as file:
            file.write(b"written before")
        self.agent.call("server.add_volume", server=NAME, volume=one, tag="data")
        self.ended("attach_volume")
        self.assert_has(vdb=one)
        self.agent.call("server.add_volume", server=NAME, volume=cow)
        self.ended("attach_volume")
        self.assert_has(vdb=one, vdc=cow)
        self.agent.call("volume.set", volume=one, size=2)
        self.ended("extend_volume")
        self.assertEqual(2 * GIB, self.size("vdb"))
        self.agent.call("volume.set", volume=two, size=2)
        self.agent.call("server.swap_volume", server=NAME, old=one, new=two)
        self.ended("swap_volume")
        self.agent.until(lambda: self.status(one) == "available", "the old volume back")
        with open(self.path(two), "rb") as file:
            self.assertEqual(b"written before", file.read(14))
        self.assertEqual({one, cow}, set(self.disks(0)))  # the guest's name for it stays
        self.settled("active")
        self.agent.call("server.reboot", server=NAME, hard=True)
        self.assert_has(vdb=two, vdc=cow)
        self.assertEqual({two, cow}, set(self.disks(0)))
        self.said("GUEST-READY", 2)  # else it cannot let go of a disk
        for volume, point in ((two, "volume.after_effect"), (cow, "connection.after_intent")):
            self.agent.kill()
            self.agent.start(kill_at=f"detach_volume.{point}")
            self.agent.ask_and_die("server.remove_volume", server=NAME, volume=volume)
            self.agent.start()
            self.agent.until(lambda volume=volume: self.status(volume) == "available", "it back")
        self.assert_has()
        self.agent.kill()
        self.agent.start(kill_at="attach_volume.volume.after_effect")
        self.agent.ask_and_die("server.add_volume", server=NAME, volume=cow)
        self.agent.start()
        self.agent.until(lambda: self.status(cow) == "in-use", "it attached")
        self.assert_has(vdb=cow)
        self.agent.call("server.delete", server=NAME)
        self.agent.until(lambda: not self.agent.call("server.list")
                         and not self.agent.call("op.list"), "deleted")
        self.assertEqual({"available"}, {self.status(v) for v in (one, two, cow)})
        self.assertTrue(self.agent.call("audit")["clean"])

    def test_a_guest_boots_from_a_volume(self):
        self.agent.call(
            "server.create", name=NAME, image="tiny", flavor="tiny", networks="none",
            config_drive=True, boot_from_volume=1)
        self.settled("active")
        [root] = [one["volume_id"] for one in self.agent.call("server.volumes", server=NAME)]
        self.said(f"GUEST-HOSTNAME {NAME}")
        self.said(r"TICK \d+", 2)
        self.assert_has(vda=root)
        self.agent.call("server.stop", server=NAME)
        self.settled("stopped")
        self.agent.call("server.start", server=NAME)
        self.assert_has(vda=root)
        self.said("GUEST-READY", 2)
        self.agent.call("server.delete", server=NAME)
        self.agent.until(lambda: not self.agent.call("server.list")
                         and not self.agent.call("op.list"), "deleted")
        self.assertTrue(self.agent.call("audit")["clean"])
