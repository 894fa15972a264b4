"""What is told of a migration: libvirt's word, and what this process remembers."""

import threading
import time
from types import SimpleNamespace

import libvirt
import testtools

from compute import concurrency, errors
from compute.model import move
from compute.model.move import MovePlan
from tests.unit.test_libvirt_errors import made
from tests.waiting import PATIENCE
from virt.libvirt.errand import Errand
from virt.libvirt.errors import translate
from virt.libvirt.moves import Moves, Transfer
from virt.libvirt.sleep import Sleep

UUID = "6f1e2d3c-0000-4000-8000-000000000001"
OUT = {"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, "memory_total": 9}
NONE = {"type": 0}
RUNNING = [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED]
MOVED = [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED]
CRASHED = [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED]
POSTCOPY = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY]
BROKEN = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED]
GONE = made(libvirt.VIR_ERR_NO_DOMAIN)


def native_event():
    """An event for native threads, in both modes."""
    return concurrency.native_module("threading").Event()


class FakeDomain:
    """A domain with a state, statistics, and a record of what was asked of it."""

    def __init__(self, state, stats):
        self.now, self.stats, self.asked = state, stats, []

    def state(self):
        if self.now is None:
            raise GONE
        return self.now

    def jobStats(self):  # noqa: N802 - libvirt's name
        return self.stats

    def __getattr__(self, name):
        return lambda *args: self.asked.append((name, *args))


class FakeConnection:
    """Calls what it is given, with libvirt's errors made ours."""

    def call(self, name, func, *args, timeout=None):
        try:
            return func(*args)
        except libvirt.libvirtError as error:
            raise translate(error, name) from error


