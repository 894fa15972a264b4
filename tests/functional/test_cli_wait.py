"""--wait: what is shown meanwhile, how it ends, and that it always ends."""

import contextlib
import os
import pty
import sys
import threading

import testtools

from compute.errors import Refused
from control.cli import wait
from tests.functional.cli_support import NOT_FOUND, OP, WEB, CliCase, server
from tests.waiting import PATIENCE

CREATE = ("server", "create", "--image", "i", "--flavor", "f", "--wait", "web")
BUILDING = server(status="BUILD", vm_state="building", task_state="spawning")


class WaitTest(CliCase):
    def setUp(self):
        super().setUp()
        self.serve()
        self.patch(wait, "FIRST_POLL", 0.001)
        self.patch(wait, "LAST_POLL", 0.01)
        self.plane.answers["server.create"] = BUILDING

    def progress(self, err: str) -> list[str]:
        """The lines of progress, without their times."""
        return [line.split("s  ", 1)[1] for line in err.splitlines() if "s  web: " in line]

    def test_steps_are_shown_as_they_change(self):
        self.plane.script("server.show", BUILDING, BUILDING, BUILDING, BUILDING, server())
        self.plane.script(
            "op.list", [], [OP], [OP], [{**OP, "step": "domain", "steps_done": 4, "message": "m"}]
        )
        code, out, err = self.run_cli(*CREATE)
        self.assertEqual(0, code)
        self.assertEqual(
            ["web: spawning", "web: spawn disks (2/6)", "web: spawn domain: m (4/6)"],
            self.progress(err),
        )
        self.assertIn("ACTIVE", out)

    def test_a_failed_build_prints_its_fault(self):
        fault = {"message": "No valid host was found.", "code": 500}
        self.plane.script("server.show", BUILDING, server(vm_state="error", fault=fault))
        code, out, err = self.run_cli(*CREATE)
        self.assertEqual((1, ""), (code, out))
        self.assertIn("web did not become active: No valid host was found.\nIt is error.\n", err)
        self.assertIn(f"magnetar explain {WEB}", err)

    def test_a_fault_that_was_not_recorded(self):
        self.plane.script("server.show", server(vm_state="stopped"))
        code, _, err = self.run_cli("server", "start", "--wait", "web")
        self.assertEqual(1, code)
        self.assertIn("no fault was recorded", err)

    def test_an_operation_that_needs_an_operator_ends_the_wait(self):
        self.plane.answers["server.show"] = BUILDING
        op = {**OP, "state": "needs_operator", "message": "two domains run"}
        self.plane.answers["op.list"] = [op]
        code, _, err = self.run_cli(*CREATE)
        self.assertEqual(1, code)
        self.assertIn("two domains run", err)
        self.assertIn(f"magnetar explain {WEB}", err)

    def test_it_ends_at_its_deadline(self):
        self.plane.answers["server.show"] = BUILDING
        code, _, err = self.run_cli(*CREATE, "--timeout", "0")
        self.assertEqual(1, code)
        self.assertIn("still spawning; what was asked for goes on", err)

    def test_deleted_means_gone(self):
        deleting = server(task_state="deleting")
        gone = server(status="DELETED", vm_state="deleted")
        for end in (NOT_FOUND, gone):
            self.plane.script("server.show", server(), deleting, end)
            code, out, err = self.run_cli("server", "delete", "--wait", "web")
            self.assertEqual((0, ""), (code, out))
            self.assertIn("web: spawn disks (2/6)", self.progress(err))

    def test_stop_start_and_reboot(self):
        stopped = server(vm_state="stopped", status="SHUTOFF")
        for verb, task, end in (
            ("stop", "powering-off", stopped),
            ("start", "powering-on", server()),
            ("reboot", "rebooting", server()),
        ):
            self.plane.script("server.show", server(), server(task_state=task), end)
            code, _, err = self.run_cli("server", verb, "--wait", "web")
            self.assertEqual(0, code, err)

    def test_a_host_elsewhere_has_no_steps_here(self):
        self.plane.script("server.show", BUILDING, server())
        self.plane.answers["op.list"] = Refused("No.", code="unknown_method")
        code, _, err = self.run_cli(*CREATE)
        self.assertEqual((0, ["web: spawning"]), (code, self.progress(err)))

    def test_another_error_ends_the_wait(self):
        self.plane.script("server.show", NOT_FOUND)
        code, _, err = self.run_cli(*CREATE)
        self.assertEqual((1, True), (code, "There is no server nix." in err))

    def test_an_interrupt_says_that_the_request_goes_on(self):
        def interrupted(args):
            raise KeyboardInterrupt

        self.patch(wait, "_position", lambda client, now: interrupted(None))
        self.plane.answers["server.show"] = BUILDING
        code, _, err = self.run_cli(*CREATE)
        self.assertEqual(130, code)
        self.assertIn("what was asked for goes on", err)


class TerminalTest(testtools.TestCase):
    def test_bars_are_drawn_on_terminals_only(self):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        drawn = bytearray()

        def read() -> None:
            with contextlib.suppress(OSError):  # the other end is closed
                while piece := os.read(ours, 65536):
                    drawn.extend(piece)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        with os.fdopen(theirs, "w") as terminal:
            self.patch(sys, "stderr", terminal)
            with wait.progress("web") as bar:
                bar.show("spawn disks", 2, 6)
            with wait.upload_bar("image", 100) as advance:
                advance(50)
        reader.join(PATIENCE)
        for text in (b"web", b"spawn disks", b"image"):
            self.assertIn(text, drawn)
