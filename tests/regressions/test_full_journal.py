"""A journal that could not be written was taken for a step that failed: when there was room again
the operation was undone, and a request that could not be written at all was answered by a
traceback.
"""

from sqlalchemy.exc import OperationalError

from compute.errors import Retryable
from db.journal import rows
from tests.unit.engine_support import EngineTest, Verb

FULL = OperationalError("UPDATE", {}, Exception("database or disk is full"))


class FullJournalTest(EngineTest):
    def test_the_operation_goes_on_when_there_is_room(self):
        operation = Verb("act", [self.step("one"), self.step("two")])
        runner = self.runner(operation)
        record = self.journal.record
        self.journal.record = self.full
        self.assertRaises(OperationalError, runner.to_end)
        self.journal.record = record
        [row] = self.journal.find()
        self.assertEqual((rows.RUNNING, None), (row.state, row.error))
        self.assertEqual(rows.DONE, self.run_it(operation, row).state)
        self.assertEqual([], [s for s in self.said if s.startswith("undo")])

    def test_a_request_is_answered_clearly(self):
        manager = self.manager(Verb("act", [self.step("one")]))
        self.journal.accept = self.full
        error = self.assertRaises(Retryable, manager.accept, "act", "guest", "req", {}, {})
        self.assertIn("database or disk is full", error.what)

    @staticmethod
    def full(*args, **kwargs):
        raise FULL
