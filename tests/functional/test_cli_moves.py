"""Commands that put servers to sleep, resize and move them, and that empty hosts."""

import contextlib
import io
import json
import os
import pty
import sys
import threading

from compute.errors import Refused
from control.cli import drain, wait, watch
from tests.functional.cli_support import NOT_FOUND, WEB, CliCase, server
from tests.waiting import PATIENCE

GIB = 1 << 30
MIGRATION = {
    "id": 7, "uuid": "u", "server_id": WEB, "server": "web", "type": "live-migration",
    "status": "running", "ended": False, "source_compute": "h1", "dest_compute": "h2",
    "source_node": "h1", "dest_node": "h2", "dest_host": None, "memory_total": 4 * GIB,
    "memory_processed": GIB, "memory_remaining": 3 * GIB, "disk_total": None,
    "disk_processed": None, "disk_remaining": None, "message": None, "created_at": "t1",
    "updated_at": "t2", "vm_state": "active", "task_state": "migrating", "progress": None,
}  # fmt: skip
TOLD = {
    "phase": "precopy", "memory_total": 4 * GIB, "memory_remaining": GIB, "disk_total": GIB,
    "disk_remaining": 0, "dirty_rate": 30 << 20, "bandwidth": GIB, "iteration": 3,
    "throttle": 20, "seconds_left": 12.4, "queue_position": None,
}  # fmt: skip
DRAIN = {
    "host": "h1", "kind": "drain", "status": "running", "max": 2, "total": 3, "moved": 1,
    "started_at": "t1", "ended_at": None, "unconfirmed": [],
    "moving": [{"server": "web", "server_id": WEB, "migration": 7, "type": "live-migration",
                "status": "running", "dest_compute": "h2"}],
    "left": [{"server": "db", "server_id": "x", "vm_state": "suspended",
              "reason": "it is suspended"}],
}  # fmt: skip


def migration(**changes):
    return {**MIGRATION, **changes}


class Base(CliCase):
    def setUp(self):
        super().setUp()
        self.serve()
        for module, name, value in ((wait, "FIRST_POLL", 0.001), (wait, "LAST_POLL", 0.01),
                                    (watch, "FIRST_POLL", 0.001), (watch, "LAST_POLL", 0.01),
                                    (drain, "POLL", 0.001)):
            self.patch(module, name, value)

    def last_call(self, *words):
        """The last call that a command makes."""
        self.plane.calls.clear()
        self.ok(*words)
        return self.plane.calls[-1]


