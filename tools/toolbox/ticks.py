"""A guest's counter as its console shows it, watched from outside while the guest moves.

The guest of tools/build-guest writes ``TICK n`` each second. What is read here is the console's
log on every host, so nothing of Magnetar takes part in the proof.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Tick:
    """The number, when it was first seen (monotonic seconds), and on which host."""

    number: int
    at: float
    host: str


class _Log:
    """One console log. What it holds when it appears came along with the guest."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._rest, self._new = path, 0, "", True

    def lines(self) -> tuple[list[str], bool]:
        """Whole lines that were not read before; True when they were there from the start."""
        try:
            size = self._path.stat().st_size
            with self._path.open("rb") as file:
                if size < self._read:
                    self._read, self._rest, self._new = 0, "", True
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            self._read, self._rest, self._new = 0, "", True
            return [], False
        came_along, self._new = self._new, False
        self._read += len(data)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        return lines, came_along


class Ticks:
    """Follows a guest's counter in a thread.

    :param logs: the path of the guest's console log on each host, which need not exist.
    """

    def __init__(self, logs: Mapping[str, Path]) -> None:
        self.seen: list[Tick] = []
        self.backwards: list[str] = []
        # Hosts that share their disks have one log.
        hosts = {path: host for host, path in logs.items()}
        self._logs = {host: _Log(path) for path, host in hosts.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Ticks:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    @property
    def last(self) -> int:
        """The newest number; 0 before the first."""
        return self.seen[-1].number if self.seen else 0

    def _follow(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Read what is new on all hosts."""
        for host, log in self._logs.items():
            lines, came_along = log.lines()
            numbers = [number for number in map(_number, lines) if number]
            # What came along was told on the host that it came from, or before anybody looked.
            for number in numbers[-1:] if came_along and not self.seen else numbers:
                if number > self.last:
                    self.seen.append(Tick(number, time.monotonic(), host))
                elif not came_along:
                    self.backwards.append(f"{number} on {host} after {self.last}")

    def wait(self, more: int, seconds: float) -> bool:
        """Wait until the counter went on by ``more``; False when it did not in time."""
        wanted, deadline = self.last + more, time.monotonic() + seconds
        while self.last < wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def skipped(self) -> int:
        """How many numbers were never seen between the first and the last one."""
        if not self.seen:
            return 0
        return self.last - self.seen[0].number + 1 - len(self.seen)

    def gaps(self, since: float = 0.0) -> tuple[float, float]:
        """The longest and the usual time between two numbers that follow each other, in seconds,
        of those seen after ``since`` (monotonic); 0 and 0 with too few."""
        seen = [tick for tick in self.seen if tick.at >= since]
        pairs = [(b.number - a.number, b.at - a.at) for a, b in zip(seen, seen[1:], strict=False)]
        if not pairs:
            return 0.0, 0.0
        usual = statistics.median(seconds / steps for steps, seconds in pairs)
        return max(seconds - (steps - 1) * usual for steps, seconds in pairs), usual


def _number(line: str) -> int:
    """The n of ``TICK n``, which the shell's prompt may precede; 0 for another line."""
    _, found, rest = line.rpartition("TICK ")
    digits = rest.strip()
    return int(digits) if found and digits.isdigit() else 0
