"""Consoles: addresses with tokens for Nova's proxies, and terminals through the control socket."""

from __future__ import annotations

import os
import pty
import socket
import threading
import urllib.parse

from oslo_messaging import ExpectedException

from compute.conf import consoleauth, serial_console, spice, vnc
from compute.errors import Refused
from compute.model import states
from compute.rpc.exceptions import nova_exception
from compute.rpc.serializer import admin_context
from control.cli import console as commands
from control.cli.client import Client
from control.conductor import Conductor
from db.control import consoles
from tests.functional.agent_support import SharedTest
from tests.waiting import PATIENCE, wait_until

HOSTS = {"vnc__server_proxyclient_address": "192.0.2.9",
         "vnc__novncproxy_base_url": "http://proxy.example.org:6080/vnc_auto.html"}


class ConsoleCase(SharedTest):
    options = {**HOSTS, "consoleauth__token_ttl": 60}

    def setUp(self) -> None:
        super().setUp()
        self.host.driver.screens = 5901

    def call(self, uuid: str, method: str, **args):
        return self.cloud.client().call(admin_context(), method,
                                        instance=self.cloud.instance(uuid), **args)

    def validate(self, token: str) -> dict:
        """As a proxy asks."""
        return Conductor(self.control.store).object_class_action_versions(
            admin_context(), "ConsoleAuthToken", "validate", {"ConsoleAuthToken": "1.3"}, [token],
            {})["nova_object.data"]

    def assert_worthless(self, token: str) -> None:
        """It opens nothing."""
        self.assertRaises(ExpectedException, self.validate, token)


class AddressTest(ConsoleCase):
    def test_the_options_have_novas_defaults(self):
        found = {option.name: option.default for option in (*vnc.OPTS, *consoleauth.OPTS)}
        self.assertEqual({"novncproxy_base_url": "http://127.0.0.1:6080/vnc_auto.html",
                          "server_proxyclient_address": "127.0.0.1", "token_ttl": 600}, found)

    def test_a_screens_address_and_the_record_of_its_token(self):
        uuid = self.cloud.boot("screen")
        told = self.call(uuid, "get_vnc_console", console_type="novnc")
        self.assertEqual(("192.0.2.9", 5901, None),
                         (told["host"], told["port"], told["internal_access_path"]))
        base, _, query = told["access_url"].partition("?")
        self.assertEqual("http://proxy.example.org:6080/vnc_auto.html", base)
        self.assertEqual({"path": [f"?token={told['token']}"]}, urllib.parse.parse_qs(query))
        record = self.validate(told["token"])
        self.assertEqual((uuid, "192.0.2.9", 5901, "novnc", base), tuple(
            record[name] for name in ("instance_uuid", "host", "port", "console_type",
                                      "access_url_base")))
        for port, valid in ((5901, True), ("5901", True), (5902, False)):
            self.assertEqual(valid, self.call(uuid, "validate_console_port", port=port,
                                              console_type="novnc"))
        self.assertFalse(self.call(uuid, "validate_console_port", port=5901,
                                   console_type="spice-html5"))

    def test_the_options_of_the_others_have_novas_defaults(self):
        found = {option.name: option.default for option in (*spice.OPTS, *serial_console.OPTS)}
        self.assertEqual({
            "enabled": False, "server_listen": "127.0.0.1",
            "server_proxyclient_address": "127.0.0.1",
            "html5proxy_base_url": "http://127.0.0.1:6082/spice_auto.html",
            "port_range": "10000:20000", "proxyclient_address": "127.0.0.1",
            "base_url": "ws://127.0.0.1:6083/"}, found)

    def test_a_screen_over_spice(self):
        self.cloud.set(spice__server_proxyclient_address="192.0.2.7",
                       spice__html5proxy_base_url="http://p:6082/spice_auto.html")
        uuid = self.cloud.boot("spice")
        told = self.call(uuid, "get_spice_console", console_type="spice-html5")
        self.assertEqual(("192.0.2.7", 5902), (told["host"], told["port"]))
        self.assertEqual(f"http://p:6082/spice_auto.html?token={told['token']}",
                         told["access_url"])
        record = self.validate(told["token"])
        self.assertEqual((5902, "spice-html5"), (record["port"], record["console_type"]))
        for port, valid in ((5902, True), (5901, False)):
            self.assertEqual(valid, self.call(uuid, "validate_console_port", port=port,
                                              console_type="spice-html5"))
        self.assertRaises(nova_exception("ConsoleTypeInvalid"), self.call, uuid,
                          "get_spice_console", console_type="spice")
        self.assertEqual("spice-html5", self.control.console_url(uuid, "spice-html5")["type"])

    def serial(self, **options: object) -> None:
        self.cloud.set(serial_console__enabled=True, **options)
        self.addCleanup(self.cloud.set, serial_console__enabled=False,
                        serial_console__port_range="10000:20000")

    def test_a_serial_console_has_a_port_of_its_own(self):
        before = self.cloud.boot("serial-none")
        self.assertRaises(nova_exception("ConsoleTypeUnavailable"), self.call, before,
                          "get_serial_console", console_type="serial")
        with socket.create_server(("127.0.0.1", 0)) as taken:  # somebody else's
            first = taken.getsockname()[1]
            self.serial(serial_console__port_range=f"{first}:{first + 2}",
                        serial_console__base_url="ws://p:6083/")
            uuids = [self.cloud.boot(f"serial-{number}") for number in range(2)]
            told = [self.call(uuid, "get_serial_console", console_type="serial")
                    for uuid in uuids]
            self.assertEqual([first + 1, first + 2], [one["port"] for one in told])
            self.assertEqual(f"ws://p:6083/?token={told[0]['token']}", told[0]["access_url"])
            self.assertTrue(self.call(uuids[0], "validate_console_port", port=first + 1,
                                      console_type="serial"))
            full = self.cloud.create("serial-full")["id"]
            self.cloud.wait_for(full, states.ERROR)
            self.host.at_rest()
            error = self.host.operations(full, "spawn")[-1].error
            self.assertEqual("no_serial_port", error["code"])
            self.assert_speaks(error)
            for uuid in (uuids[0], full):
                self.control.server_delete(uuid)
            wait_until(lambda: len(self.claims()) == 1)
            self.control.server_reboot(before, hard=True)
            self.cloud.wait_for(before, states.ACTIVE)
            self.host.at_rest()
            self.assertEqual({str(first + 1): before, str(first + 2): uuids[1]}, self.claims())
        self.cloud.set(serial_console__enabled=False)
        self.control.server_reboot(before, hard=True)
        self.cloud.wait_for(before, states.ACTIVE)
        self.host.at_rest()
        self.assertNotIn(before, self.claims().values())
        self.assert_clean()

    def test_a_range_that_is_none(self):
        self.serial(serial_console__port_range="many")
        uuid = self.cloud.create("range")["id"]
        self.cloud.wait_for(uuid, states.ERROR)
        self.host.at_rest()
        self.assert_speaks(self.host.operations(uuid, "spawn")[-1].error)

    def claims(self) -> dict[str, str]:
        return {claim.key: claim.guest
                for claim in self.host.agent.journal.claims(kind="serial_port")}

    def test_tokens_end(self):
        uuid = self.cloud.boot("ends")
        token = self.call(uuid, "get_vnc_console", console_type="novnc")["token"]
        later = consoles.time.time() + 60
        self.patch(consoles.time, "time", lambda: later)
        self.assert_worthless(token)

    def test_and_with_their_server(self):
        uuid = self.cloud.boot("goes")
        token = self.call(uuid, "get_vnc_console", console_type="novnc")["token"]
        self.control.server_delete(uuid)
        wait_until(lambda: self.control.server_show(uuid)["vm_state"] == states.DELETED)
        self.host.at_rest()  # the record says so just before it goes with all that hangs on it
        self.assert_worthless(token)

    def test_what_cannot_be_had(self):
        uuid = self.cloud.boot("none")
        for kind, name in (("xvpvnc", "ConsoleTypeInvalid"),):
            self.assertRaises(nova_exception(name), self.call, uuid, "get_vnc_console",
                              console_type=kind)
        self.host.driver.screens = 0
        self.assertRaises(nova_exception("ConsoleTypeUnavailable"), self.call, uuid,
                          "get_vnc_console", console_type="novnc")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.assertRaises(nova_exception("InstanceNotReady"), self.call, uuid, "get_vnc_console",
                          console_type="novnc")
        self.assertFalse(self.call(uuid, "validate_console_port", port=1, console_type="novnc"))

    def test_as_an_operator(self):
        uuid = self.cloud.boot("url")
        told = self.control.console_url(uuid)
        self.assertEqual(("novnc", "192.0.2.9", 5901), (told["type"], told["host"], told["port"]))
        self.assertIn("vnc_auto.html?path=", told["url"])
        error = self.assertRaises(Refused, self.control.console_url, uuid, "rdp")
        self.assert_speaks(error)