class WordsTest(Base):
    def test_each_command_makes_its_call(self):
        web = {"server": WEB}
        for words, method, args in (
            ("server pause web", "server.pause", web),
            ("server unpause web", "server.unpause", web),
            ("server suspend web", "server.suspend", web),
            ("server resume web", "server.resume", web),
            ("server resize --flavor big web", "server.resize", {**web, "flavor": "big"}),
            ("server resize confirm web", "server.resize_confirm", {"server": "web"}),
            ("server resize revert web", "server.resize_revert", {"server": "web"}),
            ("server migrate confirm web", "server.resize_confirm", {"server": "web"}),
            ("server migrate revert web", "server.resize_revert", {"server": "web"}),
            ("server migration confirm web", "server.resize_confirm", {"server": "web"}),
            ("server migration revert web", "server.resize_revert", {"server": "web"}),
            ("server migrate web", "server.migrate", web),
            ("server migrate --host h2 web", "server.migrate", {**web, "host": "h2"}),
            ("server migrate --live-migration web", "server.live_migrate", web),
            ("server migrate --live-migration --block-migration --host h2 web",
             "server.live_migrate", {**web, "host": "h2", "block_migration": True}),
            ("server migrate --live-migration --shared-migration web", "server.live_migrate",
             {**web, "block_migration": False}),
            ("server migrate --live-migration --strategy postcopy --bandwidth 0 --max-pause 90 web",
             "server.live_migrate",
             {**web, "strategy": "postcopy", "bandwidth": 0, "max_pause": 90}),
            ("server evacuate web", "server.evacuate", {**web, "fenced": False}),
            ("server evacuate --fenced --host h2 web", "server.evacuate",
             {**web, "fenced": True, "host": "h2"}),
            ("server migration abort web", "server.migration_abort", {"server": "web"}),
            ("server migration abort web 7", "server.migration_abort",
             {"server": "web", "migration": 7}),
            ("server migration force complete web", "server.migration_force_complete",
             {"server": "web"}),
            ("host drain stop h1", "host.drain_stop", {"host": "h1"}),
            ("host enable h1", "host.enable", {"host": "h1"}),
            ("host disable h1 --reason r", "host.disable", {"host": "h1", "reason": "r"}),
        ):
            self.assertEqual((method, args), self.last_call(*words.split()), words)

    def test_wrong_usage(self):
        for words in ("server migrate --block-migration web", "server resize web",
                      "server migration list --type x", "server migration abort web seven",
                      "server migrate --block-migration --shared-migration web",
                      "server migrate --max-pause 5 web", "migration set web",
                      "server migrate --live-migration --strategy fast web",
                      "migration set --bandwidth much web"):
            code, _, _ = self.run_cli(*words.split())
            self.assertEqual((2, words), (code, words))

    def test_lists(self):
        self.plane.answers["migration.list"] = [MIGRATION]
        rows = json.loads(self.ok("migration", "list", "-f", "json"))
        self.assertEqual([(7, "web", "live-migration", "running", "h1", "h2")], [
            (r["Id"], r["Server"], r["Type"], r["Status"], r["Source Compute"],
             r["Dest Compute"]) for r in rows])
        self.assertEqual([{}], [args for _, args in self.plane.calls])
        self.assertEqual(
            {"server": "web", "host": "h1", "status": "error", "type": "resize", "all": True},
            self.last_call("server", "migration", "list", "--server", "web", "--host", "h1",
                           "--status", "error", "--type", "resize")[1])

    def test_what_was_asked_for_is_listed(self):
        self.plane.answers["migration.list"] = [
            migration(asked={"strategy": "precopy", "bandwidth": 0, "max_pause": 90}),
            migration(asked={"bandwidth": 20}), migration(asked={}), MIGRATION]
        rows = json.loads(self.ok("migration", "list", "-f", "json"))
        self.assertEqual(
            ["precopy, no limit of bandwidth, a pause of at most 90 ms", "at most 20 MiB/s", "",
             ""], [row["Asked For"] for row in rows])

    def test_set(self):
        self.plane.answers["server.migration_set"] = migration(bandwidth_limit=20, max_pause=90)
        self.assertEqual("web: at most 20 MiB/s, a pause of at most 90 ms from now on.\n",
                         self.ok("migration", "set", "web", "--bandwidth", "20"))
        self.assertEqual(("server.migration_set", {"server": "web", "bandwidth": 20}),
                         self.plane.calls[-1])
        self.assertEqual({"server": "web", "bandwidth": 0, "max_pause": 90}, self.last_call(
            "migration", "set", "--bandwidth", "0", "--max-pause", "90", "web")[1])

    def test_show(self):
        self.plane.answers["server.migration_progress"] = migration(progress=TOLD)
        out = self.ok("server", "migration", "show", "web")
        self.assertIn("3 GiB", out)
        shown = json.loads(self.ok("server", "migration", "show", "web", "7", "-f", "json"))
        self.assertEqual((3 * GIB, "precopy"),
                         (shown["memory_remaining"], shown["progress"]["phase"]))