class MovesCase(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.domain = FakeDomain(RUNNING, OUT)
        domains = SimpleNamespace(
            find=lambda uuid: self.domain, required=lambda uuid: self.domain, begun=[])
        self.moves = Moves(FakeConnection(), domains, lambda: None)

    def transfer(self, error=None, ended=True):
        """A migration that this process began; it ended unless said otherwise."""
        release = native_event()
        self.addCleanup(release.set)

        def work(handle):
            if not ended:
                release.wait(PATIENCE)
            if error is not None:
                raise error

        made = Transfer(lambda made: Errand("test", lambda: None, work))
        if ended:
            self.assertTrue(made.errand.wait(PATIENCE))
        self.moves._transfers[UUID] = made
        return made

    def phase(self):
        sample = self.moves.job(UUID)
        return sample.phase if sample is not None else None


class TestJob(MovesCase):
    def test_a_process_that_came_later_goes_by_libvirts_word(self):
        for state, stats, phase in (
            (RUNNING, OUT, move.PRECOPY), (RUNNING, NONE, None), (MOVED, None, move.COMPLETED),
            (CRASHED, None, None), (POSTCOPY, OUT, move.POSTCOPY),
            (BROKEN, OUT, move.POSTCOPY_PAUSED), (None, None, move.COMPLETED),
        ):
            self.domain = FakeDomain(state, stats)
            self.assertEqual(phase, self.phase(), (state, stats))
        self.domain = None
        self.assertEqual(move.COMPLETED, self.phase())

    def test_an_arriving_domain_has_no_outgoing_migration(self):
        self.domain = FakeDomain([libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION],
                                 None)  # fmt: skip
        self.assertIsNone(self.phase())

    def test_what_went_wrong_is_remembered(self):
        self.domain.stats = NONE
        self.transfer(made(libvirt.VIR_ERR_INTERNAL_ERROR, message="no route"))
        sample = self.moves.job(UUID)
        self.assertEqual(move.FAILED, sample.phase)
        self.assertIn("no route", sample.error)
        self.transfer(made(libvirt.VIR_ERR_OPERATION_ABORTED))
        self.assertEqual(move.CANCELLED, self.phase())
        self.domain.now = CRASHED
        self.transfer(made(libvirt.VIR_ERR_OPERATION_FAILED, message="it died"))
        self.assertEqual(move.FAILED, self.phase())

    def test_a_lost_answer_is_no_failure_when_the_domain_left(self):
        self.transfer(made(libvirt.VIR_ERR_RPC))
        self.domain = None
        self.moves.completed(UUID, {**OUT, "downtime": 12})
        self.assertEqual((move.COMPLETED, 12), (self.phase(), self.moves.job(UUID).downtime_ms))

    def test_a_broken_post_copy_is_none_even_when_its_call_failed(self):
        self.domain.now = BROKEN
        self.transfer(made(libvirt.VIR_ERR_OPERATION_FAILED))
        self.assertEqual(move.POSTCOPY_PAUSED, self.phase())

    def test_before_libvirt_began_and_while_it_tidies_up_it_goes_on(self):
        self.domain.stats = NONE
        self.transfer(ended=False)
        self.assertEqual(move.SETUP, self.phase())
        self.assertTrue(self.moves.leaving(UUID))
        self.domain = None
        self.assertEqual(move.SWITCHOVER, self.phase())

    def test_statistics_of_arriving_guests_are_not_kept(self):
        self.moves.completed(UUID, {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN})
        self.assertEqual({}, self.moves._completed)

    def test_a_guest_that_came_back_has_no_past(self):
        self.transfer(made(libvirt.VIR_ERR_OPERATION_FAILED))
        self.moves.forget(UUID)
        self.domain.stats = NONE
        self.assertIsNone(self.phase())


class TestSteering(MovesCase):
    def test_what_runs_is_stopped(self):
        self.moves.abort(UUID)
        self.assertEqual([("abortJob",)], self.domain.asked)

    def test_nothing_is_stopped_that_is_no_migration(self):
        self.domain.stats = {"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP}
        self.moves.abort(UUID)
        self.assertEqual([], self.domain.asked)
        self.domain = None
        self.moves.abort(UUID)

    def test_in_post_copy_it_is_too_late(self):
        for state in (POSTCOPY, BROKEN):
            self.domain.now = state
            error = self.assertRaises(errors.Refused, self.moves.abort, UUID)
            self.assertEqual(("too_late", []), (error.code, self.domain.asked))

    def test_a_migration_stopped_before_it_began_is_stopped_when_it_begins(self):
        self.domain.stats = NONE
        transfer = self.transfer(ended=False)
        self.moves.abort(UUID)
        self.assertTrue(transfer.unwanted)
        self.domain.asked.clear()
        self.domain.stats = OUT
        self.moves.job(UUID)
        self.assertEqual([("abortJob",)], self.domain.asked)

    def test_tuning(self):
        self.moves.tune(UUID, 200, 30)
        self.moves.tune(UUID, None, 0)
        self.domain.now = POSTCOPY
        self.moves.tune(UUID, None, 5)
        self.assertEqual([
            ("migrateSetMaxDowntime", 200), ("migrateSetMaxSpeed", 30, 0),
            ("migrateSetMaxSpeed", 8796093022207, 0), ("migrateSetMaxSpeed", 5, 1),
        ], self.domain.asked)  # fmt: skip

    def test_post_copy_is_started_once(self):
        self.moves.start_postcopy(UUID)
        self.domain.now = POSTCOPY
        self.moves.start_postcopy(UUID)
        self.assertEqual([("migrateStartPostCopy",)], self.domain.asked)

    def test_nothing_is_recovered_that_is_not_broken(self):
        self.moves.recover(UUID, MovePlan(uri="x"))
        self.assertEqual({}, self.moves._transfers)


class TestSleep(MovesCase):
    def setUp(self):
        super().setUp()
        self.begun = []
        domains = SimpleNamespace(
            find=lambda uuid: self.domain, required=lambda uuid: self.domain, begun=self.begun,
            has_saved=lambda domain: domain.now == MOVED)
        self.handle = SimpleNamespace(lookupByUUIDString=lambda uuid: self.domain)
        self.sleep = Sleep(FakeConnection(), domains, lambda: self.handle)
        self.domain.isActive = lambda: self.domain.now != MOVED

    def test_a_save_is_stopped_and_nothing_else(self):
        for stats, asked in (
            (NONE, []), (OUT, []),
            ({"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE}, [("abortJob",)]),
        ):
            self.domain.stats = stats
            self.sleep.abort(UUID)
            self.assertEqual(asked, self.domain.asked)
        self.domain = None
        self.sleep.abort(UUID)

    def test_a_save_that_libvirt_has_not_begun_is_told_as_one_and_can_be_stopped(self):
        gate = native_event()
        self.addCleanup(gate.set)
        self.sleep._connect = lambda: gate.wait(PATIENCE) and self.handle
        self.assertRaises(errors.Unknown, self.sleep.save, UUID, 0.05)
        self.assertEqual(["save"], [ask(UUID) for ask in self.begun])
        self.domain.stats = NONE
        self.sleep.abort(UUID)
        threading.Timer(0.05, gate.set).start()
        self.assertRaises(errors.Aborted, self.sleep.save, UUID, PATIENCE)
        self.assertEqual([], self.domain.asked)

    def test_a_guest_without_an_agent_keeps_its_clock(self):
        def no_agent(time):
            raise made(libvirt.VIR_ERR_AGENT_UNRESPONSIVE)

        before = int(time.time())
        self.assertTrue(self.sleep.sync_time(UUID))
        ((_, now),) = self.domain.asked
        self.assertTrue(before <= now["seconds"] <= time.time(), now)
        self.domain.setTime = no_agent
        self.assertFalse(self.sleep.sync_time(UUID))


class TestErrand(testtools.TestCase):
    def test_it_waits_only_as_long_as_it_is_told(self):
        release = native_event()
        errand = Errand("test", lambda: 5, lambda handle: release.wait(PATIENCE))
        self.assertFalse(errand.wait(0.1))
        self.assertFalse(errand.ended)
        release.set()
        self.assertTrue(errand.wait(PATIENCE))
        self.assertIsNone(errand.error)

    def test_an_error_is_kept_wherever_it_came_from(self):
        def fail(*args):
            raise ValueError("no")

        for functions in ((fail, lambda handle: None), (lambda: 1, fail)):
            errand = Errand("test", *functions)
            self.assertTrue(errand.wait(PATIENCE))
            self.assertEqual("no", str(errand.error))
