"""What tools/ relies on: a process is known beyond its pid, the ledger survives, results add up."""

import datetime
import grp
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import testtools
from testtools import content

from tools.toolbox import machine, quickmove, results
from tools.toolbox.agent import message_of
from tools.toolbox.bench import figures, moves
from tools.toolbox.ledger import Ledger
from tools.toolbox.processes import Process
from tools.toolbox.ticks import Tick, Ticks

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


class MachineTest(testtools.TestCase):
    """/dev/kvm is given to QEMU's group where no udev has done so, and back."""

    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.device = pathlib.Path(directory.name) / "kvm"
        self.device.touch()
        self.ledger = Ledger(pathlib.Path(directory.name) / "ledger.json")
        self.group = grp.getgrgid(os.getgroups()[0] if os.getgroups() else os.getgid()).gr_name

    def mode(self):
        return self.device.stat().st_mode & 0o777

    def share(self, mode):
        self.device.chmod(mode)
        machine.share_kvm(self.ledger, self.device, self.group)

    def test_given_and_taken_back(self):
        self.share(0o600)
        self.assertEqual(0o660, self.mode())
        self.assertEqual(grp.getgrnam(self.group).gr_gid, self.device.stat().st_gid)
        machine.unshare_kvm(self.ledger, self.device)
        self.assertEqual((0o600, None), (self.mode(), self.ledger.get("kvm")))

    def test_what_works_stays(self):
        for mode in (0o660, 0o666):
            os.chown(self.device, -1, grp.getgrnam(self.group).gr_gid)
            self.share(mode)
            self.assertEqual((mode, None), (self.mode(), self.ledger.get("kvm")))

    def test_without_the_device_or_the_group_nothing_happens(self):
        machine.share_kvm(self.ledger, self.device.with_name("none"), self.group)
        machine.share_kvm(self.ledger, self.device, "no-such-group")
        self.assertIsNone(self.ledger.get("kvm"))

    def test_what_the_agent_says_is_told_from_its_beginning(self):
        line = "2026-11-28 11:05:17.019 15826 WARNING virt.x [-] virt_type is qemu: set [a] b = c."
        self.assertEqual("virt_type is qemu: set [a] b = c.", message_of(line))
        self.assertEqual("Traceback", message_of("Traceback"))


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


class TicksTest(testtools.TestCase):
    """A guest counts on host a, then moves to host b; its log goes along."""

    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.home = pathlib.Path(directory.name)
        self.ticks = Ticks({host: self.home / host for host in "ab"})

    def write(self, host: str, *numbers: int, text: str = "") -> None:
        with (self.home / host).open("a") as log:
            log.write(text + "".join(f"TICK {number}\n" for number in numbers))
        self.ticks._look()

    def numbers(self) -> list[tuple[int, str]]:
        return [(tick.number, tick.host) for tick in self.ticks.seen]

    def test_a_guest_that_moves_goes_on_counting(self):
        self.write("a", 1, 2, 3)
        self.write("a", 4)
        self.write("b", 1, 2, 3, 4)  # the log came along
        self.write("a", 5)
        (self.home / "a").unlink()
        self.write("b", 6)
        self.assertEqual([(3, "a"), (4, "a"), (5, "a"), (6, "b")], self.numbers())
        self.assertEqual((0, []), (self.ticks.skipped(), self.ticks.backwards))

    def test_a_guest_that_goes_back_is_noticed(self):
        self.write("a", 1)
        self.write("a", 2, 3)
        self.write("b", 1)
        self.write("b", 2)  # it runs there from an older state
        self.assertEqual(["2 on b after 3"], self.ticks.backwards)

    def test_a_log_that_begins_anew_is_read_from_its_start(self):
        self.write("a", 10, 11)
        (self.home / "a").unlink()
        self.ticks._look()
        self.write("b", 11, 12)
        self.write("a", 11, 12)
        self.write("a", 14)
        self.assertEqual([11, 12, 14], [tick.number for tick in self.ticks.seen])
        self.assertEqual((1, []), (self.ticks.skipped(), self.ticks.backwards))

    def test_half_lines_and_a_prompt_before_the_number(self):
        self.write("a", text="GUEST-READY uptime=3\n/ # TICK 7\r\nTI")
        self.write("a", text="CK 8\nTICK x\nTICK 9")
        self.assertEqual([7, 8], [tick.number for tick in self.ticks.seen])

    def test_the_gap_of_a_number_that_was_not_seen_is_not_a_pause(self):
        self.ticks.seen = [Tick(n, at, "a") for n, at in
                           ((1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5), (6, 6.5), (7, 7.5))]
        longest, usual = self.ticks.gaps()
        self.assertEqual((1.5, 1.0), (longest, usual))
        self.assertEqual((1.0, 1.0), self.ticks.gaps(since=4.2))
        self.assertEqual((0.0, 0.0), self.ticks.gaps(since=7.2))

    def test_shared_disks_have_one_log(self):
        shared = self.home / "shared"
        self.ticks = Ticks({"a": shared, "b": shared})
        self.write("shared", 1)
        self.write("shared", 2, 3)
        self.assertEqual((3, []), (self.ticks.last, self.ticks.backwards))


