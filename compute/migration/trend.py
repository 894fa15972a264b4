"""What a row of samples says of a transfer: time spent, bandwidth, and where passes began.

Each pass of pre-copy sends what is dirty while the guest makes more of it so: the remaining bytes
are a saw-tooth, and only its peaks, at the borders between passes, say whether it converges.
Samples may lack fields (0), come seldom or in bursts, and the clocks may jump.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from compute.model import move
from compute.model.move import JobSample

MIB = 1 << 20
GAP = 60.0  # seconds: more between two samples is a clock that jumped, or an agent that slept
SHRINKING = 0.8  # of the lowest border before: a pass that leaves more does not help
RECENT = 8  # samples that bandwidth is taken from
RISE = 1 << 20  # bytes that a peak is higher than what was before it, where passes have no number
TICK = 0.001  # seconds: the hypervisor counts no finer, and a rate over less says nothing
STILL = 30.0  # seconds without progress after which disks count as stuck
STILL_SHARE = 0.95


@dataclass(frozen=True)
class Border:
    """The beginning of a pass: its number (from 1) and the bytes that were to go, of memory and
    disks together."""

    iteration: int
    remaining: int


def spent(samples: Sequence[JobSample]) -> float:
    """Seconds that the transfer has taken. Where the hypervisor's clock and ours disagree the
    shorter one counts, and no gap counts more than a minute: a jump never makes it time out."""
    if not samples:
        return 0.0
    total = max(0.0, samples[0].elapsed)
    for before, after in itertools.pairwise(samples):
        total += _gap(before, after)
    return total


def _gap(before: JobSample, after: JobSample) -> float:
    steps = [step for step in (after.elapsed - before.elapsed, after.time - before.time)
             if step > 0]
    return min(*steps, GAP) if steps else 0.0


def bandwidth(samples: Sequence[JobSample]) -> int:
    """Bytes/s that go over lately: as the hypervisor says, else from what was processed; 0 when
    neither is known."""
    recent = samples[-RECENT:]
    told = [sample.bandwidth for sample in recent if sample.bandwidth > 0]
    if told:
        return int(statistics.median(told))
    if len(recent) < 2:
        return 0
    seconds = sum(_gap(*pair) for pair in itertools.pairwise(recent))
    first, last = recent[0], recent[-1]
    done = last.memory_processed + last.disk_processed \
        - first.memory_processed - first.disk_processed
    return int(done / seconds) if seconds >= TICK and done > 0 else 0


def borders(samples: Sequence[JobSample]) -> list[Border]:
    """The passes over memory that were seen, oldest first, each with its highest remaining bytes.

    Where the hypervisor does not number them, a new one begins whenever the rest rises.
    """
    found: list[Border] = []
    before: JobSample | None = None
    for sample in samples:
        if sample.phase != move.PRECOPY or not sample.memory_total:
            continue
        number = sample.iteration or _unnumbered(found, before, sample)
        if found and number <= found[-1].iteration:
            last = found[-1]
            found[-1] = Border(last.iteration, max(last.remaining, sample.remaining))
        else:
            found.append(Border(number, sample.remaining))
        before = sample
    return found


def _unnumbered(found: Sequence[Border], before: JobSample | None, sample: JobSample) -> int:
    if before is None or not found:
        return 1
    rose = sample.memory_remaining > before.memory_remaining + RISE
    return found[-1].iteration + (1 if rose else 0)


def shrinks(seen: Sequence[Border]) -> bool | None:
    """Whether the newest pass began with clearly less than any before; None until two passes
    have followed the first, which goes over everything and says nothing."""
    if len(seen) < 3:
        return None
    return seen[-1].remaining < SHRINKING * min(border.remaining for border in seen[1:-1])


def disks_stand_still(samples: Sequence[JobSample]) -> bool:
    """Whether mirrored disks have not come closer for half a minute."""
    seconds = 0.0
    for newer, older in itertools.pairwise(reversed(samples)):
        seconds += _gap(older, newer)
        if seconds >= STILL:
            return 0 < STILL_SHARE * older.disk_remaining <= samples[-1].disk_remaining
    return False


def size(count: float) -> str:
    """Bytes for people: ``40.0 MiB``."""
    return f"{count / MIB:.1f} MiB" if count < 1024 * MIB else f"{count / 1024 / MIB:.1f} GiB"


def rate(count: float) -> str:
    """Bytes/s for people."""
    return f"{size(count)}/s"
