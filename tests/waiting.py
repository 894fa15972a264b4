"""Waiting in tests, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import fixtures

# Seconds that a test waits for what has to come. It only ends a test that hangs: on a machine that
# is slow and busy all takes ten times longer than on a desk. Less than SILENCE_SECONDS of
# tools/toolbox/testrun.py, so that the test tells itself what it waited for.
PATIENCE = 120.0
# What agents wait between two looks and between two attempts, in seconds: a test's hosts are as
# near as can be, and work faster.
HASTE = {"compute.engine.clock.LAST_LOOK": 0.2, "compute.engine.runner.FIRST_DELAY": 0.05,
         "compute.engine.runner.LONGEST_DELAY": 1.0, "compute.migration.monitor.QUICK": 0.03}


class Haste(fixtures.Fixture):
    """Agents of this process lose little time by waiting."""

    def _setUp(self) -> None:
        for name, seconds in HASTE.items():
            self.useFixture(fixtures.MonkeyPatch(name, seconds))


def wait_until(condition: Callable[[], Any], story: Callable[[], Any] = lambda: "") -> Any:
    """The first true value of ``condition``.

    :param story: what is true now, for a test that waits in vain.
    :raises AssertionError: it did not become true within :data:`PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"it did not become true within {PATIENCE:g} seconds. {story()}")
