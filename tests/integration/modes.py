"""Tests that run in one concurrency mode only, and why; in the other they count as skipped."""

import testtools

from compute import concurrency

ONCE = "threading"  # eventlet, the default, has more to do


def once(why):
    """Decorate a test case that both modes would see do the same.

    :param why: what of it the mode does not reach.
    """
    return testtools.skipIf(concurrency.mode() != ONCE, f"runs with {ONCE} only: {why}")
