"""Processes that we started, remembered so that only they are ever signalled.

A pid alone is not proof: it may have been reused since. A Process also carries the start time
that the kernel keeps for the pid, and the boot it belongs to.
"""

import contextlib
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Process:
    """One process for as long as it lives; `started` is in clock ticks after the boot."""

    name: str
    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int, name: str) -> "Process | None":
        """The process that has this pid now, or None when there is none."""
        stat = _stat(pid)
        return cls(name, pid, int(stat[21]), _boot()) if stat else None

    def as_dict(self) -> dict:
        """The fields, for a JSON file; Process(**fields) gives the process back."""
        return asdict(self)

    def alive(self) -> bool:
        """True while this very process exists and has not ended (a zombie has ended)."""
        stat = _stat(self.pid)
        return (
            stat is not None
            and (int(stat[21]), _boot()) == (self.started, self.boot)
            and stat[2] not in ("Z", "X")
        )

    def signal(self, number: int) -> bool:
        """Send a signal if the process is alive; True when it was sent."""
        if not self.alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until the process has ended; False when it still lives after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
            _reap(self.pid)
        return True

    def stop(self, seconds: float = 15) -> bool:
        """End the process: SIGTERM, then SIGKILL after `seconds`. True when it has ended."""
        self.signal(signal.SIGTERM)
        if not self.wait(seconds):
            self.signal(signal.SIGKILL)
        return self.wait(30)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat; the name may hold spaces, so it is cut out first."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    return [head.split(" (")[0], head.split(" (", 1)[1], *tail.split()]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
