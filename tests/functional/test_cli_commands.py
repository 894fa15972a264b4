"""Commands from the words typed to the call made, and from the answer to what is printed."""

import base64
import json

import fixtures

from compute.errors import Refused
from control.cli.app import COMMANDS
from tests.functional.cli_support import FAILED, IMAGE, NEEDS, NOT_FOUND, OP, WEB, CliCase, server

SERVER_TABLE = f"""\
+--------------------------------------+------+--------+------------------------+-------+--------+
| ID                                   | Name | Status | Networks               | Image | Flavor |
+--------------------------------------+------+--------+------------------------+-------+--------+
| {WEB} | web  | ACTIVE | lan=10.0.0.2, 10.0.0.3 | tiny  | small  |
+--------------------------------------+------+--------+------------------------+-------+--------+
"""
IMAGE_TABLE = f"""\
+------------------+--------------------------------------+
| Field            | Value                                |
+------------------+--------------------------------------+
| container_format | bare                                 |
| disk_format      | qcow2                                |
| hash_value       | 0123456789abcdef…                    |
| id               | {IMAGE["id"]} |
| min_disk         | 1 GiB                                |
| min_ram          | 0 B                                  |
| name             | tiny                                 |
| properties       | hw_disk_bus=virtio                   |
| size             | 1.5 MiB                              |
| status           | active                               |
+------------------+--------------------------------------+
"""
OP_LINE = f"{OP['id']} spawn {WEB} running disks 2/6 2026-11-20T10:00:00.000+00:00 None\n"


class Base(CliCase):
    def setUp(self):
        super().setUp()
        self.serve()

    def called(self, *words: str):
        """The one call that a command makes."""
        self.plane.calls.clear()
        self.ok(*words)
        self.assertEqual(1, len(self.plane.calls), self.plane.calls)
        return self.plane.calls[0]


