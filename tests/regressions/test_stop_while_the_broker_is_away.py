"""An agent that waited for a broker that refuses it could not be told to stop: the messaging
library tries to connect without a deadline. And an option with a wrong
value was told as a traceback, or only when it was used."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import tempfile

import fixtures
import testtools

from tests.functional.agent_process import PROJECT, Process
from tests.functional.control_support import wait_until

PATIENCE = 120.0  # seconds; it hung for ever, and a loaded machine is slow


class StopTest(testtools.TestCase):
    def process(self, **options: object) -> Process:
        state = self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path
        return self.useFixture(Process(state, **options)).start()

    def test_it_ends_when_it_is_told_to(self):
        log = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / "log"
        process = self.process(transport_url="rabbit://guest:guest@127.0.0.1:1/", log_file=log)
        wait_until(lambda: log.exists() and "Connection failed" in log.read_text(), PATIENCE)
        process.child.send_signal(signal.SIGTERM)
        if process.child.wait(PATIENCE) != 0:  # it was too slow for its own deadline
            self.assertIn("ends all the same", process.said())

    def test_an_end_that_is_not_orderly_in_time_ends_all_the_same(self):
        done = subprocess.run(
            [sys.executable, "-c", "import time\nfrom compute.cmd import common\n"
             "common._end_all_the_same(0.2)\ntime.sleep(600)"],
            cwd=PROJECT, timeout=PATIENCE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(1, done.returncode)
        self.assertIn("The journal knows what was going on", done.stderr)

    def test_a_wrong_value_is_told_in_words(self):
        process = self.process(report_interval="often")
        self.assertEqual(1, process.child.wait(PATIENCE))
        self.assertIn("report_interval", process.said())
        self.assertIn("Correct the option", process.said())
