"""Soft delete, restore and reclaim through RPC, agent and fake driver."""

from __future__ import annotations

import datetime

from compute.errors import Failed, Refused
from compute.model import states
from compute.rpc import primitives
from db.control import instances
from db.control.types import utcnow
from db.journal import rows
from tests.functional.agent_support import AgentTest, Once
from tests.waiting import wait_until

INTERVAL = 3600


class SoftDeleteTest(AgentTest):
    options = {"reclaim_instance_interval": INTERVAL}

    def fields(self, uuid: str) -> dict:
        return primitives.data(self.cloud.instance(uuid))

    def old(self, uuid: str, seconds: int = INTERVAL) -> None:
        """It was deleted so long ago."""
        self.cloud.change(uuid, deleted_at=utcnow() - datetime.timedelta(seconds=seconds))

    def deleted(self, name: str) -> str:
        """A server that was deleted, and can be restored."""
        uuid = self.cloud.boot(name)
        self.control.server_delete(uuid)
        self.cloud.wait_for(uuid, states.SOFT_DELETED)
        self.host.at_rest()
        return uuid

    def gone(self, uuid: str) -> bool:
        return self.show(uuid)["vm_state"] == states.DELETED

    def show(self, uuid: str) -> dict:
        return self.control.server_show(uuid)

    def reclaims(self) -> None:
        """One pass, to the end of what it begins."""
        self.host.reconcile()

    def fault(self, uuid: str) -> str:
        with self.control.store.begin() as connection:
            return instances.faults(connection, [uuid])[0]["message"]

    def test_deleted_and_restored(self):
        uuid = self.deleted("web")
        shown = self.show(uuid)
        self.assertEqual(("SOFT_DELETED", "shut down"), (shown["status"], shown["power_state"]))
        self.assertEqual(states.SHUTDOWN, self.host.power(uuid))
        self.assertIsNotNone(self.fields(uuid)["deleted_at"])
        self.assert_clean()
        self.control.server_restore(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_ended(rows.DONE, uuid, "restore")
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assertIsNone(self.fields(uuid)["deleted_at"])
        self.assertEqual(
            [("create", "Success"), ("delete", "Success"), ("restore", "Success")],
            [(a["action"], a["events"][-1]["result"]) for a in self.control.server_actions(uuid)])
        self.assertEqual(["compute_soft_delete_instance", "compute_restore_instance"],
                         [a["events"][0]["event"] for a in self.control.server_actions(uuid)[1:]])
        self.assert_clean()

    def test_the_messages_of_a_stock_nova(self):
        uuid = self.cloud.boot("web")
        self.cloud.change(uuid, task_state=states.SOFT_DELETING, deleted_at=utcnow())
        self.cloud.cast(uuid, "soft_delete_instance")
        self.cloud.wait_for(uuid, states.SOFT_DELETED)
        self.cloud.change(uuid, task_state=states.RESTORING, deleted_at=None)
        self.cloud.cast(uuid, "restore_instance")
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_messages_that_were_lost(self):
        uuid = self.cloud.boot("web")
        self.cloud.change(uuid, task_state=states.SOFT_DELETING)
        self.host.reconcile()
        self.assertEqual(states.SOFT_DELETED, self.show(uuid)["vm_state"])
        self.cloud.change(uuid, task_state=states.RESTORING)
        self.host.reconcile()
        self.assertEqual(states.ACTIVE, self.show(uuid)["vm_state"])
        self.assert_clean()

    def test_a_second_delete_is_for_good_and_the_same_one_is_not(self):
        uuid = self.cloud.boot("web")
        for _ in range(2):
            self.control.server_delete(uuid, request_id="req-once")
            self.cloud.wait_for(uuid, states.SOFT_DELETED)
        self.control.server_delete(uuid)
        wait_until(lambda: self.gone(uuid))
        self.assert_ended(rows.DONE, uuid, "delete")
        self.assertEqual([], list(self.host.driver.guest_dirs()))
        self.assert_clean()

    def test_forced(self):
        uuid = self.cloud.boot("web")
        self.control.server_delete(uuid, force=True)
        wait_until(lambda: self.gone(uuid))
        self.assert_clean()

    def test_a_server_that_is_busy_says_so_and_how_to_delete_it_all_the_same(self):
        uuid = self.cloud.boot("web")
        for busy in ({"task_state": states.POWERING_OFF}, {"vm_state": states.RESIZED}):
            self.cloud.change(uuid, **busy)
            error = self.assertRaises(Refused, self.control.server_delete, uuid)
            self.assertIn("--force", error.next)
            self.assert_speaks(error)
            self.cloud.change(uuid, task_state=None, vm_state=states.ACTIVE)
        self.assertEqual(["spawn"], [row.verb for row in self.host.operations(uuid)])

    def test_only_what_was_deleted_can_be_restored(self):
        uuid = self.cloud.boot("web")
        error = self.assertRaises(Refused, self.control.server_restore, uuid)
        self.assertEqual("bad_state", error.code)
        self.assert_speaks(error)

    def test_a_restore_that_fails_leaves_it_to_be_restored(self):
        uuid = self.deleted("web")
        self.host.hook = Once("power_on", lambda: Failed("No room.", code="hypervisor_error"))
        self.control.server_restore(uuid)
        self.cloud.wait_for(uuid, states.SOFT_DELETED)
        self.assertIn("No room.", self.fault(uuid))
        self.control.server_restore(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_reclaimed_when_its_time_is_over_and_not_sooner(self):
        uuid = self.deleted("web")
        self.old(uuid, INTERVAL - 60)
        self.reclaims()
        self.assertEqual(states.SOFT_DELETED, self.show(uuid)["vm_state"])
        self.old(uuid)
        self.reclaims()
        self.assert_ended(rows.DONE, uuid, "reclaim")
        self.assertTrue(self.gone(uuid))
        self.assertEqual(([], {}), (list(self.host.driver.guest_dirs()),
                                    dict(self.host.driver.states())))
        self.assertEqual([], self.host.agent.journal.claims(guest=uuid))
        self.assert_clean()

    def test_with_an_interval_of_0_nothing_is_reclaimed_and_deletes_are_for_good(self):
        uuid = self.deleted("web")
        self.old(uuid)
        self.cloud.set(reclaim_instance_interval=0)
        self.reclaims()
        self.assertEqual(states.SOFT_DELETED, self.show(uuid)["vm_state"])
        self.assertEqual([], self.host.operations(uuid, "reclaim"))
        other = self.cloud.boot("other")
        self.control.server_delete(other)
        wait_until(lambda: self.gone(other))
        self.assertEqual(states.SOFT_DELETED, self.show(uuid)["vm_state"])

    def test_a_restore_in_the_last_moment_wins(self):
        """It came after the pass had looked: what was seen then is true no more."""
        uuid = self.deleted("web")
        self.old(uuid)
        prim = self.cloud.instance(uuid)
        self.control.server_restore(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.host.agent.manager.accept("reclaim", uuid, "reclaim-late", {"instance": prim}, {})
        self.assert_ended(rows.UNDONE, uuid, "reclaim")
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assert_clean()

    def test_started_behind_our_back(self):
        uuid = self.deleted("web")
        self.host.driver.power_on(uuid)
        self.cloud.change(uuid, power_state=states.RUNNING)
        [finding] = self.host.findings()
        self.assertIn("and runs", finding)
        self.control.server_delete(uuid)
        wait_until(lambda: self.gone(uuid))
        self.assert_clean()
