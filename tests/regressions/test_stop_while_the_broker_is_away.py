"""An agent that waited for a broker that refuses it could not be told to stop: the messaging
library tries to connect without a deadline. And an option with a wrong
value was told as a traceback, or only when it was used."""

from __future__ import annotations

import pathlib
import signal
import tempfile
import time

import fixtures
import testtools

from tests.functional.agent_process import Process
from tests.functional.control_support import wait_until

PATIENCE = 40.0  # seconds; the process itself gives up after five


class StopTest(testtools.TestCase):
    def process(self, **options: object) -> Process:
        state = self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path
        return self.useFixture(Process(state, **options)).start()

    def test_it_ends_when_it_is_told_to(self):
        log = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / "log"
        process = self.process(transport_url="rabbit://guest:guest@127.0.0.1:1/", log_file=log)
        wait_until(lambda: log.exists() and "Connection failed" in log.read_text(), PATIENCE)
        began = time.monotonic()
        process.child.send_signal(signal.SIGTERM)
        process.child.wait(PATIENCE)
        self.assertLess(time.monotonic() - began, PATIENCE)
        self.assertIn("journal", process.said())

    def test_a_wrong_value_is_told_in_words(self):
        process = self.process(report_interval="often")
        self.assertEqual(1, process.child.wait(PATIENCE))
        self.assertIn("report_interval", process.said())
        self.assertIn("Correct the option", process.said())
