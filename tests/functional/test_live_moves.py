"""Live migration: both halves, on two hosts."""

from __future__ import annotations

import fixtures

from compute.errors import Failed, Refused
from compute.model import states
from compute.model.move import Check
from compute.operator.verbs import OperatorVerbs
from db.journal import rows
from tests.functional.live_support import LiveTest
from virt.fake_moves import BANDWIDTH


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
        moving = self.halted(guest)
        self.tell("live_migration_abort", guest, migration_id=moving)
        self.assert_on(guest, self.one)
        self.assertEqual("cancelled", self.conductor.migration_fields(moving)["status"])

    def test_force_complete_pauses_and_lets_run_again(self):
        guest = self.boot()
        self.hosts.fabric.set(converges=False)
        self.halted(guest)
        self.tell("live_migration_force_complete", guest)
        self.wait(lambda: self.one.world.driver.state(guest).power_state == states.POWER_PAUSED)
        self.hosts.fabric.set(hold=False)
        self.assert_on(guest, self.two)
        self.assertEqual(states.RUNNING, self.two.world.driver.state(guest).power_state)

    def test_the_lease_ends_when_the_source_is_gone(self):
        guest = self.boot()
        self.halted(guest)
        self.one.stop()
        self.two.world.conf.migration_lease_seconds = 1
        self.hosts.fabric.set(hold=False, fail_at="precopy")
        self.two.at_rest()
        [row] = self.two.operations(guest, "live_in")
        self.assertEqual((rows.UNDONE, "lease_over"), (row.state, row.error["code"]))
        self.assertEqual([], self.two.world.journal.claims(guest=guest))
        self.assertNotIn(guest, self.two.world.driver.guest_dirs())

    def test_its_console_log_has_no_gap(self):
        guest = self.boot()
        self.hosts.fabric.set(samples=8)
        for source, dest in ((self.one, self.two), (self.two, self.one), (self.one, self.two)):
            self.migrate(guest, source=source, dest=dest)
            self.assert_on(guest, dest)
            self.assert_whole_console(guest, dest)
        self.assertGreater(self.two.world.driver.count_on_disk(guest), 20)

    def test_a_console_log_that_cannot_be_brought_over_holds_nothing_up(self):
        guest = self.boot()
        self.hosts.fabric.set(samples=8)
        verbs = self.hosts.exchange.agents["host2"][1]
        tries = []

        def refused(**args):
            tries.append(args)
            raise Failed("It was made to fail.", code="made_to_fail")

        verbs["peer_console"] = refused
        self.useFixture(fixtures.MonkeyPatch("compute.steps.live_ends.MOST_TRIES", 3))
        moving = self.migrate(guest)
        self.assert_on(guest, self.two)
        self.assertEqual(3, len(tries))
        self.assertEqual("completed", self.conductor.migration_fields(moving)["status"])
        [row] = self.one.operations(guest, "live_out")
        steps = OperatorVerbs(self.one.reconciler, {}).op_show(row.id)["steps"]
        [note] = [step["note"] for step in steps if "note" in step]
        self.assertIn("is lost: It was made to fail. What it wrote before that is there.", note)
        self.assertIn(note, self.log.output)
        self.assertTrue(self.two.world.driver.console_log(guest, 1 << 20).startswith(b"1\nUP\n"))

    def test_an_old_console_log_is_not_taken(self):
        guest = self.boot()
        for source, dest in ((self.one, self.two), (self.two, self.one), (self.one, self.two)):
            self.migrate(guest, source=source, dest=dest)
            self.assert_on(guest, dest)
        for generation, host in ((2, "host2"), (4, "host1")):
            error = self.assertRaises(
                Refused, self.one.world.peers.ask, host, "peer_console", guest=guest,
                generation=generation, console="old")
            self.assertEqual("stale", error.code)
        self.assert_whole_console(guest, self.two)

    def test_the_source_starts_again_in_the_middle(self):
        """libvirt goes on without the agent, which attaches to it again."""
        guest = self.boot()
        moving = self.halted(guest)
        self.one.stop()
        self.one.start()
        self.hosts.fabric.set(hold=False)
        self.assert_on(guest, self.two)
        self.assertEqual("completed", self.conductor.migration_fields(moving)["status"])

    def test_the_destination_starts_again_in_the_middle(self):
        guest = self.boot()
        self.halted(guest)
        self.two.stop()
        self.two.start()
        self.hosts.fabric.set(hold=False)
        self.assert_on(guest, self.two)

    def test_limits_are_kept(self):
        guests = [self.boot() for _ in range(3)]
        self.one.world.conf.max_concurrent_live_migrations = 1
        begin, going = self.one.world.driver.migrate, []

        def migrate(uuid, plan):
            going.append([guest for guest in guests if self.job(guest) == "out"])
            begin(uuid, plan)

        self.one.world.driver.migrate = migrate
        for guest in guests:
            self.migrate(guest)
        self.hosts.at_rest()
        self.assertEqual([[], [], []], going)
        for guest in guests:
            self.assert_on(guest, self.two)

    def test_plan(self):
        guest = self.boot()
        plan = self.one.verbs.plan_live_migrate(guest, "host2")
        self.assertEqual(("can", "host2", ["vda", "sda"]), (
            plan["verdict"], plan["destination"], plan["copies"] + ["sda"] * (
                "sda" not in plan["copies"])))
        self.assertTrue(plan["checks"])
        self.assertEqual(0, plan["bandwidth"])
        self.assertGreater(plan["seconds"], 1)
        self.assertIn("110.0 MiB/s are assumed", plan["estimate"])
        self.two.stop()
        plan = self.one.verbs.plan_live_migrate(guest, "host2")
        self.assertEqual("uncertain", plan["verdict"])
        self.assertEqual([], self.one.operations(guest, "live_out"))

    def test_a_plan_reckons_with_what_the_link_carried_before(self):
        guest = self.boot()
        self.hosts.fabric.set(samples=8)
        self.migrate(guest)
        self.assert_on(guest, self.two)
        self.migrate(guest, source=self.two, dest=self.one)
        self.assert_on(guest, self.one)
        plan = self.one.verbs.plan_live_migrate(guest, "host2")
        self.assertEqual(BANDWIDTH, plan["bandwidth"])
        self.assertNotIn("assumed", plan["estimate"])


class SharedTest(LiveTest):
    shared = True

    def test_there_and_back(self):
        guest = self.boot()
        self.migrate(guest)
        self.assert_on(guest, self.two)
        self.migrate(guest, source=self.two, dest=self.one)
        self.assert_on(guest, self.one)
        self.assert_whole_console(guest, self.one)
        self.assertNotIn(("host1", "peer_console"), self.two.world.peers.calls)

    def test_undone_it_leaves_the_disks(self):
        guest = self.boot()
        self.hosts.fabric.set(fail_at="precopy")
        self.migrate(guest)
        self.assert_on(guest, self.one)
        self.assertTrue(self.one.world.driver.disks(guest))
