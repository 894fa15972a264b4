"""A whole agent with embedded control plane as a process, on a private libvirtd."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import fixtures

from compute.errors import MagnetarError
from control.cli.client import Client
from tests.contract.processes import die_with_parent
from tests.integration.patience import SECONDS

TOP = pathlib.Path(__file__).resolve().parents[2]
IMAGE = TOP / ".cache/guest.qcow2"
CONFIG = """[DEFAULT]
host = host1
state_path = {state}
{more}
[libvirt]
connection_uri = {uri}
virt_type = qemu
"""


class RealAgent(fixtures.Fixture):
    """``magnetar up`` in a process of its own; its state outlives kills.

    :param uri: libvirt's URI.
    :param more: further lines of [DEFAULT].
    """

    def __init__(self, uri: str, more: str = "audit_interval = 5\nreport_interval = 2"):
        super().__init__()
        self.uri, self.more = uri, more
        self.process: subprocess.Popen | None = None

    def _setUp(self) -> None:
        self.home = pathlib.Path(self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path)
        self.home.chmod(0o711)
        self.state = self.home / "state"
        (self.home / "magnetar.conf").write_text(
            CONFIG.format(state=self.state, uri=self.uri, more=self.more))
        self.client = Client(str(self.state / "control.sock"), SECONDS)
        self.addCleanup(self.kill)

    def start(self, kill_at: str = "", wait: bool = True) -> None:
        """Start the agent; it dies by itself at crash point ``kill_at``."""
        environment = {**os.environ, "MAGNETAR_KILL_AT": kill_at, "PYTHONPATH": str(TOP)}
        with open(self.home / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.killable_up",
                 "--config-file", str(self.home / "magnetar.conf")],
                env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=TOP,
                preexec_fn=die_with_parent)
        if wait:
            self.until(lambda: self.client.health()["status"] == "serving", "serving")

    @property
    def pid(self) -> int:
        """Of the process, which was started."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL the agent, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS)

    def terminate(self) -> float:
        """SIGTERM the agent; returns the seconds that it took to leave."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(SECONDS)
        return time.monotonic() - began

    def died(self) -> bool:
        """Whether the agent ends by SIGKILL."""
        try:
            return self.process.wait(SECONDS) == -9
        except subprocess.TimeoutExpired:
            return False

    def call(self, method: str, **args: Any) -> Any:
        """Ask over the control socket."""
        return self.client.call(method, **args)

    def ask_and_die(self, method: str, **args: Any) -> None:
        """Ask, and see the agent die at its crash point under it; the answer may be lost."""
        answer = ""
        try:
            answer = self.call(method, **args)
        except Exception as error:  # noqa: BLE001 - the agent is killed while it answers
            answer = str(error)
        if not self.died():
            raise AssertionError(f"{method}: the crash point was not reached; it was answered "
                                 f"{answer}:\n{self.log()}")

    def until(self, check: Any, what: str, seconds: float = SECONDS) -> float:
        """Poll until a check is true; returns the seconds it took. Errors of the agent (it may be
        down at the moment) count as not yet."""
        began = time.monotonic()
        while True:
            try:
                if check():
                    return time.monotonic() - began
            except (MagnetarError, OSError):
                pass
            if time.monotonic() - began > seconds:
                raise AssertionError(f"{what} was not seen within {seconds} s:\n{self.log()}")
            time.sleep(0.1)

    def log(self) -> str:
        """The end of the agent's log."""
        return (self.home / "log").read_text(errors="replace")[-6000:]

    def load_image(self) -> None:
        """Build the guest image if need be, and make image, flavor and names ready."""
        subprocess.run([str(TOP / "tools/build-guest"), str(IMAGE)], check=True,
                       capture_output=True)
        with open(IMAGE, "rb") as file:
            self.client.upload("image.create", file, IMAGE.stat().st_size, lambda sent: None,
                               name="tiny", disk_format="qcow2")
        self.call("flavor.create", name="tiny", ram=192, vcpus=1, disk=1)
