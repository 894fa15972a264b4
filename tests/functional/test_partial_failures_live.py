"""Rows 61 to 77 of the known partial failures: live and block migration. One test for each row.

Row 72 is about volumes, which are not there yet.
"""

from __future__ import annotations

from compute.errors import Unknown
from compute.model import states
from compute.rpc.primitives import data
from compute.steps import live_source
from db.journal import rows
from tests import fakes
from tests.functional.live_support import CONTEXT, Agent, LiveTest
from tests.modes import EVENTLET, ROWS, once


@once(ROWS, EVENTLET)
class RowTest(LiveTest):
    def dies(self, agent: Agent) -> None:
        """Its process ends without a word: what it says and does from now on has no effect."""
        agent.stop()

    def queued(self, first: str, second: str) -> int:
        """Move two guests where there is room for one at a time; returns the second's migration."""
        self.one.world.conf.max_concurrent_live_migrations = 1
        self.halted(first)  # it has the place before the other asks for it
        moving = self.migrate(second)
        self.wait(lambda: self.status(moving) == "queued")
        return moving

    def status(self, moving: int) -> str:
        return self.conductor.migration_fields(moving)["status"]

    def test_row_61_the_migration_completes_while_the_source_agent_is_away(self):
        guest = self.boot()
        moving = self.halted(guest)
        self.dies(self.one)
        self.hosts.fabric.set(hold=False)
        self.wait(lambda: self.conductor.fields(guest)["host"] == "host2")
        self.one.start()
        self.assert_on(guest, self.two)
        self.assertEqual("completed", self.status(moving))

    def test_row_62_the_migration_fails_while_the_source_agent_is_away(self):
        guest = self.boot()
        moving = self.halted(guest, "setup")
        self.dies(self.one)
        self.one.world.driver.abort_job(guest)
        self.hosts.fabric.set(hold=False, fail_at="setup")
        self.one.start()
        self.assert_on(guest, self.one)
        self.assertEqual("failed", self.status(moving))

    def test_row_63_a_restart_while_it_is_queued(self):
        first, second = self.boot(), self.boot()
        moving = self.queued(first, second)
        self.dies(self.one)
        self.hosts.fabric.set(hold=False)
        self.one.start()
        self.assert_on(second, self.two)
        self.assertEqual("completed", self.status(moving))

    def test_row_63_a_restart_in_post_copy(self):
        guest = self.boot()
        self.one.world.conf.libvirt.live_migration_permit_post_copy = True
        self.hosts.fabric.set(converges=False)
        self.halted(guest)
        self.tell("live_migration_force_complete", guest)
        self.under_way(guest, "postcopy")
        self.dies(self.one)
        self.one.start()
        self.hosts.fabric.set(hold=False)
        self.assert_on(guest, self.two)

    def test_row_64_a_stale_message(self):
        guest = self.boot()
        sent = self.conductor.set(guest, task_state=states.MIGRATING)
        self.conductor.set(guest, task_state=None)
        migration = fakes.migration(guest, "host1", "host2", status="accepted")
        self.conductor.add_migration(migration)
        self.one.world.peers.cast(
            {**CONTEXT, "request_id": "req-late"}, "host1", "live_migration", dest="host2",
            instance=sent, block_migration=None, migration=migration, migrate_data=None)
        self.assert_on(guest, self.one)
        [row] = self.one.operations(guest, "live_out")
        self.assertEqual((rows.UNDONE, "stale"), (row.state, row.error["code"]))
        self.assertEqual([], self.two.operations(guest))

    def test_row_65_libvirtd_does_not_answer_the_monitor(self):
        """A timeout is not a failure: both ends are looked at, and the migration goes on."""
        guest = self.boot()
        moving = self.halted(guest)
        driver, left = self.one.world.driver, [3]
        look = driver.job

        def job(uuid: str):
            if left[0]:
                left[0] -= 1
                raise Unknown("libvirtd does not answer.", code="libvirt_timeout")
            return look(uuid)

        driver.job = job
        self.wait(lambda: not left[0])
        self.hosts.fabric.set(hold=False)
        self.assert_on(guest, self.two)
        self.assertEqual("completed", self.status(moving))

    def test_row_66_the_answer_to_pre_live_migration_is_lost(self):
        """It is asked again, and the destination's half begins only once."""
        guest = self.boot()
        left = [1]

        def lose(method: str, when: str) -> None:
            if (method, when) == ("pre_live_migration", "after") and left[0]:
                left[0] -= 1
                raise Unknown("No answer came.", code="rpc_timeout")

        self.one.world.peers.hook = lose
        self.migrate(guest)
        self.assert_on(guest, self.two)
        self.assertEqual(1, len(self.two.operations(guest, "live_in")))

    def test_row_66_the_destination_never_answers(self):
        guest = self.boot()

        def lose(method: str, when: str) -> None:
            if (method, when) == ("pre_live_migration", "after"):
                raise Unknown("No answer came.", code="rpc_timeout")

        self.one.world.peers.hook = lose
        moving = self.migrate(guest)
        self.assert_on(guest, self.one)
        self.assertEqual("failed", self.status(moving))
        self.assertEqual(rows.UNDONE, self.two.operations(guest, "live_in")[0].state)

    def test_row_67_the_network_breaks_in_post_copy(self):
        guest = self.boot()
        self.one.world.conf.libvirt.live_migration_permit_post_copy = True
        self.hosts.fabric.set(converges=False)
        self.halted(guest)
        self.tell("live_migration_force_complete", guest)
        self.under_way(guest, "postcopy")
        self.hosts.fabric.set(cut=True, hold=False)
        self.under_way(guest, "postcopy-paused")
        self.assertEqual("host1", self.conductor.fields(guest)["host"])
        self.hosts.fabric.set(cut=False)
        self.assert_on(guest, self.two)

    def test_row_68_the_destination_is_away_during_the_rollback(self):
        guest = self.boot()
        self.halted(guest, "setup")
        self.dies(self.two)
        self.hosts.exchange.loses = lambda host, method: method.startswith("rollback")
        self.one.manager.abort(self.one.operations(guest, "live_out")[0].id, "a test")
        self.hosts.fabric.set(hold=False)
        self.two.start()
        self.assert_on(guest, self.one)
        self.assertEqual(rows.UNDONE, self.two.operations(guest, "live_in")[0].state)

    def test_row_68_the_destination_is_gone_for_good(self):
        """The guest's task does not wait for a host that never comes back."""
        guest = self.boot()
        self.patch(live_source, "SEEN_SECONDS", 1.0)
        moving = self.halted(guest, "setup")
        self.dies(self.two)
        self.hosts.fabric.set(hold=False, fail_at="setup")
        self.one.at_rest()
        fields = self.conductor.fields(guest)
        self.assertEqual(("host1", None, "failed"), (
            fields["host"], fields["task_state"], self.status(moving)))
        self.two.start()
        self.assert_on(guest, self.one)

    def _binding_fails(self, times: int) -> None:
        left = [times]

        def fail(method: str, when: str) -> None:
            if (method, when) == ("bind", "before") and left[0]:
                left[0] -= 1
                raise Unknown("The network service does not answer.", code="rpc_timeout")

        self.two.world.networks.hook = fail

    def test_row_69_and_70_the_ports_cannot_be_bound_at_once(self):
        """After the switch-over it only goes forward: it is tried until it works."""
        guest = self.boot()
        self._binding_fails(3)
        moving = self.migrate(guest)
        self.assert_on(guest, self.two)
        self.assertEqual("completed", self.status(moving))
        self.assertEqual("host2", self.two.world.networks.host(guest))

    def test_row_71_post_live_migration_at_destination_is_not_answered(self):
        guest = self.boot()
        left = [2]

        def lose(method: str, when: str) -> None:
            if method == "post_live_migration_at_destination" and when == "before" and left[0]:
                left[0] -= 1
                raise Unknown("No answer came.", code="rpc_timeout")

        self.one.world.peers.hook = lose
        self.migrate(guest)
        self.assert_on(guest, self.two)

    def test_row_73_paused_to_complete_it_and_then_it_fails(self):
        """Also over a restart in between, the guest runs again."""
        guest = self.boot()
        self.hosts.fabric.set(converges=False)
        self.halted(guest)
        self.tell("live_migration_force_complete", guest)
        self.wait(lambda: self.one.world.driver.state(guest).power_state == states.POWER_PAUSED)
        self.dies(self.one)
        self.hosts.fabric.set(hold=False, fail_at="precopy")
        self.one.start()
        self.assert_on(guest, self.one)
        self.assertEqual(states.RUNNING, self.one.world.driver.state(guest).power_state)

    def test_row_74_the_destination_restarts_between_pre_and_post(self):
        """What it claimed for the guest is in its journal, not in its memory."""
        guest = self.boot()
        self.halted(guest, "setup")
        self.dies(self.two)
        self.two.start()
        held = {claim.kind for claim in self.two.world.journal.claims(guest=guest)}
        self.assertLessEqual({"resources", "lease", "disks"}, held)
        self.hosts.fabric.set(hold=False)
        self.assert_on(guest, self.two)

    def test_row_75_block_migration_fails_midway_and_the_message_is_lost(self):
        guest = self.boot()
        self.hosts.exchange.loses = lambda host, method: method.startswith("rollback")
        self.hosts.fabric.set(fail_at="precopy")
        self.migrate(guest)
        self.assert_on(guest, self.one)

    def test_row_76_abort_while_queued(self):
        first, second = self.boot(), self.boot()
        moving = self.queued(first, second)
        self.tell("live_migration_abort", second, migration_id=moving)
        self.wait(lambda: self.status(moving) == "cancelled")
        self.assertEqual([], self.two.world.journal.claims(guest=second))
        self.assertEqual([], self.two.operations(second))
        self.hosts.fabric.set(hold=False)
        self.assert_on(first, self.two)

    def test_row_77_the_message_never_came(self):
        """Nobody's here to mend, so nothing is done, and it is told."""
        guest = self.boot()
        self.conductor.set(guest, task_state=states.MIGRATING)
        self.one.reconciler.lost_after = 0
        self.one.reconciler.run_pass()
        verdict = self.one.reconciler.verdicts[guest]
        self.assertEqual("report", verdict.act.value)
        self.assertIn("migrating", verdict.reason)
        self.assertEqual(states.RUNNING, self.one.world.driver.state(guest).power_state)
        self.assertEqual("migrating", data(self.conductor.instance(None, guest))["task_state"])
