"""How long tests wait for what has to happen, and how they look for it.

A guest under emulation on a loaded machine may take ten times as long as it does on a quiet one.
A deadline costs nothing while all works, so there is one for all, far above what anything takes.
"""

import time

SECONDS = 300


def until(condition, seconds=SECONDS, every=0.05):
    """Poll until ``condition()`` holds; its last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(every)
    return value