class OutputTest(Base):
    def test_tables_for_people(self):
        self.assertEqual(SERVER_TABLE, self.ok("server", "list"))
        self.assertEqual(IMAGE_TABLE, self.ok("image", "show", "tiny"))

    def test_data_for_machines(self):
        self.assertEqual(
            [{"ID": WEB, "Name": "web", "Status": "ACTIVE", "Image": "tiny", "Flavor": "small",
              "Networks": {"lan": ["10.0.0.2", "10.0.0.3"]}}],
            json.loads(self.ok("server", "list", "-f", "json")),
        )  # fmt: skip
        self.assertEqual(IMAGE, json.loads(self.ok("image", "show", "tiny", "-f", "json")))
        self.assertEqual(server(), json.loads(self.ok("server", "show", "web", "-f", "json")))
        self.assertIn("min_disk: 1\n", self.ok("image", "show", "tiny", "-f", "yaml"))

    def test_values_and_columns(self):
        words = ("server", "list", "-f", "value", "-c", "ID", "-c", "Name")
        self.assertEqual(f"{WEB} web\n", self.ok(*words))
        self.assertEqual(
            "ACTIVE\n", self.ok("server", "show", "web", "-f", "value", "-c", "status")
        )
        self.assertEqual('"Name"\n"tiny"\n', self.ok("image", "list", "-f", "csv", "-c", "Name"))
        self.assertEqual(OP_LINE, self.ok("op", "list", "-f", "value"))

    def test_an_unknown_column_is_wrong_usage(self):
        code, out, err = self.run_cli("server", "list", "-c", "Colour")
        self.assertEqual((2, ""), (code, out))
        self.assertIn("Recognized columns", err)

    def test_an_empty_list(self):
        self.plane.answers["server.list"] = []
        self.assertEqual("[]\n", self.ok("server", "list", "-f", "json"))

    def test_long_list_shows_where_it_is(self):
        row = json.loads(self.ok("server", "list", "--long", "-f", "json"))[0]
        self.assertEqual(
            ("h1", "running", None), (row["Host"], row["Power State"], row["Task State"])
        )

    def test_console_log_is_as_it_is(self):
        self.plane.answers["console.log"] = "a\x1b[1m\nb"
        self.assertEqual("a\x1b[1m\nb\n", self.ok("console", "log", "show", "web"))
        self.assertEqual(("console.log", {"server": "web", "lines": 5}),
                         self.called("console", "log", "show", "--lines", "5", "web"))  # fmt: skip

    def test_reports_for_people(self):
        self.plane.answers["doctor"] = {
            "healthy": False,
            "checks": [
                {"check": "hypervisor", "result": "ok", "found": "it answers", "next": ""},
                {"check": "virtlockd", "result": "wrong", "found": "it does not run",
                 "next": "Start virtlockd."},
            ],
        }  # fmt: skip
        self.assertEqual(
            "Healthy  no\n\nChecks\n"
            "  [ok] hypervisor: it answers\n"
            "  [wrong] virtlockd: it does not run\n"
            "      Start virtlockd.\n",
            self.ok("doctor"),
        )
        self.assertEqual(self.plane.answers["doctor"], json.loads(self.ok("doctor", "-f", "json")))

    def test_explain(self):
        error = {"kind": "retryable", "code": "disk_full", "what": "The disk is full.",
                 "now": "Nothing changed.", "next": "Free space."}  # fmt: skip
        self.plane.answers["explain"] = {
            "guest": WEB,
            "name": None,
            "operation": {**OP, "error": error},
            "steps": [
                {"step": "claim", "state": "done", "seconds": 0.01, "error": None},
                {"step": "disks", "state": "intended", "seconds": None, "error": error},
            ],
            "facts": [],
            "verdict": {"act": "continue", "reason": "A worker is at it."},
            "next": "It is tried again in 3 s.",
        }
        lines = self.ok("explain", "web").splitlines()
        self.assertEqual(f"Guest  {WEB}", lines[0])
        self.assertEqual("Next   It is tried again in 3 s.", lines[1])
        self.assertIn("  Step   State     Seconds  Error", lines)
        self.assertIn("  disks  intended           The disk is full.", lines)
        self.assertIn("    [retryable] The disk is full.", lines)
        self.assertEqual(["Facts", "  none"], lines[lines.index("Facts") :][:2])


