"""What of the kill matrix, and of the simulation, runs in each concurrency mode.

All of it in eventlet, the default. Their processes hardly ever have two threads that could meet, so
native threads have little to add: a tenth, drawn by name, with MAGNETAR_DOUBLE_KILLS=all as well
all of it.
"""

from __future__ import annotations

import os
import random
import unittest

from compute import concurrency

EVERYTHING = os.environ.get("MAGNETAR_DOUBLE_KILLS") == "all"
THREADING_SHARE = 0.1


def runs_here(name: str) -> bool:
    """Whether a case, by its name, is run in this process's mode."""
    return EVERYTHING or concurrency.mode() != "threading" \
        or random.Random(f"threading {name}").random() < THREADING_SHARE


# For tests that prove that the matrix can fail.
eventlet_only = unittest.skipIf(
    concurrency.mode() == "threading" and not EVERYTHING,
    "runs with eventlet only: that the matrix finds what is wrong needs no second mode")
