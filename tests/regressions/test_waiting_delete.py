"""A delete that waited for an operation waited for ever when that came to need an operator, and was
forgotten until the next pass when the lock was freed just as it looked."""

import os

from compute.errors import Failed
from db.journal import rows
from tests.unit.engine_support import Verb
from tests.unit.test_manager_accept import ManagerTest
from tests.waiting import wait_until


class WaitingTest(ManagerTest):
    def test_a_waiting_delete_takes_over_from_one_that_needs_an_operator(self):
        one = self.held(do=[Failed("No.")], undo=[Failed("Stuck.")])
        manager = self.manager(Verb("act", [one]),
                               Verb("delete", [self.step("two")], preempts=True))
        first = self.accept(manager, admin_password="secret-word")
        wait_until(one.during.reached.is_set)
        second = self.accept(manager, "delete", "req-2")
        one.during.go.set()
        self.ends(second, rows.DONE)
        first = self.journal.get(first.id)
        self.assertEqual((rows.UNDONE, "superseded by a delete"), (first.state, first.message))
        self.assertEqual([], os.listdir(os.path.join(self.root, "secrets")))

    def test_no_waiter_is_forgotten(self):
        """The lock may be freed just when a waiter looked for it in vain."""
        manager = self.manager(Verb("act", [self.step("one")], final="one"),
                               Verb("delete", [self.step("two")], preempts=True))
        for number in range(30):
            first = manager.accept("act", f"guest-{number}", "req-1", {}, {})
            second = manager.accept("delete", f"guest-{number}", "req-2", {}, {})
            self.assertNotEqual(first.id, second.id)
        wait_until(lambda: not self.journal.find(active=True))
