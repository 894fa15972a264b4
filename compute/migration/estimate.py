"""How long a live migration will take and how long its pause will be, before and while it runs.

Pre-copy is a geometric series: a pass over M bytes takes M/bandwidth seconds, in which the guest
writes dirty_rate times as much, which is the next pass, until the rest fits into the pause. These
are estimates for people: a guest does not write evenly, and zero pages cost nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compute.migration import trend
from compute.migration.trend import MIB, rate, size
from compute.model import move
from compute.model.move import JobSample

PRECOPY, AUTO_CONVERGE, MULTIFD, POSTCOPY = "precopy", "auto-converge", "multifd", "postcopy"
SETUP_SECONDS = 1.0  # connecting, preparing the destination, finishing
SWITCH_MS = 50  # stopping the guest, its devices' state, starting it; seen 5 to 250
ASSUMED = 110 * MIB  # bytes/s of a link that nothing was seen on yet: 1 Gbit/s
PASSES = 50  # more than that is no convergence that anybody waits for
THROTTLE_FIRST, THROTTLE_STEP, THROTTLE_MOST = 20, 10, 99  # QEMU's, in percent
THROTTLE_EVERY = 2  # passes that do not help, after which QEMU throttles more


@dataclass(frozen=True)
class Estimate:
    """Seconds in all and pause in ms that are expected; None where it cannot be said.

    ``converges`` False: it does not end by itself; None: the dirty rate or bandwidth is not known,
    and then ``seconds`` is the least that it takes.
    """

    seconds: float | None
    downtime_ms: int | None
    converges: bool | None
    passes: int
    reason: str

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for the operator's socket."""
        return asdict(self)


def predict(strategy: str, *, memory: int, bandwidth: int, dirty_rate: int | None,
            disks: int = 0, budget_ms: int = 500) -> Estimate:
    """What a strategy promises for one guest.

    :param strategy: precopy, auto-converge, multifd or postcopy.
    :param memory: bytes of memory; ``disks``: bytes of disks that are copied first.
    :param bandwidth: bytes/s of the link or the limit, 0 when not known.
    :param dirty_rate: bytes/s that the guest writes to memory; 0 for a paused guest, None when it
        could not be measured.
    """
    if bandwidth <= 0:
        return Estimate(None, None, None, 0, "The bandwidth is not known.")
    before = SETUP_SECONDS + disks / bandwidth
    if strategy == POSTCOPY:
        written = min(memory, (dirty_rate or 0) * memory / bandwidth)
        return Estimate(before + (memory + written) / bandwidth, SWITCH_MS, True, 1,
                        "Post-copy ends after one pass and what the guest wrote during it.")
    if dirty_rate is None:
        return Estimate(before + memory / bandwidth, None, None, 1,
                        "How fast the guest writes memory is not known: it takes at least this.")
    slowed = strategy == AUTO_CONVERGE
    passes, seconds, rest = _series(memory, bandwidth, dirty_rate, budget_ms, slowed)
    pause = SWITCH_MS + round(rest * 1000 / bandwidth)
    if rest * 1000 > budget_ms * bandwidth:
        return Estimate(None, None, False, passes, (
            f"The guest writes {rate(dirty_rate)} of memory and {rate(bandwidth)} go over: "
            f"{size(rest)} are left after each pass, more than fit into {budget_ms} ms."))
    how = "with the guest's CPUs slowed" if slowed and passes > THROTTLE_EVERY else "by pre-copy"
    return Estimate(before + seconds, pause, True, passes,
                    f"It converges {how} in {passes} {'pass' if passes == 1 else 'passes'}.")


def _series(memory: int, bandwidth: int, dirty_rate: int, budget_ms: int,
            slowed: bool) -> tuple[int, float, float]:
    """Passes, their seconds, and the bytes that are left for the pause."""
    rest, seconds, throttle, helpless = float(memory), 0.0, 0, 0
    fits = bandwidth * budget_ms / 1000
    for number in itertools.count(1):
        took = rest / bandwidth
        seconds += took
        after = min(memory, dirty_rate * (1 - throttle / 100) * took)
        if after <= fits or number == PASSES:
            return number, seconds, after
        if after >= rest / 2:
            helpless += 1
            if slowed and helpless % THROTTLE_EVERY == 0:
                throttle = min(THROTTLE_MOST, throttle + THROTTLE_STEP if throttle
                               else THROTTLE_FIRST)
        rest = after
    raise AssertionError("count() does not end")


def seconds_left(samples: Sequence[JobSample], budget_ms: int = 500) -> float | None:
    """How long a running transfer still takes; None when it cannot be said, or does not converge.

    Mirrored disks and one pass are a division; the passes that follow are estimated from the
    dirty rate that the hypervisor measures.
    """
    if not samples or samples[-1].phase in (*move.ENDED, move.POSTCOPY_PAUSED):
        return None
    last, bandwidth = samples[-1], trend.bandwidth(samples)
    if not bandwidth:
        return None
    if last.phase in (move.POSTCOPY, move.SWITCHOVER):
        return last.remaining / bandwidth
    ahead = last.memory_remaining
    if last.phase == move.SETUP:
        ahead = max(last.memory_total, last.memory_remaining)
    if not ahead:
        return last.disk_remaining / bandwidth
    found = predict(PRECOPY, memory=ahead, bandwidth=bandwidth, dirty_rate=last.dirty_rate,
                    disks=last.disk_remaining, budget_ms=budget_ms)
    return None if found.seconds is None else found.seconds - SETUP_SECONDS


def completion_seconds(per_gib: float, memory_mb: int, disks: Sequence[int] = ()) -> float:
    """The completion timeout of one guest: ``per_gib`` seconds for each GiB of memory and of each
    disk (bytes) that is copied, at least 2 GiB for each; 0 for no limit."""
    gib = max(2.0, memory_mb / 1024) + sum(max(2.0, disk / MIB / 1024) for disk in disks)
    return per_gib * gib
