"""``magnetar up`` on the fake driver in a process of its own, which may be killed."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import fixtures

from control.cli.client import Client
from tests.functional.agent_support import HOST
from tests.waiting import wait_until

PROJECT = pathlib.Path(__file__).resolve().parents[2]


class Process(fixtures.Fixture):
    """``magnetar up`` on the fake driver in a process that may be killed."""

    def __init__(self, state: str | os.PathLike, **options: Any):
        super().__init__()
        self.state = pathlib.Path(state)
        self.options = {"host": HOST, "state_path": self.state, "compute_driver": "fake",
                        "transport_url": "inproc://", "socket": f"{self.state}/s.sock", **options}
        self.child: subprocess.Popen | None = None

    def _setUp(self) -> None:
        directory = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.file = directory / "magnetar.conf"
        self.file.write_text("[DEFAULT]\n" + "".join(
            f"{name} = {value}\n" for name, value in self.options.items()))
        self.errors = directory / "stderr"
        self.addCleanup(self.kill)

    def start(self) -> Process:
        """Start it; returns at once."""
        with open(self.errors, "wb") as errors:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "control.cli.main", "up", "--config-file", str(self.file)],
                cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        return self

    def serves(self) -> Client:
        """Wait until it serves; returns a client of its control socket."""
        client = Client(str(self.options["socket"]))

        def serving() -> bool:
            if self.child.poll() is not None:
                raise AssertionError(f"it ended with {self.child.returncode}: {self.said()}")
            try:
                return client.health().get("status") == "serving"
            except Exception:  # noqa: BLE001 - not there yet; the loop above has a limit
                return False

        wait_until(serving, self.said)
        return client

    def said(self) -> str:
        """What it printed to standard error."""
        return self.errors.read_text(errors="replace")

    def ends(self) -> int:
        """Wait for its end; returns the exit code."""
        wait_until(lambda: self.child.poll() is not None, self.said)
        return self.child.returncode

    def stop(self) -> int:
        """Ask it to stop; returns the exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.ends()

    def kill(self) -> None:
        """Kill it at once, if it runs."""
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.ends()
