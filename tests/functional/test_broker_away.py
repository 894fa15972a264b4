"""The broker is away: it refuses connections, or takes them and never answers. All waits end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import fixtures
import testtools

from compute import concurrency
from compute.errors import MagnetarError
from compute.rpc.line import MARGIN
from control.cli.client import Client
from tests.functional.agent_process import PROJECT, Process
from tests.functional.away_child import MANY, SECONDS
from tests.functional.control_support import wait_until

SLOW = 20.0  # seconds that a loaded machine may need on top
PATIENCE = 240.0  # for a whole process; one that hung would be seen by this
CODES = {"broker_silent", "broker_unreachable"}


class Refusing(fixtures.Fixture):
    """A port that nobody listens on."""

    def _setUp(self) -> None:
        self.socket = socket.socket()
        self.addCleanup(self.socket.close)
        self.socket.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        self.url = f"rabbit://guest:guest@127.0.0.1:{self.socket.getsockname()[1]}/"


class Blackhole(Refusing):
    """A port that takes connections and says nothing."""

    def _setUp(self) -> None:
        super()._setUp()
        self.socket.listen(64)


class BrokerAwayTest(testtools.TestCase):
    broker: type[Refusing] = Refusing

    def test_everything_that_is_said_ends_in_time(self):
        url = self.useFixture(self.broker()).url
        done = subprocess.run(
            [sys.executable, "-m", "tests.functional.away_child", url], cwd=PROJECT, check=True,
            env={**os.environ, "MAGNETAR_CONCURRENCY": concurrency.mode()}, timeout=PATIENCE,
            stdout=subprocess.PIPE)
        said = json.loads(done.stdout)
        doctor = said["one"].pop("doctor")
        for name, one in [*said["one"].items(), *(("many", one) for one in said["many"])]:
            self.assertLess(one["seconds"], SECONDS + MARGIN + SLOW, name)
            self.assertIn(one.get("code"), CODES, name)
            self.assertIn("broker", one["what"], name)
        self.assertEqual(MANY, len(said["many"]))
        self.assertLess(doctor["seconds"], SECONDS + MARGIN + SLOW)
        [check] = doctor["result"]["checks"]
        self.assertEqual("wrong", check["result"])
        self.assertIn("broker", check["found"])

    def test_an_agent_that_waits_for_its_broker_answers_doctor(self):
        """It hung for as long as the broker was away."""
        state = self.useFixture(fixtures.TempDir()).path
        url = self.useFixture(self.broker()).url
        process = self.useFixture(Process(state, transport_url=url)).start()
        client = Client(str(process.options["socket"]))
        wait_until(lambda: starting(process, client), PATIENCE)
        found = {check["check"]: check for check in client.call("doctor")["checks"]}
        self.assertEqual("wrong", found["control plane"]["result"])
        self.assertIn("broker does not answer", found["control plane"]["found"])
        self.assertIn("transport_url", found["control plane"]["next"])
        self.assertEqual("ok", found["journal"]["result"])


class BlackholeTest(BrokerAwayTest):
    broker = Blackhole


def starting(process: Process, client: Client) -> bool:
    """Whether its control socket answers while the rest is missing."""
    if process.child.poll() is not None:
        raise AssertionError(f"it ended with {process.child.returncode}: {process.said()}")
    try:
        return client.health()["status"] == "starting"
    except MagnetarError:
        return False
