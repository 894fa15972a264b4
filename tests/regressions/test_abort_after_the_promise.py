"""An operation past its point of no return that waited for an operator could be aborted: a guest
that its tenant had been told of was taken away again.
"""

from compute.errors import NeedsOperator, Refused
from db.journal import rows
from tests.unit.engine_support import Verb
from tests.unit.test_manager_accept import ManagerTest


class AbortTest(ManagerTest):
    def refused(self, code, manager, operation, reason="because"):
        error = self.assertRaises(Refused, manager.abort, operation, reason)
        self.assertEqual(code, error.code)
        return error

    def test_past_the_point_of_no_return_and_waiting_for_an_operator(self):
        """Undoing it would take away what a tenant has been told that he has."""
        steps = [self.step("one"), self.step("two", do=[NeedsOperator("Look.")])]
        manager = self.manager(Verb("act", steps, final="one"))
        row = self.ends(self.accept(manager), rows.NEEDS_OPERATOR)
        error = self.refused("too_late", manager, row.id)
        self.assertIn(f"magnetar op resolve {row.id}", error.next)
        self.assertEqual(rows.NEEDS_OPERATOR, self.journal.get(row.id).state)