class WaitTest(Base):
    def test_a_move_that_ends_well(self):
        self.plane.script("server.migration_progress", migration(status="queued"),
                          migration(progress={**TOLD, "bandwidth_limit": 20, "max_pause": 90}),
                          migration(status="completed", ended=True))
        code, out, err = self.run_cli("server", "migrate", "--live-migration", "--wait", "web")
        self.assertEqual((0, "web: live-migration to h2 is completed.\n"), (code, out))
        self.assertIn("live-migration to h2: precopy, 1 GiB of 5 GiB left, dirty 30 MiB/s, "
                      "sent 1 GiB/s, pass 3, CPU throttled by 20 %, at most 20 MiB/s, "
                      "a pause of at most 90 ms, about 12 s", err)

    def test_a_resize_waits_for_a_word(self):
        self.plane.script("server.migration_progress",
                          migration(type="resize", status="pre-migrating"),
                          migration(type="resize", status="finished"))
        code, out, _ = self.run_cli("server", "resize", "--flavor", "f", "--wait", "web")
        self.assertEqual(0, code)
        self.assertIn("magnetar server resize confirm web", out)

    def test_a_move_that_fails_says_why(self):
        self.plane.answers["server.migration_progress"] = migration(
            status="error", ended=True, message="the CPU of h2 is older")
        code, out, err = self.run_cli("server", "migrate", "--live-migration", "--wait", "web")
        self.assertEqual((1, ""), (code, out))
        self.assertIn("web: live-migration is error: the CPU of h2 is older\n"
                      "The server is active on h1.", err)

    def test_it_ends_at_its_deadline(self):
        self.plane.answers["server.migration_progress"] = MIGRATION
        code, _, err = self.run_cli("server", "migrate", "--wait", "--timeout", "0", "web")
        self.assertEqual(1, code)
        self.assertIn("It is running, and goes on.", err)

    def test_a_pause_that_fails_shows_the_hosts_words(self):
        self.plane.answers["server.actions"] = [
            {"events": [{"details": "the guest does not answer"}]}]
        code, _, err = self.run_cli("server", "pause", "--wait", "web")
        self.assertEqual(1, code)
        self.assertIn("web did not become paused: the guest does not answer", err)
        self.plane.script("server.show", server(), server(vm_state="paused"))
        self.assertEqual("", self.ok("server", "pause", "--wait", "web"))


class WatchTest(Base):
    def test_lines_for_people(self):
        self.plane.script("server.migration_progress", migration(status="queued", progress={
            "queue_position": 2}), migration(progress=TOLD), migration(progress=TOLD),
            migration(status="completed", ended=True))
        lines = self.ok("migration", "watch", "web").splitlines()
        self.assertEqual(
            ["web: live-migration to h2: queued, number 2 in the queue, 3 GiB of 4 GiB left",
             "web: live-migration to h2: precopy, 1 GiB of 5 GiB left, dirty 30 MiB/s, "
             "sent 1 GiB/s, pass 3, CPU throttled by 20 %, about 12 s"],
            [line.split("s  ", 1)[1] for line in lines[:2]])
        self.assertEqual("web: live-migration to h2 is completed.", lines[-1])

    def test_what_the_host_tells_counts_more_than_the_record(self):
        now = migration(progress={**TOLD, "memory_remaining": 0})
        self.assertEqual((0, 5 * GIB), watch.amounts(now))

    def test_lines_for_machines(self):
        self.plane.script("server.migration_progress", migration(progress=TOLD),
                          migration(status="error", ended=True, message="no"))
        code, out, err = self.run_cli("migration", "watch", "web", "-f", "json")
        self.assertEqual((1, ""), (code, err))
        first, last = map(json.loads, out.splitlines())
        self.assertEqual((GIB, 5 * GIB, 3, False), (
            first["remaining"], first["total"], first["progress"]["iteration"], first["ended"]))
        self.assertEqual(("error", "no", True), (last["status"], last["message"], last["ended"]))

    def test_all_that_go_on(self):
        other = migration(id=8, server="db", server_id="db-id")
        self.plane.answers["migration.list"] = [MIGRATION, other, migration(
            id=9, status="finished", type="resize")]
        left = {WEB: 2, "db-id": 3}

        def look(args):
            left[args["server"]] -= 1
            one = MIGRATION if args["server"] == WEB else other
            over = left[args["server"]] == 0
            return {**one, "status": "completed" if over else "running", "ended": over}

        self.plane.answers["server.migration_progress"] = look
        out = self.ok("migration", "watch")
        for name in ("web", "db"):
            self.assertIn(f"{name}: live-migration to h2 is completed.", out)
        self.plane.answers["migration.list"] = []
        self.assertEqual("No server is being moved.\n", self.ok("migration", "watch"))

    def test_one_that_failed(self):
        self.plane.answers["server.migration_progress"] = migration(
            status="cancelled", ended=True)
        code, out, err = self.run_cli("migration", "watch", "web")
        self.assertEqual((1, ""), (code, out))
        self.assertIn("web: live-migration is cancelled: it was aborted\n", err)
        self.plane.answers["server.migration_progress"] = NOT_FOUND
        self.assertEqual(1, self.run_cli("migration", "watch", "nix")[0])

    def test_bars_on_a_terminal(self):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        drawn = bytearray()

        def read():
            with contextlib.suppress(OSError):  # the other end is closed
                while piece := os.read(ours, 65536):
                    drawn.extend(piece)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        with os.fdopen(theirs, "w") as terminal:
            self.patch(sys, "stdout", terminal)
            with watch.screen() as screen:
                screen.show(migration(progress=TOLD))
                screen.show(migration(progress={**TOLD, "memory_remaining": 1}))
            self.patch(sys, "stdout", io.StringIO())
        reader.join(PATIENCE)
        self.assertIn(b"precopy", drawn)


