"""The pool through which libvirt is called."""

import threading

import libvirt
import testtools

from compute import concurrency, errors
from tests.waiting import PATIENCE, wait_until
from virt.libvirt import call
from virt.libvirt.call import Calls


def native_event():
    return concurrency.native_module("threading").Event()


class TestCalls(testtools.TestCase):
    def calls(self, **options):
        calls = Calls(**options)
        self.addCleanup(calls.close)
        return calls

    def test_results_and_errors_come_back(self):
        calls = self.calls()
        self.assertEqual(5, calls.run("add", lambda a, b: a + b, 2, 3))
        self.assertRaises(ZeroDivisionError, calls.run, "divide", lambda: 1 / 0)

    def test_libvirts_errors_become_ours(self):
        def missing():
            error = libvirt.libvirtError("no")
            error.err = (libvirt.VIR_ERR_NO_DOMAIN, 10, "no domain", 2, "", "", "", 0, 0)
            raise error

        error = self.assertRaises(errors.Refused, self.calls().run, "look_up_domain", missing)
        self.assertIn("could not look up domain", error.what)

    def test_calls_run_on_native_threads_and_these_are_used_again(self):
        calls = self.calls(size=2)
        get_ident = concurrency.native_module("threading").get_ident
        seen = {calls.run("ident", get_ident) for _ in range(20)}
        self.assertNotIn(get_ident(), seen)
        self.assertEqual(1, len(seen))

    def test_a_call_past_its_deadline_is_unknown_and_its_thread_replaced(self):
        calls, release = self.calls(size=1, timeout=0.2), native_event()
        self.addCleanup(release.set)
        error = self.assertRaises(errors.Unknown, calls.run, "hang", release.wait)
        self.assertEqual("libvirt_timeout", error.code)
        self.assertEqual("done", calls.run("go_on", lambda: "done", timeout=PATIENCE))

    def test_a_call_that_never_began_is_not_made_later(self):
        calls, release, made = self.calls(size=1), native_event(), []
        blocker = threading.Thread(target=calls.run, args=("hang", release.wait))
        blocker.start()
        wait_until(lambda: calls._busy)
        self.assertRaises(errors.Unknown, calls.run, "late", made.append, 1, timeout=0.1)
        release.set()
        blocker.join()
        self.assertEqual("ok", calls.run("after", lambda: "ok"))
        self.assertEqual([], made)

    def test_no_more_threads_than_allowed_work_at_once(self):
        calls, lock, now, most = self.calls(size=3), threading.Lock(), [], []
        full = native_event()

        def work():
            now.append(1)
            most.append(len(now))
            if len(now) == 3:
                full.set()
            full.wait(PATIENCE)
            now.pop()

        threads = [threading.Thread(target=calls.run, args=("work", work)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with lock:
            self.assertEqual(12, len(most))
            self.assertEqual(3, max(most))

    def test_a_daemon_that_never_answers_does_not_eat_threads_without_end(self):
        self.patch(call, "MAX_GIVEN_UP", 3)
        calls, release = self.calls(size=2, timeout=0.05), native_event()
        while calls._given_up < 3:  # one that did not even begin in time does not count
            self.assertRaises(errors.Unknown, calls.run, "hang", release.wait)
        error = self.assertRaises(errors.Unknown, calls.run, "more", lambda: None)
        self.assertIn("3 earlier calls never returned", error.what)
        release.set()
        wait_until(lambda: not calls._given_up)
        self.assertEqual("back", calls.run("more", lambda: "back", timeout=PATIENCE))

    def test_the_figures_tell_what_calls_cost(self):
        calls, release = self.calls(), native_event()
        for _ in range(3):
            calls.run("quick", lambda: None)
        self.assertRaises(ZeroDivisionError, calls.run, "quick", lambda: 1 / 0)
        self.assertRaises(errors.Unknown, calls.run, "slow", release.wait, timeout=0.02)
        release.set()
        figures = calls.snapshot()
        self.assertEqual((4, 1, 0), (
            figures["quick"].calls, figures["quick"].errors, figures["quick"].timeouts))
        self.assertEqual((1, 1, 1), (
            figures["slow"].calls, figures["slow"].errors, figures["slow"].timeouts))
        self.assertEqual(4, sum(figures["quick"].buckets))
        self.assertGreaterEqual(figures["slow"].seconds, 0.02)
        self.assertEqual(5, calls.total())

    def test_close_ends_idle_threads_and_later_calls_still_work(self):
        calls = self.calls(size=2)
        calls.run("one", lambda: None)
        calls.close()
        wait_until(lambda: not calls._threads)
        self.assertEqual(1, calls.run("two", lambda: 1))
