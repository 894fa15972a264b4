"""Tests that are run again, a few times at most, for what is nobody's fault here.

QEMU 7.2 without KVM can lose what a guest writes to its memory while it is moved (cured in part in
QEMU 9.0): its kernel then panics at the destination, and nothing can be told of the case. And a
moment that lasts a second can have passed when a loaded machine gets to look. Each repetition is
a detail of the test, and tools/test counts and shows them. What fails with a sound guest fails at
once; a guest that panics each time fails too.
"""

import functools

import testtools
from testtools.content import text_content

from tools.toolbox.lab.guest import broken

ATTEMPTS = 4
DETAIL = "repeated"  # how the names of the details begin


class Late(Exception):
    """The moment for what a test does had passed when the test looked."""


def spoilt(consoles):
    """The line of one of these files that tells of broken memory; None when all were sound."""
    texts = (path.read_text(errors="replace") for path in consoles if path.exists())
    return next(filter(None, map(broken, texts)), None)


class Repeating(testtools.TestCase):
    """A test case some of whose tests are decorated with :func:`repeated`."""

    def consoles(self):
        """The console logs of all guests of the test, as paths."""
        raise NotImplementedError

    def begin_again(self):
        """Take away what an attempt left, and be as after setUp."""
        raise NotImplementedError

    def note_repetition(self, why):
        """Have it counted; ``why`` is shown by tools/test."""
        number = sum(name.startswith(DETAIL) for name in self.getDetails())
        self.addDetail(f"{DETAIL}-{number}", text_content(why))

    def in_time(self, attempt):
        """``attempt()``, again when it was Late; what it gave."""
        for _ in range(ATTEMPTS - 1):
            try:
                return attempt()
            except Late as late:
                self.note_repetition(f"a moment had passed: {late}")
        return attempt()


def repeated(test):
    """Decorate a test that moves guests with kernels under emulation."""

    @functools.wraps(test)
    def run(case):
        for _ in range(ATTEMPTS - 1):
            try:
                return test(case)
            except case.skipException:
                raise
            except Exception:
                line = spoilt(case.consoles())
                if line is None:
                    raise
                case.note_repetition(f"QEMU's emulation broke a guest's memory: {line}")
            case.begin_again()
        return test(case)

    return run
