import os
import threading
import time

import fixtures
import testtools

from compute.errors import Failed, Retryable
from tests.unit.storage_support import in_child, kill_self
from tests.waiting import PATIENCE
from virt.storage import locks


class LockTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.useFixture(fixtures.TempDir()).path, "lock")

    def test_exclusive_excludes_within_one_process(self):
        with locks.locked(self.path, 1):
            self.assertIsNone(locks.try_lock(self.path))
            self.assertIsNone(locks.try_lock(self.path, shared=True))
        os.close(locks.try_lock(self.path))

    def test_shared_ones_share(self):
        with locks.locked(self.path, 1, shared=True), locks.locked(self.path, 1, shared=True):
            self.assertIsNone(locks.try_lock(self.path))

    def test_waiting_ends_at_the_deadline(self):
        with locks.locked(self.path, 1):
            begin = time.monotonic()
            error = self.assertRaises(Retryable, locks.locked(self.path, 0.2).__enter__)
        self.assertEqual("busy", error.code)
        self.assertIn(self.path, error.next)
        self.assertGreater(time.monotonic() - begin, 0.1)

    def test_waiting_can_be_cancelled(self):
        def stop():
            raise Failed("told to stop")

        with locks.locked(self.path, 1):
            self.assertRaises(Failed, locks.locked(self.path, 60, stop).__enter__)

    def test_released_by_an_error(self):
        def fail():
            with locks.locked(self.path, 1):
                raise Failed("inside")

        self.assertRaises(Failed, fail)
        os.close(locks.try_lock(self.path))

    def test_released_by_sigkill(self):
        def die():
            locks.try_lock(self.path)
            kill_self()

        self.assertEqual(-9, os.waitstatus_to_exitcode(in_child(die)))
        os.close(locks.try_lock(self.path))

    def test_lock_file_removed_by_its_holder(self):
        """Who waited on the removed file must not believe that it holds the new one."""
        first = locks.try_lock(self.path)
        waiting = os.open(self.path, os.O_RDWR)
        os.unlink(self.path)
        os.close(first)
        second = locks.try_lock(self.path)
        self.assertFalse(os.path.samestat(os.fstat(waiting), os.fstat(second)))
        os.close(waiting)
        os.close(second)

    def test_threads_take_turns(self):
        inside, most, turns = [], [], []

        def work(number):
            with locks.locked(self.path, PATIENCE):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.01)
                inside.remove(number)
                turns.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(list(range(6)), sorted(turns))
        self.assertEqual(1, max(most))