class CallTest(Base):
    def test_server_create(self):
        self.plane.answers["server.create"] = server(status="BUILD")
        data = self.file("data", b"#!/bin/sh\n\xff")
        self.assertEqual(
            ("server.create", {
                "name": "web", "image": "tiny", "flavor": "small", "networks": ["a", "b"],
                "user_data": base64.b64encode(b"#!/bin/sh\n\xff").decode(), "config_drive": True,
                "properties": {"role": "front", "note": "x=y"}, "hints": {"group": "g"},
                "key_name": "k", "availability_zone": "z", "request_id": "r-1",
            }),
            self.called(
                "server", "create", "--image", "tiny", "--flavor", "small", "--network", "a",
                "--network", "b", "--user-data", data, "--config-drive", "--property",
                "role=front", "--property", "note=x=y", "--hint", "group=g", "--key-name", "k",
                "--availability-zone", "z", "--request-id", "r-1", "web",
            ),
        )  # fmt: skip

    def test_what_is_not_given_is_left_to_the_control_plane(self):
        self.plane.answers["server.create"] = server()
        create = ("server", "create", "--image", "i", "--flavor", "f")
        wanted = {"name": "n", "image": "i", "flavor": "f", "properties": {}, "hints": {}}
        self.assertEqual(("server.create", wanted), self.called(*create, "n"))
        self.assertEqual(("server.create", {**wanted, "networks": []}),
                         self.called(*create, "--nic", "none", "n"))  # fmt: skip
        self.assertEqual(
            ("server.create", {**wanted, "networks": ["a", {"port": "p"}, "b"]}),
            self.called(*create, "--network", "a", "--port", "p", "--network", "b", "n"))
        key = self.file("key.pub", b"ssh-ed25519 AAAA me\n")
        self.assertEqual(("server.create", {**wanted, "public_key": "ssh-ed25519 AAAA me"}),
                         self.called(*create, "--public-key", key, "n"))  # fmt: skip

    def test_verbs_go_to_the_server_that_was_meant(self):
        for words, method, extra in (
            (["start"], "server.start", {}),
            (["stop"], "server.stop", {}),
            (["delete"], "server.delete", {}),
            (["delete", "--force"], "server.delete", {"force": True}),
            (["restore"], "server.restore", {}),
            (["reboot"], "server.reboot", {"hard": False}),
            (["reboot", "--soft"], "server.reboot", {"hard": False}),
            (["reboot", "--hard"], "server.reboot", {"hard": True}),
        ):
            self.plane.calls.clear()
            self.ok("server", *words, "web")
            self.assertEqual(
                [("server.show", {"server": "web"}), (method, {"server": WEB, **extra})],
                self.plane.calls,
            )

    def test_nics_and_consoles(self):
        port = {"id": "p", "name": "n", "network": "lan", "mac": "m", "address": "10.0.0.9",
                "tag": None, "request_id": "req-1"}
        url = {"type": "novnc", "url": "http://p/?path=x", "host": "h", "port": 5900}
        self.plane.answers |= {"server.ports": [port], "server.add_network": port,
                               "server.add_port": port, "server.remove_port": port,
                               "server.remove_network": [port], "console.url": url}
        for words, method, args in (
                (["add", "network", "--tag", "t"], "server.add_network",
                 {"network": "x", "tag": "t"}),
                (["add", "fixed", "ip", "--fixed-ip-address", "10.0.0.9"], "server.add_network",
                 {"network": "x", "fixed_ip": "10.0.0.9"}),
                (["add", "port"], "server.add_port", {"port": "x"}),
                (["add", "port", "--tag", "t"], "server.add_port", {"port": "x", "tag": "t"}),
                (["remove", "network"], "server.remove_network", {"network": "x"}),
                (["remove", "port"], "server.remove_port", {"port": "x"})):
            self.assertEqual((method, {"server": "web", **args}),
                             self.called("server", *words, "web", "x"))
        self.assertIn("10.0.0.9", self.ok("server", "port", "list", "web"))
        self.assertIn("http://p/?path=x", self.ok("console", "url", "show", "--novnc", "web"))

    def test_a_removed_nic_is_waited_for(self):
        answer = {"id": "p", "request_id": "req-1"}
        self.plane.answers["server.remove_port"] = answer
        event = {"event": "compute_detach_interface", "result": None, "details": None}

        def action(**changes):
            return [{"action": "detach_interface", "request_id": "req-1",
                     "events": [{**event, **changes}]}]

        self.plane.script("server.actions", [], action(), action(result="Success"))
        self.ok("server", "remove", "port", "--wait", "web", "p")
        self.plane.script("server.actions", action(result="Error", details="It stays."))
        code, _, err = self.run_cli("server", "remove", "port", "--wait", "web", "p")
        self.assertEqual(1, code)
        self.assertIn("It stays.", err)

    def test_one_failure_does_not_keep_the_others_from_it(self):
        self.plane.script("server.show", NOT_FOUND, server())
        code, out, err = self.run_cli("server", "delete", "nix", "web")
        self.assertEqual((1, ""), (code, out))
        self.assertIn("There is no server nix.\nNothing was done.\nSee", err)
        self.assertEqual(("server.delete", {"server": WEB}), self.plane.calls[-1])

    def test_image_create(self):
        data = bytes(range(256)) * 5000
        self.plane.answers["image.create"] = IMAGE
        path = self.file("image", data)
        call = self.called("image", "create", "--file", path, "--disk-format", "raw", "--min-ram",
                           "64", "--property", "hw_disk_bus=scsi", "t\u00efny")  # fmt: skip
        self.assertEqual(
            ("image.create", {"name": "t\u00efny", "disk_format": "raw", "min_disk": 0,
                              "min_ram": 64, "properties": {"hw_disk_bus": "scsi"}}),
            call,
        )  # fmt: skip
        self.assertEqual(data, self.plane.uploaded)

    def test_a_refused_upload_says_why(self):
        self.plane.answers["image.create"] = FAILED
        path = self.file("image", b"x" * (6 << 20))
        code, _, err = self.run_cli("image", "create", "--file", path, "tiny")
        self.assertEqual((1, "It broke.\nIt is as before.\nMend it.\n"), (code, err))

    def test_simple_things(self):
        row = {"id": "1", "name": "n"}
        for noun in ("flavor", "network", "port", "keypair", "group", "host"):
            self.plane.answers |= {f"{noun}.{verb}": row for verb in ("create", "show")}
            self.plane.answers[f"{noun}.list"] = [row]
        key = self.file("key.pub", b"ssh-ed25519 AAAA\n")
        flavor = {"name": "n", "ram": 64, "disk": 2, "vcpus": 3, "ephemeral": 0, "swap": 0}
        for words, method, args in (
            ("flavor create --ram 64 --disk 2 --vcpus 3 --property a=b n", "flavor.create",
             {**flavor, "properties": {"a": "b"}}),
            ("flavor show n", "flavor.show", {"flavor": "n"}),
            ("flavor delete n", "flavor.delete", {"flavor": "n"}),
            ("network create --subnet 10.0.0.0/24 --nat n", "network.create",
             {"name": "n", "subnet": "10.0.0.0/24", "nat": True}),
            ("network create --bridge br0 --subnet 10.0.0.0/24 n", "network.create",
             {"name": "n", "subnet": "10.0.0.0/24", "bridge": "br0"}),
            ("network list", "network.list", {}),
            ("network delete n", "network.delete", {"network": "n"}),
            ("port create --network lan n", "port.create", {"name": "n", "network": "lan"}),
            ("port create --network lan --fixed-ip ip-address=10.0.0.9 --mac-address m n",
             "port.create", {"name": "n", "network": "lan", "fixed_ip": "10.0.0.9", "mac": "m"}),
            ("port create --network lan --fixed-ip 10.0.0.9 --mac m n",
             "port.create", {"name": "n", "network": "lan", "fixed_ip": "10.0.0.9", "mac": "m"}),
            ("port list --network lan --server web", "port.list",
             {"network": "lan", "server": "web"}),
            ("port show n", "port.show", {"port": "n"}),
            ("port delete n", "port.delete", {"port": "n"}),
            (f"keypair create --public-key {key} n", "keypair.create",
             {"name": "n", "public_key": "ssh-ed25519 AAAA"}),
            ("keypair delete n", "keypair.delete", {"keypair": "n"}),
            ("server group create --policy affinity n", "group.create",
             {"name": "n", "policy": "affinity"}),
            ("server group delete n", "group.delete", {"group": "n"}),
            ("host show h", "host.show", {"host": "h"}),
            ("host disable --reason broken h", "host.disable", {"host": "h", "reason": "broken"}),
            ("host enable h", "host.enable", {"host": "h"}),
            ("host set --availability-zone z h", "host.set_zone",
             {"host": "h", "availability_zone": "z"}),
            ("image delete i", "image.delete", {"image": "i"}),
        ):  # fmt: skip
            self.assertEqual((method, args), self.called(*words.split()))
        for noun in ("flavor", "network", "port", "keypair", "server group", "host"):
            self.assertIn("|", self.ok(*noun.split(), "list"))

    def test_operations(self):
        self.plane.answers |= {"op.show": {**OP, "steps": []}, "op.abort": OP, "op.resolve": OP}
        self.assertEqual(("op.list", {"all": True}), self.called("op", "list", "--all"))
        self.assertEqual(("op.list", {"all": False, "guest": WEB}),
                         self.called("op", "list", "--guest", WEB))  # fmt: skip
        self.ok("op", "list", "--guest", "web")
        self.assertEqual(("op.list", {"all": False, "guest": WEB}), self.plane.calls[-1])
        self.assertEqual(("op.show", {"op": "0f0f"}), self.called("op", "show", "0f0f"))
        self.assertEqual(("op.abort", {"op": "0f0f"}), self.called("op", "abort", "0f0f"))
        resolve = ("op", "resolve", "0f0f", "--as", "done", "--reason", "seen with virsh")
        self.assertEqual(
            ("op.resolve", {"op": "0f0f", "as_": "done", "reason": "seen with virsh"}),
            self.called(*resolve),
        )
        self.assertEqual(  # as messages say it
            ("op.resolve", {"op": "0f0f", "as_": "retry", "reason": ""}),
            self.called("op", "resolve", "0f0f", "--as", "retry"),
        )

    def test_a_socket_where_nobody_knows_the_command(self):
        unknown = Refused("There is no method 'x'.", code="unknown_method")
        for words, method in ((("audit",), "audit"), (("op", "list"), "op.list"),
                              (("explain", "web"), "server.explain")):
            self.plane.answers |= {method: unknown, "explain": unknown}
            code, _, err = self.run_cli(*words)
            self.assertEqual(1, code)
            self.assertIn("Only the agent of a host", err)
            self.assertIn("--socket", err)
        self.plane.answers["server.list"] = unknown
        self.assertIn("Only a control plane", self.run_cli("server", "list")[2])

    def test_a_control_plane_alone_lets_the_host_explain(self):
        self.plane.answers |= {
            "explain": Refused("There is no method 'explain'.", code="unknown_method"),
            "server.explain": {"guest": WEB, "next": "Nothing."},
        }
        self.assertIn("Nothing.", self.ok("explain", "web"))
        self.assertEqual(("server.explain", {"server": "web"}), self.plane.calls[-1])

    def test_an_agent_without_a_control_plane_lists_by_id(self):
        self.plane.answers["server.show"] = NOT_FOUND
        self.ok("op", "list", "--guest", "instance-00000001")
        self.assertEqual(("op.list", {"all": False, "guest": "instance-00000001"}),
                         self.plane.calls[-1])  # fmt: skip

    def test_events(self):
        self.plane.answers["server.actions"] = [
            {"action": "create", "request_id": "r", "message": None, "start_time": "t",
             "finish_time": None, "events": [{"event": "spawn", "host": "h1", "result": "Success",
                                              "start_time": "t1", "finish_time": "t2"}]},
            {"action": "stop", "request_id": "s", "message": None, "start_time": "t3",
             "finish_time": None, "events": []},
        ]  # fmt: skip
        rows = json.loads(self.ok("server", "event", "list", "web", "-f", "json"))
        self.assertEqual([("create", "spawn", "t1"), ("stop", None, "t3")],
                         [(r["Action"], r["Event"], r["Start Time"]) for r in rows])  # fmt: skip


