"""The libvirt driver's half of moves: two libvirtds, real QEMU, a guest that counts."""

import os
import signal
import time
import uuid
from dataclasses import replace

import libvirt

from compute import errors
from compute.model import move, states
from compute.model.guest import Nic
from tests.integration.move_case import MoveCase
from tests.integration.patience import SECONDS, until
from tests.integration.repeats import repeated
from tests.modes import EVENTLET, NATIVE, once


@once(NATIVE, EVENTLET)
class TestBlockMigration(MoveCase):
    @repeated
    def test_a_guest_goes_there_and_back_with_its_disks(self):
        guest = self.guest(self.a)
        plan = self.plan(guest, self.a, self.b)
        self.assertEqual(("vda",), plan.copy_disks)
        self.assertTrue(plan.incremental)
        before = max(self.ticks(self.a, guest))
        self.a.driver.migrate(guest.uuid, plan)
        self.a.driver.migrate(guest.uuid, plan)
        self.assertEqual("out", self.a.driver.state(guest.uuid).job)
        sample = self.ends(self.a, guest)
        self.assertGreater(sample.memory_total, 128 << 20)
        self.assertIsNotNone(sample.downtime_ms)
        self.is_only_on(self.b, self.a, guest)
        state = self.b.driver.state(guest.uuid)
        self.assertEqual((2, "op-2", True, True, ""), (
            state.generation, state.operation, state.ours, state.persistent, state.job))
        disks = self.b.driver.arrived(guest)
        self.assertEqual(disks, self.b.driver.arrived(guest))
        self.assertEqual([str(self.b.instances / guest.uuid / name)
                          for name in ("disk", "disk.config")], [disk.path for disk in disks])
        self.counts_on(self.b, guest, before)
        self.a.driver.delete_disks(guest.uuid)
        self.b.driver.migrate(guest.uuid, self.plan(guest, self.b, self.a, generation=3))
        self.ends(self.b, guest)
        self.is_only_on(self.a, self.b, guest)
        self.a.driver.arrived(guest)
        self.assertIsNone(self.a.driver.job(guest.uuid))
        self.assertEqual(3, self.a.driver.state(guest.uuid).generation)
        self.counts_on(self.a, guest, before)

    def test_it_is_stopped_while_memory_goes_over_and_nothing_is_left(self):
        guest = self.writing_guest(self.a)
        self.a.driver.migrate(
            guest.uuid, self.plan(guest, self.a, self.b, bandwidth=20, auto_converge=True))
        self.reaches(self.a, guest, move.PRECOPY)
        self.assertTrue(until(lambda: self.a.driver.job(guest.uuid).throttle))
        sample = self.a.driver.job(guest.uuid)
        self.assertGreater(sample.memory_remaining, 0)
        self.assertGreater(sample.dirty_rate, 1 << 20)
        self.assertGreater(sample.bandwidth, 1 << 20)
        self.assertGreater(sample.iteration, 1)
        self.assertEqual("out", self.a.driver.states()[guest.uuid].job)
        self.assertEqual("in", self.b.driver.states()[guest.uuid].job)
        self.assertEqual("in", self.b.driver.state(guest.uuid).job)
        self.assertIsNone(self.b.driver.job(guest.uuid))
        began = time.monotonic()
        self.a.driver.abort_job(guest.uuid)
        self.assertLess(time.monotonic() - began, SECONDS / 6)  # it does not wait for the end
        self.ends(self.a, guest, move.CANCELLED)
        self.a.driver.abort_job(guest.uuid)
        self.is_only_on(self.a, self.b, guest)
        self.assertEqual("", self.a.driver.state(guest.uuid).job)
        self.a.driver.migrate(guest.uuid, self.plan(guest, self.a, self.b, downtime_ms=30000))
        self.ends(self.a, guest)
        self.is_only_on(self.b, self.a, guest)

    def test_it_is_stopped_at_once_and_while_disks_go_over(self):
        guest = self.writing_guest(self.a)
        self.a.driver.migrate(guest.uuid, self.plan(guest, self.a, self.b, bandwidth=1))
        self.a.driver.abort_job(guest.uuid)
        self.ends(self.a, guest, move.CANCELLED)
        self.is_only_on(self.a, self.b, guest)
        # 16 MiB of disk at 1 MiB a second.
        self.a.driver.migrate(
            guest.uuid, self.plan(guest, self.a, self.b, bandwidth=1, incremental=False))
        sample = until(lambda: self.in_setup(guest), every=0.02)
        self.assertGreater(sample.disk_total, 0)
        self.assertEqual(0, sample.memory_total)
        self.a.driver.abort_job(guest.uuid)
        self.ends(self.a, guest, move.CANCELLED)
        self.is_only_on(self.a, self.b, guest)

    def in_setup(self, guest):
        sample = self._in(self.a, guest, (move.SETUP,))
        return sample if sample and sample.disk_total else None

    def test_a_process_that_comes_later_sees_it_through(self):
        guest = self.writing_guest(self.a)
        self.a.driver.migrate(guest.uuid, self.plan(guest, self.a, self.b, bandwidth=1))
        self.reaches(self.a, guest, move.PRECOPY)
        self.a.driver.stop()
        self.a.driver = self.a.new_driver()
        sample = self.a.driver.job(guest.uuid)
        self.assertEqual(move.PRECOPY, sample.phase)
        self.assertGreater(sample.memory_total, 0)
        self.assertEqual("out", self.a.driver.state(guest.uuid).job)
        self.assertEqual("out", self.a.driver.states()[guest.uuid].job)
        self.a.driver.tune_job(guest.uuid, downtime_ms=30000, bandwidth=0)
        self.ends(self.a, guest)
        self.is_only_on(self.b, self.a, guest)

    def test_a_process_that_comes_later_stops_it(self):
        guest = self.writing_guest(self.a)
        self.a.driver.migrate(guest.uuid, self.plan(guest, self.a, self.b, bandwidth=1))
        self.reaches(self.a, guest, move.PRECOPY)
        later = self.a.new_driver()
        later.abort_job(guest.uuid)
        self.assertTrue(until(lambda: later.job(guest.uuid) is None))
        self.is_only_on(self.a, self.b, guest)
        self.assertEqual("", later.states()[guest.uuid].job)

    def test_it_goes_on_by_post_copy_and_cannot_be_stopped_then(self):
        guest = self.writing_guest(self.a)
        plan = self.plan(guest, self.a, self.b, postcopy=True, bandwidth=2)
        self.a.driver.migrate(guest.uuid, plan)
        self.reaches(self.a, guest, move.PRECOPY)
        self.a.driver.start_postcopy(guest.uuid)
        sample = self.reaches(self.a, guest, move.POSTCOPY)
        self.a.driver.start_postcopy(guest.uuid)
        self.assertGreater(sample.memory_remaining, 0)
        self.assertEqual(("paused", "postcopy", "out"), self.shown(self.a, guest))
        self.goes_on_at_b(guest)
        error = self.assertRaises(errors.Refused, self.a.driver.abort_job, guest.uuid)
        self.assertEqual("too_late", error.code)
        self.a.driver.tune_job(guest.uuid, bandwidth=0)
        sample = self.ends(self.a, guest)
        self.assertLess(sample.downtime_ms, 10000)  # all of its memory takes twice as long
        self.is_only_on(self.b, self.a, guest)

    def goes_on_at_b(self, guest):
        running = ("running", "postcopy", "in")
        self.assertTrue(until(lambda: self.shown(self.b, guest) == running))

    def shown(self, side, guest):
        """What both ways to look tell; between the two looks it may have changed."""
        def seen():
            state = side.driver.state(guest.uuid)
            return state if state == side.driver.states()[guest.uuid] else None

        state = until(seen)
        self.assertIsNotNone(state, "state() and states() do not agree")
        return states.POWER_NAMES[state.power_state], state.reason, state.job

    @repeated
    def test_post_copy_survives_a_cut(self):
        if not os.environ.get("MAGNETAR_REAL_KILLS"):
            self.skipTest("QEMU 7.2 cannot always recover from a cut early in post-copy: "
                          "MAGNETAR_REAL_KILLS=1 runs it")
        guest = self.guest(self.a)
        plan = self.plan(guest, self.a, self.b, postcopy=True, bandwidth=6)
        before = max(self.ticks(self.a, guest))
        self.a.driver.migrate(guest.uuid, plan)
        self.reaches(self.a, guest, move.PRECOPY)
        self.a.driver.start_postcopy(guest.uuid)
        self.reaches(self.a, guest, move.POSTCOPY)
        self.goes_on_at_b(guest)
        # QEMU answers nobody while one of its devices waits for memory: let it have what it needs.
        count = len(self.ticks(self.b, guest))
        self.assertTrue(until(lambda: len(self.ticks(self.b, guest)) > count + 3))
        self.break_data_connection()
        self.reaches(self.a, guest, move.POSTCOPY_PAUSED)
        self.assertTrue(until(lambda: self.shown(self.b, guest)[1] == "postcopy_failed"))
        self.assertEqual(("paused", "postcopy_failed", "out"), self.shown(self.a, guest))
        later = self.a.new_driver()
        self.assertEqual(move.POSTCOPY_PAUSED, later.job(guest.uuid).phase)
        self.assertRaises(errors.Refused, later.abort_job, guest.uuid)
        later.recover_postcopy(guest.uuid, plan)
        later.recover_postcopy(guest.uuid, plan)
        self.a.driver = later
        self.a.driver.tune_job(guest.uuid, bandwidth=0)
        self.ends(self.a, guest)
        self.is_only_on(self.b, self.a, guest)
        self.b.driver.arrived(guest)
        self.counts_on(self.b, guest, before)

    def break_data_connection(self):
        """Reset the TCP connections between the two QEMUs."""
        self.b.host.enter("ss", "-K", "-tnH", "sport", ">=", ":49152")


