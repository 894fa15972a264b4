"""A real guest whose NICs come and go, whose consoles are looked at, and that is deleted and
restored."""

from __future__ import annotations

import re
import socket

import libvirt

from compute.errors import Refused
from tests.integration import test_real_guest
from tests.integration.patience import SECONDS
from tests.modes import AGENTS, EVENTLET, once
from virt.xml.domain import Devices, Domain

MORE = "reclaim_instance_interval = 3600\n"


@once(AGENTS, EVENTLET)
class RealNicsTest(test_real_guest.RealGuest):
    test_life = test_libvirtd_is_absent_at_start = test_libvirtd_dies_during_a_build = None
    test_a_guest_that_stops_by_itself_is_stopped_in_the_record = None

    def setUp(self):
        super().setUp()
        config = self.agent.home / "magnetar.conf"
        text = config.read_text().replace("[DEFAULT]\n", f"[DEFAULT]\n{MORE}")
        config.write_text(text.replace("[libvirt]\n", "[libvirt]\nvnc_listen = 127.0.0.1\n")
                          + "\n[spice]\nenabled = true\n")
        self.agent.start()
        self.agent.load_image()
        self.agent.call("network.create", name="lab", subnet="192.168.78.0/24", nat=True)
        self.create(networks=["lab"])
        self.settled("active")
        self.said(r"TICK \d+", 3)

    def nics(self) -> tuple[set[str], set[str]]:
        """MAC addresses of the definition, and of the running guest."""
        found = [self.devices(flags).interfaces for flags in (libvirt.VIR_DOMAIN_XML_INACTIVE, 0)]
        return tuple({nic.mac for nic in listed} for listed in found)

    def devices(self, flags: int) -> Devices:
        """What libvirt says of the guest's devices."""
        connection = libvirt.open(self.daemon.uri)
        try:
            domain = connection.lookupByName(self.shown()["instance_name"])
            return Domain.parse(domain.XMLDesc(flags)).devices
        finally:
            connection.close()

    def assert_nics(self, count: int) -> None:
        """So many, everywhere."""
        ports = {port["mac"] for port in self.agent.call("server.ports",
                                                         server=test_real_guest.NAME)}
        self.assertEqual((count, ports, ports), (len(ports), *self.nics()))
        self.assertEqual([], self.agent.call("audit")["findings"])

    def ended(self, verb: str) -> dict:
        def last():
            return self.agent.call("op.list", guest=self.shown()["id"], all=True)[-1]

        self.agent.until(lambda: last()["verb"] == verb and last()["state"] in ("done", "undone"),
                         f"the end of {verb}")
        return last()

    def remove(self, port: dict) -> None:
        self.agent.call("server.remove_port", server=test_real_guest.NAME, port=port["id"])
        self.assertEqual("done", self.ended("detach_interface")["state"])

    def test_nics_come_and_go_and_a_deleted_guest_comes_back(self):
        first = self.agent.call("server.add_network", server=test_real_guest.NAME, network="lab",
                                fixed_ip="192.168.78.77", tag="back")
        self.assert_nics(2)
        for verb, vm_state in (("suspend", "suspended"), ("resume", "active")):
            self.agent.call(f"server.{verb}", server=test_real_guest.NAME)
            self.settled(vm_state)
        self.assert_nics(2)
        self.remove(first)
        self.assert_nics(1)
        self.consoles()
        for verb, point in (("add_network", "attach_interface.nic.after_intent"),
                            ("remove_port", "detach_interface.nic.after_effect")):
            self.agent.kill()
            self.agent.start(kill_at=point)
            what = {"network": "lab"} if verb == "add_network" else {"port": self.added()}
            self.agent.ask_and_die(f"server.{verb}", server=test_real_guest.NAME, **what)
            self.agent.start()
            self.settled("active")
            self.assert_nics(2 if verb == "add_network" else 1)
        self.assertEqual(1, len(self.taps()))
        self.agent.call("server.delete", server=test_real_guest.NAME)
        self.settled("soft-delete")
        self.assertFalse(self.running())
        self.agent.call("server.restore", server=test_real_guest.NAME)
        self.settled("active")
        self.assert_nics(1)
        self.agent.call("server.delete", server=test_real_guest.NAME, force=True)
        self.agent.until(lambda: not self.agent.call("server.list")
                         and not self.agent.call("op.list"), "deleted")
        self.assertEqual([], self.taps())
        self.assertTrue(self.agent.call("audit")["clean"])

    def consoles(self) -> None:
        """The screen is where its address says; a terminal shows what the log has as well, and
        only one at a time."""
        told = self.agent.call("console.url", server=test_real_guest.NAME)
        ports = {screen.type: screen.port  # in another network namespace: not to be opened
                 for screen in self.devices(0).graphics}
        spice = self.agent.call("console.url", server=test_real_guest.NAME, kind="spice-html5")
        self.assertEqual({"vnc": told["port"], "spice": spice["port"]}, ports)
        guest = self.shown()["id"]
        with self.agent.client.console(guest) as console:
            seen = self.read(console, rb"TICK (\d+)")
            error = self.assertRaises(Refused, self.agent.client.console, guest)
            self.assertEqual("console_busy", error.code)
            with self.agent.client.console(guest, force=True) as other:
                self.read(other, rb"TICK (\d+)")
        self.said(f"TICK {seen}")

    def read(self, console: socket.socket, wanted: bytes) -> str:
        """What a terminal shows in time."""
        console.settimeout(SECONDS)
        text = b""
        while not (found := re.search(wanted + rb"\r?\n", text)):
            data = console.recv(4096)
            self.assertTrue(data, f"the console was closed after {text!r}")
            text += data
        return found[1].decode()

    def added(self) -> str:
        return self.agent.call("server.ports", server=test_real_guest.NAME)[-1]["id"]

    def taps(self) -> list[str]:
        """Tap devices of the private libvirtd's guests."""
        connection = libvirt.open(self.daemon.uri)
        try:
            return [port for network in connection.listAllNetworks()
                    for port in network.listAllPorts()]
        finally:
            connection.close()
