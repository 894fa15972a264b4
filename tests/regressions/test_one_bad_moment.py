"""What is nobody's fault here fails no run: an archive that is away for a moment, two makers of the
guest image, memory that emulation lost. Each is tried again a few times, visibly; a fault stays a
fault."""

import os
import pathlib
import subprocess

import fixtures
import testtools
from testtools.content import text_content

from tests.integration import repeats
from tools.toolbox.results import Results

TOP = pathlib.Path(__file__).resolve().parents[2]


class InstallTest(testtools.TestCase):
    def again(self, failures):
        """Run a command that fails so often first; what was said, and the status."""
        count = pathlib.Path(self.useFixture(fixtures.TempDir()).path, "count")
        script = (f". tools/lib.sh; flaky() {{ echo >>{count}; "
                  f"[ $(wc -l <{count}) -gt {failures} ]; }}; again flaky")
        done = subprocess.run(["bash", "-c", script], cwd=TOP, capture_output=True, text=True,
                              check=False, env={**os.environ, "AGAIN_SECONDS": "0"})
        return done.stdout.count("trying again"), done.returncode

    def test_it_is_tried_three_times(self):
        self.assertEqual((0, 0), self.again(0))
        self.assertEqual((2, 0), self.again(2))
        self.assertEqual((2, 1), self.again(3))


class Moving(repeats.Repeating):
    """A test whose guest panics ``panics`` times, and which then ends as ``ends`` says."""

    def begin_again(self):
        self.console.write_text("GUEST-READY\n")

    def consoles(self):
        return [self.console]

    @repeats.repeated
    def move(self):
        if self.panics:
            self.panics -= 1
            self.console.write_text("TICK 1\n[    9.1] Kernel panic - not syncing: Attempted\n")
            self.fail("it counts no more")
        self.ends()

    def moment(self):
        self.in_time(self.late)

    def late(self):
        if self.panics:
            self.panics -= 1
            raise repeats.Late("it had ended")


class RepeatsTest(testtools.TestCase):
    def outcome(self, panics, ends=lambda: None, name="move"):
        case = Moving(name)
        case.console = pathlib.Path(self.useFixture(fixtures.TempDir()).path, "console.log")
        case.panics, case.ends = panics, ends
        result = testtools.TestResult()
        case.run(result)
        return result.wasSuccessful(), sum(one.startswith("repeated") for one in case.getDetails())

    def test_a_broken_guest_is_given_up_and_the_test_run_again(self):
        self.assertEqual((True, 0), self.outcome(0))
        self.assertEqual((True, 3), self.outcome(3))

    def test_guests_that_break_each_time_are_a_fault(self):
        self.assertEqual((False, 3), self.outcome(4))

    def test_a_fault_with_a_sound_guest_fails_at_once(self):
        self.assertEqual((False, 0), self.outcome(0, lambda: 1 / 0))
        self.assertEqual((False, 1), self.outcome(1, lambda: 1 / 0))

    def test_a_moment_that_had_passed_is_waited_for_again(self):
        self.assertEqual((True, 2), self.outcome(2, name="moment"))
        self.assertEqual((False, 3), self.outcome(4, name="moment"))

    def test_they_are_counted(self):
        run = Results()
        run.test("integration", "eventlet", {
            "id": "tests.x", "status": "success", "timestamps": [None, None],
            "details": {"repeated-0": text_content("a panic"), "log": text_content("x")}})
        self.assertEqual({"integration (eventlet) tests.x: a panic": 1}, dict(run.repeats))
        self.assertEqual((1, 0, 0), run.totals)
        self.assertIn("1 x integration (eventlet) tests.x: a panic\n", run.lists())


class GuestImageTest(testtools.TestCase):
    def test_two_makers_at_once(self):
        image = TOP / ".cache/guest.qcow2"
        if not image.exists():
            self.skipTest("the guest image has not been made; tools/test integration makes it")
        out = pathlib.Path(self.useFixture(fixtures.TempDir()).path, "guest.qcow2")
        makers = [subprocess.Popen([TOP / "tools/build-guest", out], stdout=subprocess.PIPE)
                  for _ in range(4)]
        self.assertEqual([0] * 4, [maker.communicate() and maker.returncode for maker in makers])
        self.assertGreater(out.stat().st_size, 1 << 20)
        inode = out.stat().st_ino
        subprocess.run([TOP / "tools/build-guest", out], check=True, capture_output=True)
        self.assertEqual(inode, out.stat().st_ino)
