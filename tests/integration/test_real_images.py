"""A real guest whose disk becomes an image while it runs, whatever dies meanwhile."""

from __future__ import annotations

import pathlib
import re
import subprocess

import libvirt

from tests.integration import test_real_guest
from tests.modes import AGENTS, EVENTLET, once

POINTS = ("snapshot.copy.after_intent", "snapshot.upload.after_effect")


@once(AGENTS, EVENTLET)
class RealImagesTest(test_real_guest.RealGuest):
    """One guest goes through all verbs, since most of the time goes by while it boots."""

    test_life = test_libvirtd_is_absent_at_start = test_libvirtd_dies_during_a_build = None
    test_a_guest_that_stops_by_itself_is_stopped_in_the_record = None

    def setUp(self):
        super().setUp()
        self.agent.start()
        self.agent.load_image()
        self.create()
        self.settled("active")
        self.said(r"TICK \d+", 3)

    def images(self, name: str) -> list[dict]:
        return [image for image in self.agent.call("image.list") if image["name"] == name]

    def domain(self) -> libvirt.virDomain:
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        return connection.lookupByName(self.shown()["instance_name"])

    def file(self, image: dict) -> pathlib.Path:
        return self.agent.state / "images" / image["id"]

    def is_whole(self, name: str) -> dict:
        """One active image of this name, sound and standing by itself."""
        [image] = self.images(name)
        self.assertEqual("active", image["status"])
        path = self.file(image)
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
        info = subprocess.run(["qemu-img", "info", "-f", "qcow2", path], check=True, text=True,
                              capture_output=True).stdout
        self.assertNotIn("backing file", info)
        return image

    def goes_on(self) -> None:
        """The guest counts on, was booted once, is persistent; nothing of a copy is left."""
        seen = len(self.ticks())
        self.agent.until(lambda: len(self.ticks()) > seen + 1, "the guest counting")
        self.assertEqual(sorted(self.ticks()), self.ticks())
        self.assertEqual(1, len(re.findall("GUEST-READY", self.console())))
        domain = self.domain()
        self.assertTrue(domain.isPersistent())
        self.assertNotIn("mirror", domain.XMLDesc())
        self.assertEqual([], list(self.agent.state.glob("instances/*/disk.cop*")))
        self.assertEqual([], self.agent.call("audit")["findings"])

    def ticks(self) -> list[int]:
        return [int(number) for number in re.findall(r"TICK (\d+)", self.console())]

    def snapshot(self, name: str) -> None:
        self.agent.call("server.image_create", server=test_real_guest.NAME, name=name)
        self.settled("active")

    def test_all_verbs_that_make_images_and_use_them(self):
        self.snapshot("live")
        self.is_whole("live")
        self.goes_on()
        count = self.ticks()[-1]
        for number, point in enumerate(POINTS):
            self.killed(point, "image_create", name=f"killed-{number}")
            self.settled("active")
            self.is_whole(f"killed-{number}")
        self.goes_on()
        self.rebuilt("live", at_least=count)
        self.shelved(at_least=self.ticks()[-1])

    def killed(self, point: str, verb: str, **args: object) -> None:
        """The agent dies at a point of a verb, and is started again."""
        self.agent.kill()
        self.agent.start(kill_at=point)
        self.agent.ask_and_die(f"server.{verb}", server=test_real_guest.NAME, **args)
        self.agent.start()

    def rebuilt(self, image: str, at_least: int) -> None:
        """New disks from an image of the guest, while the agent dies: it counts on from where the
        image was made."""
        self.killed("rebuild.power.after_effect", "rebuild", image=image)
        self.settled("active")
        self.counts_from(at_least)
        self.said("GUEST-CONFIG-DRIVE")
        self.assertEqual([], list(self.agent.state.glob("instances/*_resize")))

    def counts_from(self, least: int) -> int:
        """The guest booted from disks on which it had counted so far."""
        self.said(r"TICK \d+", 2)
        self.assertGreater(self.ticks()[0], least - 10)
        return self.ticks()[-1]

    def shelved(self, at_least: int) -> None:
        """It leaves the host while the agent dies, and comes back with what it had counted."""
        self.killed("shelve.upload.after_effect", "shelve")
        self.settled("shelved_offloaded")
        for path in ("instances/????????-????-*", "instances/_quarantine/*"):
            self.assertEqual([], list(self.agent.state.glob(path)))
        self.assertEqual([], self.agent.call("audit")["findings"])
        self.agent.call("server.unshelve", server=test_real_guest.NAME)
        self.settled("active")
        self.counts_from(at_least)
        self.assertEqual([], self.images(f"{test_real_guest.NAME}-shelved"))
        [disk] = self.agent.state.glob("instances/????????-????-*/disk")
        self.assertNotIn("backing", subprocess.run(
            ["qemu-img", "info", "-U", disk], check=True, text=True, capture_output=True).stdout)
        self.assertEqual([], self.agent.call("audit")["findings"])
