"""Devices that come to a guest or leave it while it runs or is off: what NICs and volumes share."""

from __future__ import annotations

from collections.abc import Callable

from compute.engine.run import Run
from compute.errors import Failed
from compute.steps.domain import own


def need_domain(run: Run, devices: str) -> None:
    """Raise unless the guest's domain is here and ours; one whose memory is on disk cannot be
    changed: that memory fits the machine that it was saved from.

    :param devices: for messages, ``NICs`` for example.
    :raises Failed: codes ``domain_missing``, ``suspended``.
    """
    found = run.world.driver.state(run.row.guest)
    if found is None:
        raise Failed(f"The hypervisor does not know guest {run.row.guest}.",
                     now=f"Its {devices} were not changed.",
                     next="A hard reboot defines it again.", code="domain_missing")
    own(run, found)
    if found.saved:
        raise Failed(f"The memory of guest {run.row.guest} is saved, with the {devices} that it "
                     "had.", now="They were not changed.", next="Resume it first.",
                     code="suspended")


def let_go(run: Run, name: str, ask: Callable[[], None], is_out: Callable[[], bool],
           attempts: int) -> bool:
    """Ask the guest to let go of a device, so many times, and wait. Returns whether it did."""
    for attempt in range(attempts):
        ask()
        if attempt:
            run.say(f"asked the guest {attempt + 1} times to let go of {name}")
        if run.wait(is_out, run.world.conf.libvirt.device_detach_timeout):
            return True
    return False
