"""A real guest that its owner tends to: interrupted, rescued in both ways, asked by its agent."""

from __future__ import annotations

import re

import libvirt
from lxml import etree

from tests.integration import test_real_guest
from tests.integration.agent import IMAGE
from tests.integration.test_real_guest import NAME
from tests.modes import AGENTS, EVENTLET, once


@once(AGENTS, EVENTLET)
class RealTendingTest(test_real_guest.RealGuest):
    test_life = test_libvirtd_is_absent_at_start = test_libvirtd_dies_during_a_build = None
    test_a_guest_that_stops_by_itself_is_stopped_in_the_record = None

    def do(self, verb: str, vm_state: str, **more) -> dict:
        answer = self.agent.call(f"server.{verb}", server=NAME, **more)
        self.settled(vm_state)
        return answer

    def ticks(self) -> list[int]:
        return [int(number) for number in re.findall(r"TICK (\d+)", self.console())]

    def boots(self) -> int:
        return len(re.findall("GUEST-READY", self.console()))

    def disks(self) -> list[tuple[str, str, str | None]]:
        """(target, file, boot order) of each of the domain's disks."""
        connection = libvirt.open(self.daemon.uri)
        try:
            text = connection.lookupByName(self.shown()["instance_name"]).XMLDesc()
        finally:
            connection.close()
        return [(disk.find("target").get("dev"), disk.find("source").get("file").split("/")[-1],
                 disk.find("boot").get("order") if disk.find("boot") is not None else None)
                for disk in etree.fromstring(text).iter("disk")]

    def test_all_of_it(self):
        self.agent.start()
        self.agent.load_image()
        self.create()
        self.settled("active")
        self.said(r"TICK \d+", 2)
        self.interrupt()
        self.rescue_classic()
        self.rescue_stable()
        self.assertTrue(self.agent.call("audit")["clean"])

    def interrupt(self) -> None:
        self.do("dump", "active")
        self.said("NMI received for unknown reason")

    def rescue_classic(self) -> None:
        own, seen = self.disks(), self.ticks()[-1]
        boots = self.boots()
        self.do("rescue", "rescued", password="word")
        self.assertEqual([("vda", "disk.rescue", "1"), ("vdb", "disk", None),
                          ("sda", "disk.config.rescue", None)], self.disks())
        self.said("GUEST-READY", boots + 1)
        self.do("unrescue", "active")
        self.assertEqual(own, self.disks())
        self.said("GUEST-READY", boots + 2)
        self.agent.until(lambda: self.ticks()[-1] > seen, "the counter on its own disk going on")

    def rescue_stable(self) -> None:
        """The rescue system has no driver for the disk that it was booted from, and so finds the
        guest's data in its place."""
        own, seen, boots = self.disks(), self.ticks()[-1], self.boots()
        with open(IMAGE, "rb") as file:
            self.agent.client.upload("image.create", file, IMAGE.stat().st_size, lambda sent: None,
                                     name="stick", disk_format="qcow2",
                                     properties={"hw_rescue_bus": "sata"})
        self.do("rescue", "rescued", image="stick")
        [(first, root, order), drive, system] = self.disks()
        self.assertEqual((own[0][0], "disk", None), (first, root, order))
        self.assertEqual((own[1][0], "disk.config.rescue"), drive[:2])
        self.assertEqual(("disk.rescue", "1"), system[1:])
        self.said("GUEST-READY", boots + 1)
        self.agent.until(lambda: self.ticks()[-1] > seen, "the guest's counter going on")
        self.do("unrescue", "active")
        self.assertEqual(own, self.disks())
        self.assertEqual(sorted(self.ticks()), self.ticks())
