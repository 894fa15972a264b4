"""The first tour of a new user, on the fake driver: ``magnetar up`` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile

import fixtures
import testtools

from tests.waiting import PATIENCE, wait_until

CONF = """
[DEFAULT]
state_path = {dir}/state
compute_driver = fake
host = tour
"""


class Process(testtools.TestCase):
    """``magnetar WORD`` in a process of its own, and commands to it."""

    word = "up"

    def setUp(self):
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path
        self.env = {k: v for k, v in os.environ.items() if k != "MAGNETAR_SOCKET"}

    def configure(self, text: str, **values: str) -> None:
        """Write its configuration file."""
        self.conf = self.file("magnetar.conf", text.format(dir=self.dir, **values).encode())
        self.env["MAGNETAR_CONFIG"] = self.conf

    def file(self, name: str, data: bytes) -> str:
        path = os.path.join(self.dir, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "control.cli.main", *words]

    def begin(self) -> None:
        """Start it."""
        log = open(os.path.join(self.dir, "log"), "ab")  # noqa: SIM115 - the process has it
        self.addCleanup(log.close)
        self.agent = subprocess.Popen(
            self.words(self.word, "--config-file", self.conf), env=self.env, stdout=log,
            stderr=log,
        )
        self.addCleanup(self.down, signal.SIGKILL)

    def up(self) -> None:
        """Start it, and wait until it serves."""
        self.begin()
        wait_until(lambda: "agent: serving" in self.run_cli("version")[1]
                   or self.agent.poll() is not None, self.said)
        self.assertIsNone(self.agent.poll(), self.said())

    def said(self) -> str:
        """What it printed."""
        with open(os.path.join(self.dir, "log")) as text:
            return text.read()

    def down(self, number: int) -> None:
        if self.agent.poll() is None:
            self.agent.send_signal(number)
        self.agent.wait(PATIENCE)

    def run_cli(self, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            self.words(*words), env=self.env, capture_output=True, text=True, timeout=PATIENCE
        )
        return done.returncode, done.stdout, done.stderr

    def ok(self, *words: str):
        """The data that a command gives."""
        code, out, err = self.run_cli(*words)
        self.assertEqual(0, code, f"{words}: {err}")
        return json.loads(out) if "json" in words else out


class TourTest(Process):
    def test_from_an_image_to_a_guest_and_back(self):
        self.configure(CONF)
        self.up()
        disk = self.file("disk.raw", b"\0" * (1 << 20))
        image = self.ok("image", "create", "--file", disk, "--disk-format", "raw", "tiny",
                        "-f", "json")  # fmt: skip
        self.assertEqual(1 << 20, image["size"])
        self.ok("flavor", "create", "--ram", "64", "--vcpus", "1", "--disk", "1", "small")
        self.ok("network", "create", "--subnet", "192.0.2.0/24", "--nat", "lan")
        web = self.ok("server", "create", "--image", "tiny", "--flavor", "small", "--network",
                      "lan", "--property", "role=front", "--wait", "--timeout", "120", "web",
                      "-f", "json")  # fmt: skip
        self.assertEqual(("ACTIVE", {"lan": ["192.0.2.2"]}, "tour"),
                         (web["status"], web["addresses"], web["host"]))  # fmt: skip
        for verb, status in (("stop", "SHUTOFF"), ("start", "ACTIVE"), ("reboot", "ACTIVE")):
            self.ok("server", verb, "--wait", "--timeout", "120", "web")
            self.assertEqual(status, self.ok("server", "show", "web", "-f", "json")["status"])
        self.assertIn("UP", self.ok("console", "log", "show", "web"))
        verbs = [
            op["Verb"] for op in self.ok("op", "list", "--all", "--guest", "web", "-f", "json")
        ]
        self.assertEqual(["spawn", "stop", "start", "reboot"], verbs)
        self.assertEqual("nothing", self.ok("explain", "web", "-f", "json")["verdict"]["act"])
        self.assertTrue(self.ok("audit", "-f", "json")["clean"])
        self.assertTrue(self.ok("doctor", "-f", "json")["healthy"])

        self.down(signal.SIGKILL)  # what is shown survives, and the socket is taken over
        self.assertEqual(1, self.run_cli("server", "list")[0])
        self.up()
        self.assertEqual(["web"], [s["Name"] for s in self.ok("server", "list", "-f", "json")])
        self.ok("server", "delete", "--wait", "--timeout", "120", "web")
        self.assertEqual([], self.ok("server", "list", "-f", "json"))
        for noun, name in (("image", "tiny"), ("flavor", "small"), ("network", "lan")):
            self.ok(noun, "delete", name)
        self.down(signal.SIGTERM)
        self.assertEqual(0, self.agent.returncode)
        self.assertFalse(os.path.exists(os.path.join(self.dir, "state", "control.sock")))
