"""The journal: one effect for a request, one holder for a guest, claims, and several processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import fixtures
import sqlalchemy as sa
import testtools

from compute.errors import Refused
from db.engine import current, migrate, newest, open_engine
from db.journal import Journal, rows
from tests.waiting import PATIENCE

GUEST, OTHER = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"

CHILD = """
import json, sys
from compute.errors import Refused
from db.engine import open_engine
from db.journal import Journal
import time
journal = Journal(open_engine("sqlite:///" + sys.argv[1], durable=True), time.time)
taken = []
for number in range(int(sys.argv[3])):
    try:
        row, new = journal.accept("stop", f"guest-{number}", "req-" + sys.argv[2], {})
        taken.append(row.id if new else "known")
    except Refused as error:
        taken.append(error.code)
print(json.dumps(taken))
"""


class JournalTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.useFixture(fixtures.TempDir()).path, "journal.sqlite")
        self.time = 1000.0
        self.journal = self.open()

    def open(self) -> Journal:
        engine = open_engine(f"sqlite:///{self.path}", durable=True)
        self.addCleanup(engine.dispose)
        migrate(engine, "journal")
        return Journal(engine, lambda: self.time)

    def accept(self, verb="stop", guest=GUEST, request="req-1", **kwargs):
        self.time += 1
        return self.journal.accept(verb, guest, request, {"args": {"n": 1}}, **kwargs)

    def busy(self, *args, **kwargs) -> Refused:
        error = self.assertRaises(Refused, self.accept, *args, **kwargs)
        self.assertEqual("busy", error.code)
        self.assertTrue(error.now and error.next)
        return error


class AcceptTest(JournalTest):
    def test_a_request_is_there_when_it_is_accepted(self):
        row, new = self.accept(deadline=1234.0)
        self.assertTrue(new)
        found = self.open().get(row.id)  # another connection, as after a crash
        self.assertEqual(row, found)
        self.assertEqual((rows.ACCEPTED, True, GUEST, {"args": {"n": 1}}, 1234.0, 1001.0),
                         (found.state, found.active, found.lock, found.request, found.deadline,
                          found.created))

    def test_the_same_request_gives_the_same_row(self):
        row, _ = self.accept()
        again, new = self.accept()
        self.assertEqual((row.id, False), (again.id, new))
        self.journal.update(row.id, state=rows.DONE)
        again, new = self.accept()
        self.assertEqual((row.id, False), (again.id, new))

    def test_another_request_is_told_who_holds_the_guest(self):
        row, _ = self.accept()
        self.journal.intend(row.id, rows.FORWARD, 0, "shutdown", {})
        error = self.busy("start", request="req-2")
        self.assertIn(f"is busy with stop, at step shutdown (operation {row.id})", error.what)
        self.assertIn(f"magnetar op show {row.id}", error.next)
        self.assertEqual(1, len(self.journal.find()))

    def test_another_guest_is_not_held_up(self):
        self.accept()
        self.assertTrue(self.accept(guest=OTHER)[1])

    def test_when_it_has_ended_the_next_one_may(self):
        for state in rows.ENDED:
            row, _ = self.accept(request=f"req-{state}")
            self.journal.update(row.id, state=state)
            ended = self.journal.get(row.id)
            self.assertEqual((False, None), (ended.active, ended.lock))
        self.assertTrue(self.accept(request="req-last")[1])

    def test_one_that_waits_for_an_operator_still_holds_the_guest(self):
        row, _ = self.accept()
        self.journal.update(row.id, state=rows.NEEDS_OPERATOR)
        self.busy("start", request="req-2")

    def test_who_has_told_his_result_is_waited_for(self):
        """A tenant may act on what he sees while the operation still tidies up."""
        row, _ = self.accept()
        after, new = self.accept("start", request="req-2", nearly_over=lambda holder: True)
        self.assertEqual((True, row.id, None), (new, after.waits_for, after.lock))
        self.assertIsNone(self.journal.get(row.id).abort)
        self.busy("reboot", request="req-3", nearly_over=lambda holder: True)
        self.assertFalse(self.journal.take_lock(after.id))
        self.journal.update(row.id, state=rows.DONE)
        self.assertTrue(self.journal.take_lock(after.id))


class PreemptTest(JournalTest):
    def test_a_delete_tells_the_holder_to_stop_and_waits(self):
        row, _ = self.accept("spawn")
        delete, _ = self.accept("delete", request="req-2", preempts=True)
        self.assertEqual((row.id, None), (delete.waits_for, delete.lock))
        self.assertEqual("a delete was asked for", self.journal.get(row.id).abort)
        self.assertFalse(self.journal.take_lock(delete.id))
        self.busy("start", request="req-3")
        self.journal.update(row.id, state=rows.UNDONE)
        self.busy("start", request="req-4")
        self.assertTrue(self.journal.take_lock(delete.id))
        held = self.journal.get(delete.id)
        self.assertEqual((GUEST, None), (held.lock, held.waits_for))
        self.assertTrue(self.journal.take_lock(delete.id))

    def test_a_second_delete_joins_the_first(self):
        row, _ = self.accept("delete", preempts=True)
        again, new = self.accept("delete", request="req-2", preempts=True)
        self.assertEqual((row.id, False), (again.id, new))
        self.assertIsNone(self.journal.get(row.id).abort)

    def test_a_second_delete_joins_one_that_waits(self):
        self.accept("spawn")
        row, _ = self.accept("delete", request="req-2", preempts=True)
        again, new = self.accept("delete", request="req-3", preempts=True)
        self.assertEqual((row.id, False), (again.id, new))

    def test_what_only_waits_gives_way(self):
        stop, _ = self.accept("stop")
        start, _ = self.accept("start", request="req-2", nearly_over=lambda holder: True)
        delete, _ = self.accept("delete", request="req-3", preempts=True)
        self.assertEqual(stop.id, delete.waits_for)
        start = self.journal.get(start.id)
        self.assertEqual((rows.UNDONE, False, None), (start.state, start.active, start.waits_for))
        self.assertFalse(self.journal.take_lock(start.id))

    def test_one_that_waits_for_an_operator_gives_way(self):
        row, _ = self.accept("stop")
        self.journal.update(row.id, state=rows.NEEDS_OPERATOR)
        delete, _ = self.accept("delete", request="req-2", preempts=True)
        self.assertEqual((GUEST, None), (delete.lock, delete.waits_for))
        old = self.journal.get(row.id)
        self.assertEqual((rows.UNDONE, False, "superseded by a delete"),
                         (old.state, old.active, old.message))

    def test_the_lock_of_what_has_ended_cannot_be_taken(self):
        row, _ = self.accept()
        self.journal.update(row.id, state=rows.DONE)
        self.assertFalse(self.journal.take_lock(row.id))
        self.assertFalse(self.journal.take_lock("no-such-operation"))


class StepTest(JournalTest):
    def test_steps_are_listed_in_order_with_the_conclusion_last(self):
        row, _ = self.accept()
        for phase, seq, name in ((rows.CONCLUDE, 0, "restore"), (rows.FORWARD, 1, "off"),
                                 (rows.FORWARD, 0, "shutdown")):
            self.journal.intend(row.id, phase, seq, name, {"undo": name})
        self.assertEqual(["shutdown", "off", "restore"],
                         [s.name for s in self.journal.steps(row.id)])

    def test_an_outcome_and_an_undo(self):
        row, _ = self.accept()
        self.journal.update(row.id, attempts=3, message="attempt 3")
        self.journal.intend(row.id, rows.FORWARD, 0, "off", {}, [("disks", GUEST, {"a": 1})])
        self.journal.record(row.id, rows.FORWARD, "off", {"clean": True}, 1)
        [step] = self.journal.steps(row.id)
        self.assertEqual((rows.STEP_DONE, {"clean": True}), (step.state, step.outcome))
        row = self.journal.get(row.id)
        self.assertEqual((1, 0, None), (row.steps_done, row.attempts, row.message))
        self.journal.record_undo(row.id, "off", {"what": "stuck"})
        self.assertEqual((rows.UNDO_FAILED, {"what": "stuck"}),
                         (self.journal.steps(row.id)[0].state, self.journal.steps(row.id)[0].error))
        self.journal.reopen(row.id)
        self.assertEqual(rows.STEP_DONE, self.journal.steps(row.id)[0].state)
        self.journal.record_undo(row.id, "off", None)
        self.assertEqual(rows.STEP_UNDONE, self.journal.steps(row.id)[0].state)

    def test_an_intent_that_cannot_be_written_claims_nothing(self):
        row, _ = self.accept()
        self.journal.intend(row.id, rows.FORWARD, 0, "off", {})
        self.assertRaises(sa.exc.IntegrityError, self.journal.intend, row.id, rows.FORWARD, 0,
                          "off", {}, [("disks", GUEST, {})])
        self.assertEqual([], self.journal.claims())

    def test_old_operations_are_forgotten_with_their_steps(self):
        old, _ = self.accept()
        self.journal.intend(old.id, rows.FORWARD, 0, "off", {})
        self.journal.update(old.id, state=rows.DONE)
        self.time += 100
        new, _ = self.accept(request="req-2")
        self.assertEqual(1, self.journal.forget(self.time - 50))
        self.assertEqual([new.id], [r.id for r in self.journal.find()])
        self.assertEqual([], self.journal.steps(old.id))
        self.assertEqual(0, self.journal.forget(self.time + 50), "one that goes on is kept")


class ClaimTest(JournalTest):
    def test_claims_by_kind_and_guest(self):
        for kind, guest in (("disks", GUEST), ("domain", GUEST), ("disks", OTHER)):
            self.journal.claim(kind, guest, guest, "op", {"n": 1})
        self.assertEqual(2, len(self.journal.claims(kind="disks")))
        self.assertEqual({"disks", "domain"}, {c.kind for c in self.journal.claims(guest=GUEST)})
        self.journal.claim("disks", GUEST, GUEST, "op-2", {"n": 2})
        [claim] = self.journal.claims(kind="disks", guest=GUEST)
        self.assertEqual(("op-2", {"n": 2}), (claim.operation, claim.data))
        self.journal.release(guest=GUEST, kind="disks")
        self.assertEqual(["domain"], [c.kind for c in self.journal.claims(guest=GUEST)])
        self.journal.release(guest=GUEST)
        self.assertEqual([OTHER], [c.guest for c in self.journal.claims()])

    def test_facts(self):
        self.assertIsNone(self.journal.fact("boot_id"))
        for value in ("a", "b", {"n": [1]}):
            self.journal.set_fact("boot_id", value)
            self.assertEqual(value, self.journal.fact("boot_id"))


class RowTest(testtools.TestCase):
    def test_rows_are_read_by_the_order_of_their_columns(self):
        for made, table in ((rows.OperationRow, rows.operations), (rows.StepRow, rows.steps),
                            (rows.Claim, rows.claims)):
            self.assertEqual([column.name for column in table.columns],
                             [field.name for field in dataclasses.fields(made)])


class FileTest(JournalTest):
    def test_reading_waits_for_no_writer(self):
        row, _ = self.accept()
        writer = self.journal.engine.connect()
        self.addCleanup(writer.close)
        writer.execute(rows.operations.update().values(message="not committed"))
        began = time.monotonic()
        self.assertIsNone(self.journal.row(row.id).message)
        self.assertLess(time.monotonic() - began, 25)  # a writer would wait for 30 s, then fail

    def test_it_survives_power_loss_as_far_as_sqlite_can(self):
        with self.journal.engine.connect() as connection:
            pragmas = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                       for name in ("journal_mode", "synchronous", "foreign_keys")}
        self.assertEqual({"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}, pragmas)

    def test_it_is_at_the_newest_revision_and_migrating_again_changes_nothing(self):
        engine = self.journal.engine
        self.assertEqual(newest("journal"), current(engine, "journal"))
        self.accept()
        migrate(engine, "journal")
        self.assertEqual(1, len(self.journal.find()))

    def test_find_gives_the_newest_in_order(self):
        for number in range(5):
            row, _ = self.accept(request=f"req-{number}")
            self.journal.update(row.id, state=rows.DONE)
        found = self.journal.find(guest=GUEST, limit=2)
        self.assertEqual(["req-3", "req-4"], [r.request_id for r in found])

    def test_two_processes_share_one_journal_and_one_lock_for_each_guest(self):
        count = 25
        children = [subprocess.Popen(
            [sys.executable, "-c", CHILD, self.path, name, str(count)], stdout=subprocess.PIPE,
            cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
        ) for name in ("a", "b")]
        answers = [json.loads(child.communicate(timeout=PATIENCE)[0]) for child in children]
        self.assertEqual([0, 0], [child.returncode for child in children])
        for pair in zip(*answers, strict=True):
            self.assertEqual(1, list(pair).count("busy"), pair)
        self.assertEqual(count, len(self.journal.find(active=True)))
        self.assertEqual(count, len({row.lock for row in self.journal.find()}))
