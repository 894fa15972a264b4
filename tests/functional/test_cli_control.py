"""``magnetar control`` in a process of its own."""

import os
import signal

from tests.functional.test_cli_up import Process
from tests.waiting import wait_until

CONF = """
[DEFAULT]
state_path = {dir}/state
transport_url = {url}
host = control
"""


class ControlTest(Process):
    word = "control"

    def test_it_serves_tenants_without_an_agent(self):
        self.configure(CONF, url="inproc://")
        self.up()
        self.assertIn("(", self.run_cli("version")[1])
        self.ok("flavor", "create", "--ram", "64", "--vcpus", "1", "small")
        self.assertEqual(["small"],
                         [f["Name"] for f in self.ok("flavor", "list", "-f", "json")])
        self.assertEqual([], self.ok("host", "list", "-f", "json"))
        code, _, err = self.run_cli("op", "list")
        self.assertEqual(1, code)
        self.assertIn("Only the agent of a host", err)
        self.down(signal.SIGKILL)
        self.up()
        self.ok("flavor", "delete", "small")
        self.down(signal.SIGTERM)
        self.assertEqual(0, self.agent.returncode)
        self.assertFalse(os.path.exists(os.path.join(self.dir, "state", "control.sock")))

    def test_without_a_broker_it_says_so(self):
        self.configure(CONF, url="rabbit://")
        self.begin()
        wait_until(lambda: self.agent.poll() is not None, self.said)
        self.assertEqual(1, self.agent.returncode)
        self.assertIn("No message broker is configured", self.said())