@once(NATIVE, EVENTLET)
class TestSharedStorage(MoveCase):
    shared = True

    @repeated
    def test_no_disk_is_copied(self):
        guest = self.guest(self.a)
        plan = self.plan(guest, self.a, self.b)
        self.assertEqual((), plan.copy_disks)
        before = max(self.ticks(self.a, guest))
        self.a.driver.migrate(guest.uuid, plan)
        sample = self.ends(self.a, guest)
        self.assertEqual(0, sample.disk_total)
        self.is_only_on(self.b, self.a, guest)
        self.b.driver.arrived(guest)
        self.counts_on(self.b, guest, before)

    def test_what_libvirt_refuses_is_told_and_the_guest_stays(self):
        guest = self.writing_guest(self.a)
        plan = self.plan(guest, self.a, self.b)
        self.a.driver.migrate(guest.uuid, replace(plan, rewrite={**plan.rewrite, "shared": False}))
        sample = self.ends(self.a, guest, move.FAILED)
        self.assertIn("unsafe", sample.error.lower())
        self.a.driver.migrate(guest.uuid, replace(plan, uri="qemu+tls://10.78.0.9/system"))
        self.assertEqual("out", self.a.driver.state(guest.uuid).job)
        sample = self.ends(self.a, guest, move.FAILED)
        self.assertIn("10.78.0.9", sample.error)
        self.is_only_on(self.a, self.b, guest)

    @repeated
    def test_a_paused_guest_stays_paused(self):
        guest = self.guest(self.a)
        self.a.driver.pause(guest.uuid)
        self.a.driver.pause(guest.uuid)
        self.a.driver.migrate(guest.uuid, self.plan(guest, self.a, self.b))
        self.ends(self.a, guest)
        self.assertEqual(("paused", ""), self.power_and_job(self.b, guest))
        self.b.driver.arrived(guest)
        before = max(self.ticks(self.b, guest))
        self.b.driver.resume(guest.uuid)
        self.counts_on(self.b, guest, before)

    @repeated
    def test_nics_and_screen_are_the_destinations_own(self):
        for side, name in ((self.a, "net-a"), (self.b, "net-b")):
            side.driver.create_network({
                "name": name, "bridge": name, "cidr": "10.99.0.0/24", "gateway": "10.99.0.1",
                "dhcp_start": "10.99.0.2", "dhcp_end": "10.99.0.99"})  # fmt: skip
            self.addCleanup(side.driver.delete_network, name)
        self.b.option("vnc_listen", "127.0.0.1")
        nics = tuple(
            Nic(str(uuid.uuid4()), f"52:54:00:00:00:0{number}", "n", "n", "network", "net-a")
            for number in (1, 2)
        )
        guest = self.guest(self.a, nics=nics)
        there = replace(guest, nics=tuple(replace(nic, source="net-b") for nic in nics))
        lost = [check for check in self.b.driver.check_incoming(
            guest, self.a.driver.outgoing(guest.uuid)) if check.ok is False]
        self.assertEqual({"network net-a"}, {check.name for check in lost})
        plan = self.plan(guest, self.a, self.b, to=there)
        before = max(self.ticks(self.a, guest))
        self.a.driver.migrate(guest.uuid, plan)
        self.ends(self.a, guest)
        self.is_only_on(self.b, self.a, guest)
        self.b.driver.arrived(there)
        self.counts_on(self.b, guest, before)
        domain = self.b.driver.domains.find(guest.uuid)
        for text in (domain.XMLDesc(), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)):
            self.assertEqual(2, text.count("<source network='net-b'"))
            self.assertNotIn("net-a", text)
            self.assertIn("listen='127.0.0.1'", text)
        for nic in nics:
            self.assertIn(nic.tap, self.b.host.enter("ls", "/sys/class/net"))
            self.assertTrue(until(
                lambda tap=nic.tap: tap not in self.a.host.enter("ls", "/sys/class/net")))
        self.b.driver.power_off(guest.uuid)
        self.b.driver.power_on(guest.uuid)  # by its persistent definition

    def power_and_job(self, side, guest):
        state = side.driver.state(guest.uuid)
        return states.POWER_NAMES[state.power_state], state.job

    def test_the_dirty_rate_is_measured(self):
        counts, writes = self.guest(self.a), self.writing_guest(self.a)
        self.assertLess(self.a.driver.measure_dirty_rate(counts.uuid, 1), 20 << 20)
        self.assertGreater(self.a.driver.measure_dirty_rate(writes.uuid, 1), 20 << 20)
        self.a.driver.power_off(writes.uuid)
        self.assertIsNone(self.a.driver.measure_dirty_rate(writes.uuid, 1))
        self.assertIsNone(self.a.driver.measure_dirty_rate(str(uuid.uuid4()), 1))