class PlanTest(Base):
    ANSWER = {
        "guest": WEB, "source": "h1", "destination": "h2", "strategy": "precopy",
        "reason": "it writes little", "dirty_rate": 30 << 20, "bandwidth": GIB, "seconds": 4.0,
        "downtime_ms": 80, "copies": ["vda"], "verdict": "cannot", "checks": [
            {"name": "cpu", "ok": True, "found": "h2 has all features", "next": "Buy another.",
             "host": "h2"},
            {"name": "memory", "ok": False, "found": "1 GiB free", "next": "Free some.",
             "host": "h2"},
            {"name": "clock", "ok": None, "found": "it was not asked", "next": "", "host": ""}],
    }  # fmt: skip

    def test_for_people_and_machines(self):
        self.plane.answers["server.plan_live_migrate"] = self.ANSWER
        out = self.ok("plan", "live-migrate", "web", "h2", "--block-migration")
        self.assertEqual({"server": "web", "host": "h2", "block_migration": True},
                         self.plane.calls[-1][1])
        for text in ("[ok] cpu: h2 has all features", "[no] memory: 1 GiB free", "Free some.",
                     "[unknown] clock: it was not asked", "30 MiB/s", "Verdict", "cannot"):
            self.assertIn(text, out)
        self.assertNotIn("Buy another", out)
        self.plane.answers["server.plan_live_migrate"] = {
            **self.ANSWER, "bandwidth_limit": 20, "max_pause": 90}
        out = self.ok("plan", "live-migrate", "web", "--strategy", "multifd", "--bandwidth", "20",
                      "--max-pause", "90")
        self.assertEqual({"server": "web", "strategy": "multifd", "bandwidth": 20,
                          "max_pause": 90}, self.plane.calls[-1][1])
        self.assertIn("20 MiB/s", out)
        self.assertIn("90 ms", out)
        self.plane.answers["server.plan_live_migrate"] = self.ANSWER
        self.assertEqual(self.ANSWER,
                         json.loads(self.ok("plan", "live-migrate", "web", "-f", "json")))


class DrainTest(Base):
    def test_it_is_begun_and_left(self):
        self.plane.answers["host.drain"] = DRAIN
        out = self.ok("host", "drain", "h1", "--max", "3")
        self.assertIn("magnetar host drain show h1", out)
        self.assertEqual(("host.drain", {"host": "h1", "max": 3}), self.plane.calls[-1])

    def test_it_is_waited_for(self):
        self.plane.answers["host.drain"] = DRAIN
        self.plane.script("host.drain_show", DRAIN, {
            **DRAIN, "status": "done", "moved": 3, "moving": [], "left": []})
        code, out, err = self.run_cli("host", "drain", "--wait", "h1")
        self.assertEqual((0, "All 3 servers left h1.\n"), (code, out))
        self.assertIn("h1: web to h2 (running) (1/3)", err)

    def test_what_is_left_and_why(self):
        self.plane.answers["host.evacuate"] = {**DRAIN, "status": "stuck"}
        code, _, err = self.run_cli("host", "evacuate", "--fenced", "--wait", "h1")
        self.assertEqual(1, code)
        self.assertIn("db: it is suspended", err)
        self.assertEqual({"host": "h1", "fenced": True}, self.plane.calls[-1][1])
        self.plane.answers["host.evacuate"] = Refused("No.", code="not_fenced")
        self.assertEqual(1, self.run_cli("host", "evacuate", "h1")[0])

    def test_show_and_the_end_of_waiting(self):
        self.plane.answers.update({"host.drain_show": DRAIN, "host.drain": DRAIN})
        out = self.ok("host", "drain", "show", "h1")
        for text in ("Moving", "web", "Left", "it is suspended"):
            self.assertIn(text, out)
        code, _, err = self.run_cli("host", "drain", "--wait", "--timeout", "0", "h1")
        self.assertEqual(1, code)
        self.assertIn("1 of 3 servers left it; it goes on.", err)
