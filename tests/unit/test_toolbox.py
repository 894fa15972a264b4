"""What tools/ relies on: a process is known beyond its pid, the ledger survives, results add up."""

import datetime
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import testtools
from testtools import content

from tools.toolbox import results
from tools.toolbox.ledger import Ledger
from tools.toolbox.processes import Process

TOP = pathlib.Path(__file__).resolve().parents[2]


class ProcessTest(testtools.TestCase):
    def sleeper(self, code: str = "import time; time.sleep(60)") -> Process:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return Process.of(child.pid, "sleeper")

    def test_stop_ends_it(self):
        process = self.sleeper()
        self.assertTrue(process.alive())
        self.assertTrue(process.stop())
        self.assertFalse(process.alive())
        self.assertFalse(process.signal(signal.SIGTERM))

    def test_another_process_with_the_same_pid_is_left_alone(self):
        process = self.sleeper()
        earlier = Process(**(process.as_dict() | {"started": process.started - 1}))
        self.assertFalse(earlier.alive())
        self.assertTrue(earlier.stop())
        self.assertTrue(process.alive())

    def test_another_boot_is_another_process(self):
        process = self.sleeper()
        self.assertFalse(Process(**(process.as_dict() | {"boot": "earlier"})).alive())

    def test_one_that_ignores_sigterm_is_killed(self):
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE)
        self.addCleanup(child.stdout.close)
        child.stdout.readline()
        self.assertTrue(Process.of(child.pid, "stubborn").stop(seconds=0.1))

    def test_no_such_pid(self):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        self.assertIsNone(Process.of(child, "gone"))


class LedgerTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = pathlib.Path(directory.name) / "new" / "ledger.json"

    def test_it_is_there_after_a_restart(self):
        ledger = Ledger(self.path)
        ledger.put("data", "/somewhere")
        ledger.add("servers", "a")
        ledger.add("servers", "a")
        ledger.add("servers", "b")
        ledger.drop("servers", "a")
        ledger.put("gone", 1)
        ledger.forget("gone")
        ledger.forget("never there")
        again = Ledger(self.path)
        self.assertEqual("/somewhere", again.get("data"))
        self.assertEqual(["b"], again.get("servers"))
        self.assertIsNone(again.get("gone"))


class ResultsTest(testtools.TestCase):
    def finished(self, status: str, **texts: str) -> dict:
        begin = datetime.datetime(2026, 1, 1)
        return {
            "id": "tests.unit.test_x.X.test_y",
            "status": status,
            "timestamps": [begin, begin + datetime.timedelta(seconds=2)],
            "details": {name: content.text_content(text) for name, text in texts.items()},
        }

    def test_every_outcome_is_counted_once(self):
        run = results.Results()
        for status in ("success", "xfail", "skip", "fail", "uxsuccess", "inprogress"):
            run.test("unit", "eventlet", self.finished(status, reason="no KVM here"))
        self.assertEqual((2, 3, 1), run.totals)
        self.assertEqual({"no KVM here": 1}, dict(run.reasons))
        self.assertEqual(3, len(run.failures))
        self.assertEqual(12.0, run.row("unit", "eventlet").seconds)

    def test_modes_are_rows_of_their_own(self):
        run = results.Results()
        run.test("unit", "eventlet", self.finished("success"))
        run.test("unit", "threading", self.finished("fail"))
        run.check("style", "ruff", passed=True, seconds=0.1)
        run.skip("style", "imports", "not configured")
        self.assertEqual((2, 1, 1), run.totals)
        self.assertEqual(
            "layer  mode       passed  failed  skipped  seconds\n"
            "unit   eventlet        1       0        0      2.0\n"
            "unit   threading       0       1        0      2.0\n"
            "style  ruff            1       0        0      0.1\n"
            "style  imports         0       0        1      0.0",
            run.table(),
        )

    def test_the_traceback_comes_first(self):
        test = self.finished("fail", log="a log", traceback="Traceback: x")
        self.assertEqual("Traceback: x\na log", results.details(test))


class BindepTest(testtools.TestCase):
    def listed(self, *profiles: str) -> list[str]:
        script = '. tools/lib.sh; listed_packages "$@"'
        command = ["bash", "-c", script, "-", *profiles]
        return subprocess.check_output(command, cwd=TOP, text=True).split()

    def test_profiles_choose(self):
        self.assertIn("qemu-utils", self.listed())
        self.assertNotIn("rabbitmq-server", self.listed())
        self.assertNotIn("mariadb-server", self.listed("test"))
        self.assertIn("mariadb-server", self.listed("test", "contract"))
        self.assertTrue(all(name[0] not in "#[" for name in self.listed("test", "contract")))