class AttachTest(ConsoleCase):
    def client(self) -> Client:
        return Client(self.host.agent.conf.socket, PATIENCE)

    def test_what_is_typed_reaches_the_guest_and_comes_back(self):
        uuid = self.cloud.boot("typed")
        for guest in (uuid, self.control.server_show(uuid)["instance_name"]):
            with self.client().console(guest) as console:
                console.sendall(b"hello\n")
                self.assertEqual(b"hello\n", console.recv(100))
        self.assertIn("hello", self.control.console_log(uuid))

    def test_what_has_no_console(self):
        uuid = self.cloud.boot("off")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        for guest, code in ((uuid, "invalid_state"), ("nix", "guest_not_found")):
            error = self.assertRaises(Refused, self.client().console, guest)
            self.assertEqual(code, error.code)
            self.assert_speaks(error)

    def test_a_terminal(self):
        """Keys and screen are files here; Ctrl-] ends it, and the terminal is as before."""
        uuid = self.cloud.boot("terminal")
        keys, theirs = pty.openpty()
        screen, write = os.pipe()
        console = self.client().console(uuid)
        ended: list[bool] = []
        thread = threading.Thread(
            target=lambda: ended.append(commands.carry(console, theirs, write)))
        commands.tty.setraw(theirs)
        thread.start()
        os.write(keys, b"ls\r")
        self.assertEqual(b"ls\r", os.read(screen, 100))
        os.write(keys, b"x\x1dnever")
        thread.join(PATIENCE)
        console.close()
        self.assertEqual([True], ended)

    def test_an_agent_that_stops_ends_it(self):
        uuid = self.cloud.boot("stops")
        console = self.client().console(uuid)
        self.host.restart()
        self.assertEqual(b"", console.recv(10))
        console.close()