class FiguresTest(testtools.TestCase):
    def test_pairs_have_a_ratio(self):
        pair = figures.Pair("suspend", 3.0, 2.0, "managedSave", "1.85")
        self.assertEqual("| suspend | 3.000 s | 2.000 s | 1.50 |  | 1.85 | managedSave |",
                         figures.pairs_table([pair]).splitlines()[-1])
        told = json.loads(figures.as_json([figures.Figure("x", 1, "s")], [pair]))
        self.assertEqual([None, 1.5], [row.get("ratio") for row in told])

    def test_nothing_to_compare_with(self):
        pair = figures.Pair("confirm", 1.0, 0.0)
        self.assertIsNone(pair.ratio)
        self.assertIn("|  |", figures.pairs_table([pair]))

    def test_how_many_overlap(self):
        self.assertEqual(0, moves.overlap([]))
        self.assertEqual(1, moves.overlap([(0, 1), (1, 2), (2, 3)]))
        self.assertEqual(3, moves.overlap([(0, 9), (1, 3), (2, 4), (5, 6)]))


class QuickstartTest(testtools.TestCase):
    def run_words(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(TOP / "tools/quickstart"), *words], cwd=TOP, text=True,
                              capture_output=True, check=False)

    def test_what_makes_no_sense_is_refused(self):
        for words in (["--hosts"], ["--hosts", "two"], ["--yes"], ["--up"]):
            done = self.run_words(*words)
            self.assertEqual((1, ""), (done.returncode, done.stdout), words)
            self.assertIn("usage: tools/quickstart [--hosts N]", done.stderr)

    def test_names_that_are_taken_are_passed_over(self):
        names = quickmove._names()
        self.assertEqual(["demo", "demo-2", "demo-3"], [next(names) for _ in range(3)])

    def test_the_command_line_finds_what_quickstart_made(self):
        """One host comes first, then several, and what the caller says comes before both."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        top = pathlib.Path(directory.name)
        for path in (".state", ".venv/bin", "tools"):
            (top / path).mkdir(parents=True)
        for name in ("lib.sh", "magnetar"):
            (top / "tools" / name).write_text((TOP / "tools" / name).read_text())
        command = top / ".venv/bin/magnetar"
        command.write_text('#!/bin/sh\necho "$MAGNETAR_CONFIG/$MAGNETAR_SOCKET"\n')
        sudo = top / "tools/sudo"
        sudo.write_text('#!/bin/sh\nexec env "$@"\n')
        for path in (command, sudo):
            path.chmod(0o755)

        def told(**more: str) -> str:
            kept = {"PATH": f"{top}/tools:{os.environ['PATH']}"}
            return subprocess.check_output(["bash", str(top / "tools/magnetar")], text=True,
                                           env={**kept, **more}).strip()

        self.assertEqual("/", told())
        (top / ".state/lab.conf").touch()
        self.assertEqual(f"{top}/.state/lab.conf/", told())
        (top / ".state/magnetar.conf").touch()
        self.assertEqual(f"{top}/.state/magnetar.conf/", told())
        self.assertEqual("/a/socket", told(MAGNETAR_SOCKET="a/socket"))
        self.assertEqual("b/", told(MAGNETAR_CONFIG="b"))


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
