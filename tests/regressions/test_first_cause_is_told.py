"""When an undo came to need an operator, its error took the place of the first one: after the
operator had mended it, a build that was to be tried elsewhere was treated by the wrong code."""

from compute.errors import Failed
from db.journal import rows
from tests.unit.engine_support import EngineTest, Verb


class CauseTest(EngineTest):
    def test_the_first_error_decides_the_conclusion(self):
        told = []
        operation = Verb("act", [
            self.step("one", undo=[Failed("Stuck.", code="stuck"), None]),
            self.step("two", do=[Failed("First.", code="first")])])
        operation.concludes = lambda run, error: told.append(error.code) or ()
        row = self.run_it(operation)
        self.assertEqual((rows.NEEDS_OPERATOR, "stuck"), (row.state, row.error["code"]))
        self.journal.reopen(row.id)
        self.journal.update(row.id, state=rows.UNDOING)
        row = self.run_it(operation, row)
        self.assertEqual((rows.UNDONE, "first"), (row.state, row.error["code"]))
        self.assertEqual({"first"}, set(told))