@once(NATIVE, EVENTLET)
class TestDaemonDeath(MoveCase):
    """libvirtd dies in the middle: what is told is what is so, once it is back."""

    def under_way(self, bandwidth=20, **changes):
        guest = self.writing_guest(self.a)
        plan = self.plan(guest, self.a, self.b, bandwidth=bandwidth, **changes)
        self.a.driver.migrate(guest.uuid, plan)
        self.reaches(self.a, guest, move.PRECOPY)
        return guest

    def connected(self, side):
        self.assertTrue(until(side.driver.connected))

    def test_the_sources_dies_while_memory_goes_over(self):
        guest = self.under_way()
        self.a.host.kill()
        self.assertRaises(errors.Unknown, until, lambda: self.a.driver.job(guest.uuid) is None)
        self.a.host.start()
        self.connected(self.a)
        sample = self.ends(self.a, guest, move.FAILED)
        self.assertTrue(sample.error)
        self.is_only_on(self.a, self.b, guest)
        self.assertEqual("", self.a.driver.state(guest.uuid).job)
        self.assertIsNone(self.a.new_driver().job(guest.uuid))

    def test_the_destinations_dies_while_memory_goes_over(self):
        guest = self.under_way()
        self.b.host.kill()
        self.ends(self.a, guest, move.FAILED)
        self.b.host.start()
        self.connected(self.b)
        self.is_only_on(self.a, self.b, guest)

    def test_the_sources_dies_in_post_copy(self):
        guest = self.under_way(4, postcopy=True)  # for some ten seconds
        self.a.driver.start_postcopy(guest.uuid)
        self.reaches(self.a, guest, move.POSTCOPY)
        self.assertTrue(until(lambda: self.b.driver.state(guest.uuid).reason == "postcopy"))
        self.a.host.restart()
        self.connected(self.a)
        self.ends(self.a, guest)
        self.assertEqual(move.COMPLETED, self.a.new_driver().job(guest.uuid).phase)
        state = self.a.driver.state(guest.uuid)
        self.assertEqual((states.SHUTDOWN, "migrated", ""), (
            state.power_state, state.reason, state.job))
        self.assertTrue(until(lambda: not self.b.driver.state(guest.uuid).job))
        self.assertEqual(states.RUNNING, self.b.driver.state(guest.uuid).power_state)
        self.a.driver.undefine(guest.uuid)

    def test_the_guest_dies_at_the_source(self):
        guest = self.under_way()
        self.a.host.guest(guest.name).signal(signal.SIGKILL)
        self.ends(self.a, guest, move.FAILED)
        self.assertEqual(states.SHUTDOWN, self.a.driver.state(guest.uuid).power_state)
        self.assertTrue(until(lambda: self.b.driver.state(guest.uuid) is None))
