"""The fake hypervisor moves guests as a real one does, whoever looks on."""

from __future__ import annotations

import fixtures
import testtools

from compute.errors import Refused, Retryable, Unknown
from compute.model import move, states, wire
from compute.model.move import MovePlan
from tests import fakes
from tests.crash.matrix import GUEST, run_now


class MoveTest(testtools.TestCase):
    """A guest on host1, and host2 prepared for it."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.useFixture(fixtures.TempDir()).path
        self.worlds = fakes.worlds(self.root)
        source = self.worlds["host1"]
        for world in self.worlds.values():
            self.addCleanup(world.journal.engine.dispose)
        prim = fakes.instance(uuid=GUEST)
        source.conductor.add(prim)
        run_now(source, "spawn", fakes.build_args(prim), {"request_id": "req-0"})
        self.guest = wire.guest(source.conductor.instance({}, GUEST))
        self.here, self.there = source.driver, self.worlds["host2"].driver
        self.fabric = self.here.fabric

    def plan(self, **more) -> MovePlan:
        told = self.there.prepare_incoming(self.guest, self.here.outgoing(GUEST), None)
        return MovePlan(uri=told["uri"], copy_disks=tuple(told["copy_disks"]), generation=2, **more)

    def until(self, phase: str, driver=None) -> None:
        for _ in range(20):
            if (driver or self.here).job(GUEST).phase == phase:
                return
        self.fail(f"it is not in {phase} after 20 looks")

    def test_a_guest_goes_over_with_its_disks(self):
        self.here.migrate(GUEST, self.plan())
        self.assertEqual(("out", states.RUNNING), self.seen(self.here))
        self.assertEqual(("in", states.POWER_PAUSED), self.seen(self.there))
        self.until(move.COMPLETED)
        self.assertIsNone(self.here.state(GUEST))
        self.assertEqual(("", states.RUNNING), self.seen(self.there))
        self.assertEqual(2, self.there.state(GUEST).generation)
        self.assertEqual(self.fabric.written(GUEST), self.there.count_on_disk(GUEST))
        self.assertEqual([], self.fabric.violations())

    def seen(self, driver) -> tuple[str, int]:
        found = driver.state(GUEST)
        return found.job, found.power_state

    def test_it_goes_on_without_the_agent_that_began_it_and_its_end_is_forgotten(self):
        self.here.migrate(GUEST, self.plan())
        again = fakes.worlds(self.root)["host1"].driver
        for _ in range(20):
            self.there.state(GUEST)
        self.assertEqual(("", states.RUNNING), self.seen(self.there))
        self.assertIsNone(again.job(GUEST))
        self.assertEqual(move.COMPLETED, self.here.job(GUEST).phase)

    def test_an_abort_leaves_nothing_at_the_destination(self):
        self.here.migrate(GUEST, self.plan())
        self.until(move.PRECOPY)
        self.here.abort_job(GUEST)
        self.assertEqual(move.CANCELLED, self.here.job(GUEST).phase)
        self.assertEqual(("", states.RUNNING), self.seen(self.here))
        self.assertIsNone(self.there.state(GUEST))

    def test_a_cut_ends_pre_copy(self):
        self.here.migrate(GUEST, self.plan())
        self.until(move.PRECOPY)
        self.fabric.set(cut=True)
        self.assertEqual(move.FAILED, self.here.job(GUEST).phase)
        self.assertEqual(("", states.RUNNING), self.seen(self.here))

    def test_post_copy_is_resumed_and_not_aborted(self):
        self.here.migrate(GUEST, self.plan(postcopy=True))
        self.until(move.PRECOPY)
        self.here.start_postcopy(GUEST)
        self.assertEqual(("in", states.RUNNING), self.seen(self.there))
        self.assertEqual("too_late", self.assertRaises(
            Refused, self.here.abort_job, GUEST).code)
        self.fabric.set(cut=True)
        self.until(move.POSTCOPY_PAUSED)
        self.assertRaises(Retryable, self.here.recover_postcopy, GUEST, self.plan())
        self.fabric.set(cut=False)
        self.here.recover_postcopy(GUEST, self.plan())
        self.until(move.COMPLETED)
        self.assertEqual([], self.fabric.violations())

    def test_what_is_not_copied_is_missed(self):
        self.here.migrate(GUEST, MovePlan(uri=self.plan().uri, copy_disks=()))
        self.until(move.COMPLETED)
        self.assertIn("its disk went back", self.fabric.violations()[0])

    def test_two_running_copies_are_noticed(self):
        self.there.create_disks(self.guest, None, {})
        self.there.define(self.guest, self.there.disks(GUEST), (), generation=2, operation="x")
        self.there.power_on(GUEST)
        self.assertIn("runs on host1 and on host2", "\n".join(self.fabric.violations()))

    def test_a_hypervisor_that_is_down_is_unknown(self):
        self.fabric.down("host2")
        self.assertRaises(Unknown, self.there.state, GUEST)
        self.assertEqual(("", states.RUNNING), self.seen(self.here))
        self.fabric.up("host2")
        self.assertIsNone(self.there.state(GUEST))

    def test_a_saved_memory_goes_on_with_its_disk_only(self):
        self.here.save(GUEST, 1)
        self.assertTrue(self.here.state(GUEST).saved)
        self.here.power_on(GUEST)
        self.assertEqual([], self.fabric.violations())
        self.here.save(GUEST, 1)
        self.here._write_disk(self.here._dir(GUEST) / "disk", 99)
        self.here.power_on(GUEST)
        self.assertIn("its memory is of", self.fabric.violations()[0])

    def test_disks_set_aside_are_copied_and_brought_back(self):
        self.here.power_off(GUEST)
        self.here.set_aside_disks(GUEST)
        self.assertEqual((), self.here.disks(GUEST))
        copied = self.there.copy_disks(self.guest, self.here.uri, None, lambda *a: None,
                                       lambda: None)
        self.assertEqual(["root", "config"], [disk.role for disk in copied])
        self.here.bring_back_disks(GUEST)
        self.assertFalse(self.here.aside_disks(GUEST))
        self.assertTrue(self.here.disks(GUEST))