class FailureTest(Base):
    def test_all_kinds_are_told_in_three_sentences(self):
        for error in (NOT_FOUND, FAILED, NEEDS):
            self.plane.answers["server.show"] = error
            code, out, err = self.run_cli("server", "show", "nix")
            self.assertEqual((1, "", f"{error.what}\n{error.now}\n{error.next}\n"),
                             (code, out, err))  # fmt: skip

    def test_an_answer_that_is_not_understood(self):
        self.plane.answers["server.show"] = {"id": WEB}
        code, _, err = self.run_cli("server", "stop", "--wait", "web")
        self.assertEqual(1, code)
        self.assertIn("not understood: KeyError", err)


class UsageTest(CliCase):
    def usage(self, *words: str) -> str:
        code, out, err = self.run_cli(*words)
        self.assertEqual((2, []), (code, self.plane.calls))
        return out + err

    def test_wrong_usage_ends_with_2_and_asks_nobody(self):
        create = ("server", "create", "--image", "i", "--flavor", "f", "n")
        self.assertIn("required", self.usage("server", "create"))
        self.assertIn("KEY=VALUE", self.usage(*create, "--property", "x"))
        self.assertIn("given twice", self.usage(*create, "--hint", "a=1", "--hint", "a=2"))
        self.assertIn("exclude", self.usage(*create, "--nic", "none", "--network", "a"))
        self.assertIn("exclude", self.usage(*create, "--nic", "none", "--port", "p"))
        self.assertIn("--network", self.usage("port", "create", "n"))
        self.assertIn("one subnet", self.usage("port", "create", "--network", "a", "--fixed-ip",
                                               "subnet=s,ip-address=10.0.0.9", "n"))
        self.assertIn("cannot be read", self.usage(*create, "--user-data", "/nonexistent"))
        self.assertIn("larger", self.usage(*create, "--user-data", self.file("b", b"x" * 60_000)))
        self.assertIn("UTF-8", self.usage(*create, "--public-key", self.file("k", b"\xff")))
        self.assertIn("cannot be read", self.usage("image", "create", "--file", "/nix", "n"))
        self.assertIn("needs --subnet", self.usage("network", "create", "--bridge", "br0", "n"))
        self.assertIn("needs --reason", self.usage("op", "resolve", "1", "--as", "done"))
        self.assertIn("invalid choice", self.usage("op", "resolve", "1", "--as", "maybe",
                                                   "--reason", "r"))  # fmt: skip
        self.assertIn("invalid int", self.usage("flavor", "create", "--ram", "much", "n"))

    def test_unknown_commands_name_near_ones(self):
        self.assertIn("server list", self.usage("serv"))
        self.assertIn("server delete", self.usage("server", "frobnicate"))

    def test_help(self):
        out = self.ok("help")
        self.assertIn("server create", out)
        self.assertIn("explain", out)
        self.assertEqual(out, self.ok())
        self.assertEqual(out, self.ok("--help"))
        self.assertIn("--availability-zone", self.ok("server", "create", "--help"))
        self.assertIn("--availability-zone", self.ok("help", "server", "create"))
        self.assertIn("op abort", self.ok("help", "op"))
        self.assertNotIn("server", self.ok("help", "op"))
        self.assertIn("no command", self.usage("help", "nix"))

    def test_every_command_has_help(self):
        for name in COMMANDS:
            if name not in ("up", "control"):  # their processes' own
                self.assertIn("usage: magnetar", self.ok(*name.split(), "--help"))

    def test_version_without_an_agent(self):
        code, out, _ = self.run_cli("--socket", self.path, "version")
        self.assertEqual(0, code)
        self.assertIn("agent: not reached", out)


class NoAgentTest(CliCase):
    def test_which_path_was_tried_and_what_to_do(self):
        code, out, err = self.run_cli("server", "list", "--socket", self.path)
        self.assertEqual((1, ""), (code, out))
        for word in (self.path, "No agent seems to run", "magnetar up", "--socket"):
            self.assertIn(word, err)

    def test_the_socket_is_found_by_the_configuration(self):
        self.serve()
        self.useFixture(fixtures.EnvironmentVariable("MAGNETAR_SOCKET"))
        conf = self.file("m.conf", f"[DEFAULT]\nsocket = {self.path}\n".encode())
        self.assertEqual(SERVER_TABLE, self.ok("--config-file", conf, "server", "list"))

    def test_an_unreadable_configuration(self):
        code, _, err = self.run_cli("--config-file", "/nonexistent", "server", "list")
        self.assertEqual(1, code)
        self.assertIn("/nonexistent cannot be read", err)
