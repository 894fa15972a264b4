"""From a request to a worker: secrets apart, one effect, and the way out at any moment."""

from __future__ import annotations

import os
import threading

import fixtures
from sqlalchemy.exc import OperationalError

from compute.engine import runner
from compute.engine.clock import SystemClock
from compute.errors import Failed, NeedsOperator, Refused, Retryable, Unknown
from compute.manager import split_secrets
from db.journal import rows
from tests.unit.engine_support import GUEST, EngineTest, Verb
from tests.waiting import PATIENCE, wait_until

CONTEXT = {"request_id": "req", "auth_token": "token-word", "service_catalog": [1],
           "user_id": "u"}


NEVER = 100_000.0  # seconds


class Hold:
    """A step's ``during`` that stands still until it is let go."""

    def __init__(self):
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, run):
        self.reached.set()
        wait_until(self.go.is_set)


class ManagerTest(EngineTest):
    def setUp(self):
        super().setUp()
        self.world.clock = SystemClock()
        self.journal.now = self.world.clock.now

    def accept(self, manager, verb="act", request="req", **args):
        return manager.accept(verb, GUEST, request, args, {**CONTEXT, "request_id": request})

    def ends(self, row, state):
        found = wait_until(lambda: self._ended(row))
        self.assertEqual(state, found.state, found.error)
        return found

    def _ended(self, row):
        found = self.journal.get(row.id)
        return found if not found.active or found.state == rows.NEEDS_OPERATOR else None

    def held(self, name="one", **script):
        step = self.step(name, **script)
        step.during = Hold()
        return step


class AcceptTest(ManagerTest):
    def test_it_is_written_down_carried_out_and_told(self):
        ended = []
        manager = self.manager(Verb("act", [self.step("one")]), ended=ended.append)
        row = self.accept(manager, size=1)
        self.ends(row, rows.DONE)
        wait_until(lambda: ended)
        self.assertEqual([row.id], [r.id for r in ended])
        self.assertEqual({"args": {"size": 1}, "context": {"request_id": "req", "user_id": "u"}},
                         row.request)

    def test_the_same_request_has_one_effect(self):
        manager = self.manager(Verb("act", [self.step("one")]))
        first = self.accept(manager)
        self.assertEqual(first.id, self.accept(manager).id)
        self.ends(first, rows.DONE)
        self.assertEqual(first.id, self.accept(manager).id)
        self.assertEqual(["do one"], self.said)

    def test_a_request_that_cannot_be_understood_leaves_nothing(self):
        operation = Verb("act", [self.step("one")])
        operation.check = lambda request: (_ for _ in ()).throw(Refused("What?", code="bad"))
        manager = self.manager(operation)
        self.assertRaises(Refused, self.accept, manager, admin_password="secret-word")
        self.assertEqual(([], []), (self.journal.find(), self.secrets()))

    def test_busy_leaves_no_secrets(self):
        one = self.held()
        manager = self.manager(Verb("act", [one]), Verb("other", [self.step("two")]))
        row = self.accept(manager)
        wait_until(one.during.reached.is_set)
        error = self.assertRaises(Refused, self.accept, manager, "other", "req-2",
                                  admin_password="secret-word")
        self.assertEqual("busy", error.code)
        self.assertEqual([f"{row.id}.context"], self.secrets())
        one.during.go.set()
        self.ends(row, rows.DONE)

    def test_a_journal_that_cannot_be_written_is_said_and_nothing_is_left(self):
        manager = self.manager(Verb("act", [self.step("one")]))
        full = OperationalError("INSERT", {}, Exception("database or disk is full"))
        self.patch(self.journal, "accept", lambda *a, **k: (_ for _ in ()).throw(full))
        error = self.assertRaises(Retryable, self.accept, manager, admin_password="secret-word")
        self.assertEqual("journal_unwritable", error.code)
        self.assertIn("database or disk is full", error.what)
        self.assertTrue(error.now and error.next)
        self.assertEqual(([], []), (self.secrets(), self.said))

    def test_so_are_secrets_that_cannot_be_written(self):
        manager = self.manager(Verb("act", [self.step("one")]))
        full = OSError(28, "No space left on device")
        self.patch(self.world.secrets, "keep", lambda *a: (_ for _ in ()).throw(full))
        error = self.assertRaises(Retryable, self.accept, manager, admin_password="secret-word")
        self.assertEqual("journal_unwritable", error.code)
        self.assertEqual([], self.journal.find())

    def secrets(self):
        return os.listdir(os.path.join(self.root, "secrets"))


