"""A real guest that its owner tends to: interrupted, rescued in both ways, asked by its agent."""

from __future__ import annotations

import re
import time

import fixtures
import libvirt
import testtools
from lxml import etree
from oslo_config import cfg

from compute import conf as magnetar_conf
from compute.errors import MagnetarError
from compute.rpc import diagnostics
from tests.integration import test_real_guest
from tests.integration.agent import IMAGE
from tests.integration.test_real_guest import NAME
from tests.modes import AGENTS, once
from virt.libvirt.driver import LibvirtDriver
from virt.storage.store import Store

INSIDE = """#!/bin/sh
. /etc/functions
start-agent
changes=0
old=$(grep ^root: /etc/passwd | cut -d: -f2)
while :; do
    new=$(grep ^root: /etc/passwd | cut -d: -f2)
    if [ "$new" != "$old" ]; then
        old=$new changes=$((changes + 1))
        say "GUEST-PASSWORD $new"
        [ $changes -lt 2 ] || { kill -STOP $(pidof qemu-ga); say "GUEST-AGENT-HANGS"; }
    fi
    sleep 1
done
"""


@once(AGENTS)
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

    def setUp(self):
        super().setUp()
        self.addOnException(lambda _: self.addDetail(
            "console", testtools.content.text_content(self.console())))

    def test_all_of_it(self):
        self.agent.start()
        self.agent.load_image()
        self.agent.call("server.create", name=NAME, image="tiny", flavor="tiny", networks="none",
                        config_drive=True, user_data=INSIDE)
        self.settled("active")
        error = self.assertRaises(MagnetarError, self.password, "too-early")
        self.assertEqual("agent_missing", error.code)
        self.said(r"TICK \d+", 2)
        self.interrupt()
        self.figures()
        self.rescue_classic()
        self.rescue_stable()
        self.still()
        self.passwords()
        self.assertTrue(self.agent.call("audit")["clean"])

    def figures(self) -> None:
        found = self.agent.call("server.diagnostics", server=NAME)
        self.assertEqual(("running", "libvirt", "qemu", True, 1, 2, 0), tuple(
            found[name] for name in ("state", "driver", "hypervisor", "config_drive", "num_cpus",
                                     "num_disks", "num_nics")))
        self.assertEqual(192, found["memory_details"]["maximum"])
        self.assertGreater(found["cpu_details"][0]["time"], 10**8)
        self.assertGreater(found["disk_details"][0]["read_bytes"], 1 << 20)
        flat = diagnostics.flat(self.driver().diagnostics(self.shown()["id"]))
        self.assertGreater(flat["vda_read"], 1 << 20)
        self.assertIn("memory-rss", flat)

    def driver(self) -> LibvirtDriver:
        """A driver of our own: what has no verb for tenants is asked of it."""
        conf = cfg.ConfigOpts()
        magnetar_conf.register(conf)
        conf([])
        conf.set_override("state_path", self.useFixture(fixtures.TempDir()).path)
        conf.set_override("connection_uri", self.daemon.uri, group="libvirt")
        driver = LibvirtDriver(conf, Store(conf))
        driver.start(lambda uuid, what: None)
        self.addCleanup(driver.stop)
        return driver

    def still(self) -> None:
        """Frozen, the counter cannot be written, and so does not go on; thawed, it does."""
        driver, uuid = self.driver(), self.shown()["id"]
        self.said("GUEST-AGENT ", 1)
        self.agent.until(lambda: self.froze(driver, uuid), "the guest's agent")
        time.sleep(2)  # what was on its way to the console is there
        before = self.ticks()
        time.sleep(3)
        self.assertEqual(before, self.ticks())
        for _ in range(2):
            driver.thaw(uuid)
        self.agent.until(lambda: len(self.ticks()) > len(before) + 1, "the counter going on")

    @staticmethod
    def froze(driver: LibvirtDriver, uuid: str) -> bool:
        driver.freeze(uuid)
        return True

    def password(self, word: str) -> None:
        self.agent.call("server.set_password", server=NAME, password=word)

    def passwords(self) -> None:
        """The guest tells the encrypted password when it changes; after the second one its agent
        stops to answer."""
        for count, word in enumerate(("opensesame", "another"), 1):
            self.password(word)
            self.said(r"GUEST-PASSWORD \S+", count)
        self.said("GUEST-AGENT-HANGS")
        error = self.assertRaises(MagnetarError, self.password, "unheard")
        self.assertEqual("agent_unresponsive", error.code)
        self.assertEqual(("active", None), (self.shown()["vm_state"], self.shown()["task_state"]))
        self.assertNotIn("opensesame", self.agent.log())

    def interrupt(self) -> None:
        self.do("dump", "active")
        self.said("NMI received for unknown reason")

    def rescue_classic(self) -> None:
        own, seen = self.disks(), self.ticks()[-1]
        boots = self.boots()
        self.do("rescue", "rescued", password="word")
        self.assertEqual([("vda", "disk.rescue", "1"), ("vdb", "disk", None),
                          ("sda", "disk.config.rescue", None)], self.disks())
        self.do("unrescue", "active")  # before it has booted, which the other way shows
        self.assertEqual(own, self.disks())
        self.said("GUEST-READY", boots + 1)
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
