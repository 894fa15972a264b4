"""Real guests asleep: their counter and their console show that nothing was booted, nothing went
back, whatever died meanwhile."""

from __future__ import annotations

import re
import time

import libvirt
import testtools

from compute.errors import MagnetarError
from tests.integration import test_real_guest
from tests.integration.repeats import Late, Repeating
from tests.modes import AGENTS, EVENTLET, once

TASKS = {"pause": "paused", "unpause": "active", "suspend": "suspended", "resume": "active"}


class RealSleepTest(test_real_guest.RealGuest, Repeating):
    test_life = test_libvirtd_is_absent_at_start = test_libvirtd_dies_during_a_build = None
    test_a_guest_that_stops_by_itself_is_stopped_in_the_record = None

    def setUp(self):
        super().setUp()
        self.agent.start()
        self.agent.load_image()
        self.create()
        self.settled("active")
        self.said(r"TICK \d+", 3)

    def ticks(self) -> list[int]:
        return [int(number) for number in re.findall(r"TICK (\d+)", self.console())]

    def do(self, verb: str) -> None:
        self.agent.call(f"server.{verb}", server=test_real_guest.NAME)
        self.settled(TASKS[verb])

    def goes_on(self) -> None:
        """It counts, never went back, and was booted once only; every invariant holds."""
        seen = len(self.ticks())
        self.agent.until(lambda: len(self.ticks()) > seen + 1, "the guest counting")
        self.assertEqual(sorted(self.ticks()), self.ticks())
        self.assertEqual(1, len(re.findall("GUEST-READY", self.console())))
        self.assertEqual([], self.agent.call("audit")["findings"])

    def in_the_save(self) -> str:
        """Ask for a suspend, and return in the middle of the save; returns the operation."""
        self.agent.call("server.suspend", server=test_real_guest.NAME)
        saves: list[str] = []

        def begun() -> bool:
            saves[:] = [op["id"] for op in self.agent.call("op.list") if op["step"] == "memory"]
            return bool(saves) or self.shown()["vm_state"] == "suspended"

        self.agent.until(begun, "the save")
        if not saves:
            raise self.late()
        time.sleep(0.4)
        return saves[0]

    def late(self) -> Late:
        """The guest is saved already; let it go on, for another attempt."""
        self.settled("suspended")
        self.do("resume")
        return Late("the guest was saved already")

    def abort_a_save(self) -> None:
        operation = self.in_the_save()
        try:
            self.agent.call("op.abort", op=operation)
        except MagnetarError as error:
            self.addDetail("abort", testtools.content.text_content(str(error)))
        if self.settled("active", "suspended") == "suspended":
            raise self.late()

    def domain(self) -> libvirt.virDomain:
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        return connection.lookupByName(self.shown()["instance_name"])

    @once(AGENTS, EVENTLET)
    def test_all_four_verbs_and_agents_killed_in_them(self):
        for verb in TASKS:
            self.do(verb)
        self.goes_on()
        for verb, point in (("suspend", "suspend.memory.after_intent"),
                            ("resume", "resume.power.after_effect"),
                            ("suspend", "suspend.memory.after_effect"),
                            ("resume", "resume.power.after_intent")):
            self.agent.kill()
            self.agent.start(kill_at=point)
            self.agent.ask_and_die(f"server.{verb}", server=test_real_guest.NAME)
            self.agent.start()
            self.settled(TASKS[verb])
        self.goes_on()

    @once(AGENTS)
    def test_a_save_is_aborted_and_outlives_agent_and_libvirtd(self):
        self.in_time(self.abort_a_save)
        self.goes_on()
        self.in_time(self.in_the_save)
        self.agent.kill()
        self.agent.start()
        self.settled("suspended")
        self.do("resume")
        self.goes_on()
        self.in_time(self.in_the_save)
        self.daemon.kill()
        self.daemon.start()
        self.settled("suspended")
        self.do("resume")
        self.goes_on()

    @once(AGENTS)
    def test_what_somebody_does_with_virsh(self):
        domain = self.domain()
        domain.suspend()
        self.agent.until(lambda: "stands still" in str(self.agent.call("audit")["findings"]),
                         "the word that somebody paused it")
        domain.resume()
        domain.managedSave(0)
        self.settled("suspended")
        self.do("resume")
        self.goes_on()
        self.do("suspend")
        domain.managedSaveRemove()
        self.agent.call("server.resume", server=test_real_guest.NAME)
        self.settled("error")
        self.assertIn("saved memory", self.shown()["fault"]["message"])
        self.agent.call("server.reboot", server=test_real_guest.NAME, hard=True)
        self.settled("active")
        self.said("GUEST-READY", 2)