class SecretTest(ManagerTest):
    def test_passwords_tokens_and_files_are_neither_in_the_journal_nor_in_logs(self):
        seen = {}
        one = self.held()
        inner = one.during

        def during(run):
            seen["guest"] = self.world.secrets.load(run.row.id, "guest")
            seen["token"] = run.context["auth_token"]
            inner(run)

        one.during = during
        manager = self.manager(Verb("act", [one]))
        row = self.accept(manager, admin_password="secret-word",
                          injected_files=[["/etc/motd", "c2VjcmV0LWZpbGU="]])
        wait_until(inner.reached.is_set)
        self.assertEqual({"admin_pass": "secret-word",
                          "files": [["/etc/motd", "c2VjcmV0LWZpbGU="]]}, seen["guest"])
        self.assertEqual("token-word", seen["token"])
        self.assert_not_written()
        directory = os.path.join(self.root, "secrets")
        self.assertEqual([0o700, 0o600, 0o600], [os.stat(p).st_mode & 0o777 for p in (
            directory, *(os.path.join(directory, n) for n in os.listdir(directory)))])
        inner.go.set()
        self.ends(row, rows.DONE)
        self.assertEqual([], os.listdir(directory))
        self.assert_not_written()

    def assert_not_written(self):
        for name in os.listdir(self.root):
            path = os.path.join(self.root, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    text = file.read()
                for word in (b"secret-word", b"token-word", b"c2VjcmV0LWZpbGU="):
                    self.assertNotIn(word, text, name)
        for word in ("secret-word", "token-word", "c2VjcmV0LWZpbGU="):
            self.assertNotIn(word, self.log.output)

    def test_what_is_split_off(self):
        public, secret = split_secrets({"admin_password": "p", "injected_files": [], "x": 1},
                                       CONTEXT)
        self.assertEqual({"args": {"x": 1}, "context": {"request_id": "req", "user_id": "u"}},
                         public)
        self.assertEqual({"guest": {"admin_pass": "p"}, "context": {"auth_token": "token-word"}},
                         secret)


class AbortTest(ManagerTest):
    def refused(self, code, manager, operation, reason="because"):
        error = self.assertRaises(Refused, manager.abort, operation, reason)
        self.assertEqual(code, error.code)
        return error

    def test_while_a_step_runs(self):
        one = self.held()
        manager = self.manager(Verb("act", [one, self.step("two")]))
        row = self.accept(manager)
        wait_until(one.during.reached.is_set)
        manager.abort(row.id, "an operator stopped it")
        one.during.go.set()
        row = self.ends(row, rows.UNDONE)
        self.assertEqual("aborted", row.error["code"])
        self.assertEqual(["do one", "undo one"], self.said)

    def test_while_it_waits_for_another_attempt(self):
        self.patch(runner, "FIRST_DELAY", NEVER)
        self.patch(runner, "LONGEST_DELAY", NEVER)
        one = self.step("one", do=[Unknown("Who knows.")])
        manager = self.manager(Verb("act", [one]))
        row = self.accept(manager)
        wait_until(lambda: self.journal.get(row.id).attempts)
        manager.abort(row.id, "an operator stopped it")
        self.ends(row, rows.UNDONE)
        self.assertEqual(1, self.said.count("do one"))

    def test_before_it_was_begun(self):
        one = self.held()
        manager = self.manager(Verb("act", [one, self.step("never")]),
                               Verb("delete", [self.step("two")], preempts=True))
        first = self.accept(manager)
        wait_until(one.during.reached.is_set)
        second = self.accept(manager, "delete", "req-2")
        manager.abort(second.id, "an operator stopped it")
        one.during.go.set()
        self.ends(first, rows.UNDONE)
        self.ends(second, rows.UNDONE)
        self.assertNotIn("do two", self.said)

    def test_one_that_needs_an_operator_is_undone(self):
        steps = [self.step("one"), self.step("two", do=[NeedsOperator("Look.")])]
        manager = self.manager(Verb("act", steps))
        row = self.ends(self.accept(manager), rows.NEEDS_OPERATOR)
        manager.abort(row.id, "an operator stopped it")
        wait_until(lambda: self.journal.get(row.id).state == rows.UNDONE)
        self.assertEqual(["undo two", "undo one"], self.said[-2:])

    def test_one_that_needs_an_operator_whose_worker_has_not_gone_yet(self):
        steps = [self.step("one"), self.step("two", do=[NeedsOperator("Look.")])]
        manager = self.manager(Verb("act", steps))
        asks = runner.Runner._needs_operator

        def asked_and_aborted(one, *args):
            asks(one, *args)
            manager.abort(one.run.row.id, "an operator was quick")

        self.patch(runner.Runner, "_needs_operator", asked_and_aborted)
        row = self.accept(manager)
        wait_until(lambda: self.journal.get(row.id).state == rows.UNDONE)
        self.assertEqual(["undo two", "undo one"], self.said[-2:])

    def test_a_journal_that_cannot_be_written_is_said_and_it_goes_on(self):
        one = self.held()
        manager = self.manager(Verb("act", [one, self.step("two")]))
        row = self.accept(manager)
        wait_until(one.during.reached.is_set)
        full = OperationalError("UPDATE", {}, Exception("database or disk is full"))
        with fixtures.MonkeyPatch("db.journal.journal.Journal.update",
                                  lambda *a, **k: (_ for _ in ()).throw(full)):
            error = self.assertRaises(Retryable, manager.abort, row.id, "in vain")
        self.assertEqual("journal_unwritable", error.code)
        self.assertIn("abort the act of guest", error.what)
        one.during.go.set()
        self.ends(row, rows.DONE)

    def test_past_the_point_of_no_return(self):
        one = self.held()
        manager = self.manager(Verb("act", [one, self.step("two")], final="one"))
        row = self.accept(manager)
        wait_until(one.during.reached.is_set)
        error = self.refused("too_late", manager, row.id)
        self.assertIn("past its point of no return (one)", error.what)
        one.during.go.set()
        self.ends(row, rows.DONE)

    def test_while_it_is_being_undone_and_after_its_end(self):
        two = self.step("two", do=[Failed("No.")])
        undoing = Hold()
        one = self.step("one")
        one.undo = lambda run, data: undoing(run)
        manager = self.manager(Verb("act", [one, two]))
        row = self.accept(manager)
        wait_until(undoing.reached.is_set)
        manager.abort(row.id, "an operator stopped it")
        undoing.go.set()
        self.ends(row, rows.UNDONE)
        error = self.refused("operation_ended", manager, row.id)
        self.assertIn("has ended (undone)", error.what)

    def test_one_that_is_not_there(self):
        self.refused("operation_not_found", self.manager(), "no-such-operation")


class QueueTest(ManagerTest):
    def test_a_delete_goes_before_everything(self):
        one = self.held()
        manager = self.manager(Verb("act", [one, self.step("never")]),
                               Verb("delete", [self.step("two")], preempts=True))
        first = self.accept(manager)
        wait_until(one.during.reached.is_set)
        second = self.accept(manager, "delete", "req-2")
        one.during.go.set()
        self.ends(first, rows.UNDONE)
        self.ends(second, rows.DONE)
        self.assertEqual(["do one", "undo one", "do two"], self.said)

    def test_what_comes_while_the_result_is_told_waits_for_its_end(self):
        record = self.held("record")
        manager = self.manager(Verb("act", [self.step("one"), record], final="record"),
                               Verb("next", [self.step("two")]))
        first = self.accept(manager)
        wait_until(record.during.reached.is_set)
        second = self.accept(manager, "next", "req-2")
        self.assertEqual(first.id, second.waits_for)
        record.during.go.set()
        self.ends(first, rows.DONE)
        self.ends(second, rows.DONE)
        self.assertIsNone(self.journal.get(first.id).abort)


class ParkTest(ManagerTest):
    def test_it_waits_for_the_step_and_no_longer(self):
        one = self.held()
        manager = self.manager(Verb("act", [one, self.step("two")]))
        row = self.accept(manager)
        wait_until(one.during.reached.is_set)
        self.assertFalse(manager.park(0.1))
        one.during.go.set()
        self.assertTrue(manager.park(PATIENCE))
        row = self.journal.get(row.id)
        self.assertEqual((rows.RUNNING, True, ["do one"]), (row.state, row.active, self.said))

    def test_what_is_accepted_afterwards_waits_in_the_journal(self):
        manager = self.manager(Verb("act", [self.step("one")]))
        self.assertTrue(manager.park(PATIENCE))
        row = self.accept(manager)
        self.assertEqual((rows.ACCEPTED, [], []), (
            self.journal.get(row.id).state, self.said, manager.running()))
        again = self.manager(Verb("act", [self.step("one")]))
        again.start(row)
        self.ends(row, rows.DONE)

    def test_a_worker_that_breaks_is_logged_and_the_operation_kept(self):
        broken = OperationalError("UPDATE", {}, Exception("database or disk is full"))
        one = self.step("one", do=[broken, None])
        manager = self.manager(Verb("act", [one]))
        row = self.accept(manager)
        wait_until(lambda: not manager.running())
        self.assertEqual(rows.RUNNING, self.journal.get(row.id).state)
        self.assertIn("reconciliation will start it again", self.log.output)
        manager.start(self.journal.get(row.id))
        self.ends(row, rows.DONE)

    def test_what_follows_an_end_may_fail(self):
        def ended(row):
            raise KeyError("x")

        manager = self.manager(Verb("act", [self.step("one")]), ended=ended)
        self.ends(self.accept(manager), rows.DONE)
        wait_until(lambda: "What follows the end" in self.log.output)

    def test_wake_ends_a_pause(self):
        """Without it none of the pauses would end."""
        self.patch(runner, "FIRST_DELAY", NEVER)
        self.patch(runner, "LONGEST_DELAY", NEVER)
        one = self.step("one", do=[Unknown("Who knows.")] * 7 + [None])
        manager = self.manager(Verb("act", [one]))
        row = self.accept(manager)

        def ended():
            manager.wake(GUEST)
            manager.wake_all()
            return not self.journal.get(row.id).active

        wait_until(ended)
