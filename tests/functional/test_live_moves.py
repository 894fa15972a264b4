"""Live migration: both halves, on two hosts."""

from __future__ import annotations

from compute.errors import Refused
from compute.model import states
from compute.model.move import Check
from db.journal import rows
from tests.functional.control_support import wait_until
from tests.functional.live_support import LiveTest


class MoveTest(LiveTest):
    def test_there_and_back(self):
        guest = self.boot()
        moving = self.migrate(guest)
        self.assert_on(guest, self.two)
        self.assertEqual("completed", self.conductor.migration_fields(moving)["status"])
        self.assertEqual(2, self.two.world.driver.state(guest).generation)
        moving = self.migrate(guest, source=self.two, dest=self.one)
        self.assert_on(guest, self.one)
        self.assertEqual("completed", self.conductor.migration_fields(moving)["status"])
        self.assertEqual(3, self.one.world.driver.state(guest).generation)

    def test_a_paused_guest_stays_paused(self):
        guest = self.boot()
        self.one.world.driver.pause(guest)
        self.conductor.set(guest, vm_state=states.PAUSED, power_state=states.POWER_PAUSED)
        self.migrate(guest)
        self.assert_on(guest, self.two, "paused")
        self.assertEqual(states.POWER_PAUSED, self.two.world.driver.state(guest).power_state)

    def test_a_check_that_says_no_changes_nothing(self):
        guest = self.boot()
        self.two.world.driver.verdicts = {"in": (
            Check("machine type", False, "pc-q35-99 is not known", "Upgrade QEMU."),)}
        error = self.assertRaises(Refused, self.migrate, guest)
        self.assertIn("pc-q35-99 is not known", error.what)
        self.conductor.set(guest, task_state=None)
        self.assert_on(guest, self.one)

    def test_same_host_is_refused(self):
        guest = self.boot()
        error = self.assertRaises(Refused, self.migrate, guest, dest=self.one)
        self.assertIn("already", error.what)

    def test_block_asked_for_and_refused_by_what_is_there(self):
        guest = self.boot()
        error = self.assertRaises(Refused, self.migrate, guest, False)
        self.assertIn("share none", error.what)

    def test_it_fails_in_the_middle(self):
        guest = self.boot()
        self.hosts.fabric.set(fail_at="precopy")
        moving = self.migrate(guest)
        self.assert_on(guest, self.one)
        self.assertEqual("failed", self.conductor.migration_fields(moving)["status"])
        [row] = self.one.operations(guest, "live_out")
        self.assertEqual((rows.UNDONE, "migration_failed"), (row.state, row.error["code"]))
        [row] = self.two.operations(guest, "live_in")
        self.assertEqual(rows.UNDONE, row.state)

    def test_abort_while_it_copies(self):
        guest = self.boot()
        self.hosts.fabric.set(samples=10_000)
        moving = self.migrate(guest)
        wait_until(lambda: (self.one.verbs.migration_progress(guest) or {}).get("phase")
                   == "precopy", 10)
        self.one.world.peers.cast(
            {"request_id": "req-abort"}, "host1", "live_migration_abort",
            instance=self.conductor.instance(None, guest), migration_id=moving)
        self.assert_on(guest, self.one)
        self.assertEqual("cancelled", self.conductor.migration_fields(moving)["status"])

    def test_force_complete_pauses_and_lets_run_again(self):
        guest = self.boot()
        self.hosts.fabric.set(converges=False)
        self.migrate(guest)
        wait_until(lambda: (self.one.verbs.migration_progress(guest) or {}).get("phase")
                   == "precopy", 10)
        self.one.world.peers.cast(
            {"request_id": "req-force"}, "host1", "live_migration_force_complete",
            instance=self.conductor.instance(None, guest))
        wait_until(lambda: self.one.world.driver.state(guest).power_state
                   == states.POWER_PAUSED, 10)
        self.hosts.fabric.set(converges=True)
        self.assert_on(guest, self.two)
        self.assertEqual(states.RUNNING, self.two.world.driver.state(guest).power_state)

    def test_the_lease_ends_when_the_source_is_gone(self):
        guest = self.boot()
        self.two.world.conf.migration_lease_seconds = 1
        self.hosts.fabric.set(fail_at="setup")
        self.one.world.driver.migrate = lambda uuid, plan: self.one.stop()
        self.migrate(guest)
        self.two.at_rest()
        [row] = self.two.operations(guest, "live_in")
        self.assertEqual((rows.UNDONE, "lease_over"), (row.state, row.error["code"]))
        self.assertEqual([], self.two.world.journal.claims(guest=guest))
        self.assertNotIn(guest, self.two.world.driver.guest_dirs())

    def test_the_source_starts_again_in_the_middle(self):
        """libvirt goes on without the agent, which attaches to it again."""
        guest = self.boot()
        self.hosts.fabric.set(samples=40)
        moving = self.migrate(guest)
        wait_until(lambda: (self.one.verbs.migration_progress(guest) or {}).get("phase")
                   == "precopy", 10)
        self.one.stop()
        self.one.start()
        self.assert_on(guest, self.two)
        self.assertEqual("completed", self.conductor.migration_fields(moving)["status"])

    def test_the_destination_starts_again_in_the_middle(self):
        guest = self.boot()
        self.hosts.fabric.set(samples=40)
        self.migrate(guest)
        wait_until(lambda: (self.one.verbs.migration_progress(guest) or {}).get("phase")
                   == "precopy", 10)
        self.two.stop()
        self.two.start()
        self.assert_on(guest, self.two)

    def test_limits_are_kept(self):
        guests = [self.boot() for _ in range(3)]
        self.one.world.conf.max_concurrent_live_migrations = 1
        self.hosts.fabric.set(samples=20)
        for guest in guests:
            self.migrate(guest)
        most = 0

        def ended() -> bool:
            nonlocal most
            going = [g for g in guests if (s := self.one.world.driver.state(g)) and s.job == "out"]
            most = max(most, len(going))
            return not self.one.world.journal.find(active=True)

        wait_until(ended, 60)
        self.assertEqual(1, most)
        for guest in guests:
            self.assert_on(guest, self.two)

    def test_plan(self):
        guest = self.boot()
        plan = self.one.verbs.plan_live_migrate(guest, "host2")
        self.assertEqual(("can", "host2", ["vda", "sda"]), (
            plan["verdict"], plan["destination"], plan["copies"] + ["sda"] * (
                "sda" not in plan["copies"])))
        self.assertTrue(plan["checks"])
        self.two.stop()
        plan = self.one.verbs.plan_live_migrate(guest, "host2")
        self.assertEqual("uncertain", plan["verdict"])
        self.assertEqual([], self.one.operations(guest, "live_out"))


class SharedTest(LiveTest):
    shared = True

    def test_there_and_back(self):
        guest = self.boot()
        self.migrate(guest)
        self.assert_on(guest, self.two)
        self.migrate(guest, source=self.two, dest=self.one)
        self.assert_on(guest, self.one)

    def test_undone_it_leaves_the_disks(self):
        guest = self.boot()
        self.hosts.fabric.set(fail_at="precopy")
        self.migrate(guest)
        self.assert_on(guest, self.one)
        self.assertTrue(self.one.world.driver.disks(guest))
