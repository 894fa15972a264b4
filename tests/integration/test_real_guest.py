"""A real guest's life through the whole agent, and what happens when libvirtd is not there."""

from __future__ import annotations

import re

import libvirt
import testtools

from tests.integration import libvirtd
from tests.integration.agent import RealAgent
from tests.integration.patience import SECONDS
from tests.modes import AGENTS, EVENTLET, once

FOREIGN = """<domain type='qemu'><name>somebody-elses</name>
<uuid>5d1e7a52-0000-4000-8000-000000000001</uuid><memory unit='MiB'>32</memory>
<os><type machine='pc'>hvm</type></os></domain>"""
NAME = "real"
SHUTDOWN = 250  # seconds that a guest has for it
MORE = f"audit_interval = 5\nreport_interval = 2\n[timeouts]\nshutdown = {SHUTDOWN}\n"


class RealGuest(testtools.TestCase):
    MORE = MORE  # further lines of the agent's configuration

    def setUp(self):
        super().setUp()
        reason = libvirtd.missing()
        if reason:
            self.skipTest(reason)
        self.daemon = self.useFixture(libvirtd.PrivateLibvirtd())
        self.agent = self.useFixture(RealAgent(self.daemon.uri, self.MORE))
        self.addOnException(self._show_log)

    def _show_log(self, _) -> None:
        self.addDetail("agent", testtools.content.text_content(self.agent.log()))

    def shown(self) -> dict:
        return self.agent.call("server.show", server=NAME)

    def settled(self, *vm_states: str) -> str:
        """Wait until nothing goes on and it is in one of some states; which one."""
        self.agent.until(
            lambda: self.shown()["vm_state"] in vm_states and self.shown()["task_state"] is None
            and not self.agent.call("op.list"), f"{NAME} {' or '.join(vm_states)}")
        return str(self.shown()["vm_state"])

    def console(self) -> str:
        return self.agent.call("console.log", server=NAME)

    def said(self, text: str, times: int = 1) -> None:
        self.agent.until(lambda: len(re.findall(text, self.console())) >= times,
                         f"'{text}' on the console {times} times")

    def last_tick(self) -> int:
        return int(re.findall(r"TICK (\d+)", self.console())[-1])

    def create(self, networks: object = "none") -> None:
        self.agent.call("server.create", name=NAME, image="tiny", flavor="tiny",
                        networks=networks, config_drive=True)

    def running(self) -> bool:
        connection = libvirt.open(self.daemon.uri)
        try:
            return bool(connection.lookupByName(self.shown()["instance_name"]).isActive())
        finally:
            connection.close()

    def test_life(self):
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        connection.defineXML(FOREIGN)
        self.agent.start()
        self.agent.load_image()
        self.agent.call("network.create", name="lab", subnet="192.168.77.0/24", nat=True)
        self.create(networks=["lab"])
        self.settled("active")
        self.said(f"GUEST-HOSTNAME {NAME}")
        self.said("GUEST-IP .*192.168.77.2/24")
        self.said(r"TICK \d+", 3)
        self.agent.call("server.reboot", server=NAME, hard=False)
        self.settled("active")
        self.said("GUEST-READY", 2)
        self.said(r"TICK \d+", 6)
        before = self.last_tick()
        self.agent.kill()  # the guest does not notice, and the counter on its disk goes on
        self.agent.start()
        self.agent.until(lambda: self.last_tick() > before, "the guest's counter going on")
        self.agent.call("server.stop", server=NAME)
        self.settled("stopped")
        stopped = self.agent.call("op.list", guest=self.shown()["id"], all=True)[-1]
        self.assertThat(stopped["seconds"], testtools.matchers.LessThan(SHUTDOWN))  # by itself
        self.assertFalse(self.running())
        self.agent.call("server.start", server=NAME)
        self.settled("active")
        self.agent.call("server.reboot", server=NAME, hard=True)
        self.settled("active")
        self.assertTrue(self.running())
        audit = self.agent.call("audit")
        self.assertEqual([], audit["findings"])
        self.assertEqual(["somebody-elses"], [d["name"] for d in audit["foreign_domains"]])
        self.agent.call("server.delete", server=NAME)
        self.agent.until(lambda: not self.agent.call("server.list")
                         and not self.agent.call("op.list"), "deleted")
        self.agent.call("network.delete", network="lab")
        self.assertEqual(["somebody-elses"], [d.name() for d in connection.listAllDomains()])
        self.assertEqual([], [n.name() for n in connection.listAllNetworks()
                              if n.name() == "lab"])
        self.assertTrue(self.agent.call("audit")["clean"])

    @once(AGENTS, EVENTLET)
    def test_libvirtd_is_absent_at_start(self):
        self.daemon.stop()
        self.agent.start(wait=False)
        self.agent.until(lambda: self.agent.client.health()["status"] == "starting",
                         "the control socket while the hypervisor is away")
        self.agent.until(lambda: "the agent tries again every" in self.agent.log(),
                         "a word of waiting in the log")
        self.assertThat(self.agent.terminate(), testtools.matchers.LessThan(SECONDS / 6))
        self.agent.start(wait=False)
        self.daemon.start()
        self.agent.until(lambda: self.agent.client.health()["status"] == "serving", "serving")

    @once(AGENTS, EVENTLET)
    def test_libvirtd_dies_during_a_build(self):
        self.agent.start()
        self.agent.load_image()
        self.create()
        self.daemon.kill()  # before the image is in the cache, so before anything is defined
        self.agent.until(lambda: "There is no connection" in self.agent.log()
                         or "no connection to" in self.agent.log(), "the build meeting it")
        self.daemon.start()
        self.settled("active")
        self.assertTrue(self.running())
        self.assertTrue(self.agent.call("audit")["clean"])

    @once(AGENTS)
    def test_a_guest_that_stops_by_itself_is_stopped_in_the_record(self):
        self.agent.start()
        self.agent.load_image()
        self.create()
        self.settled("active")
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        connection.lookupByName(self.shown()["instance_name"]).destroy()
        self.settled("stopped")
        self.assertTrue(self.agent.call("audit")["clean"])
