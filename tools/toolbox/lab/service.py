"""A daemon of the lab: started, killed, frozen and found again by any command of the lab."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.toolbox.lab.network import PATH
from tools.toolbox.lab.place import TOP, LabError
from tools.toolbox.processes import Process

READY_SECONDS = 300  # on a loaded machine; it takes some
DEAD_SECONDS = 60  # after SIGKILL
KEPT = ("MAGNETAR_CONCURRENCY",)


class Service:
    """One daemon. Its pid is in a file, with the start time that proves that it still is it.

    :param name: as in messages, for example "host1 libvirtd".
    :param command: what to run.
    :param enter: gives the words that enter the namespaces; asked at each start.
    :param home: directory of the lab; the daemon's log and pid file go below it.
    :param ready: whether it serves, asked until it does.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        enter: Callable[[], list[str]],
        home: Path,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        sockets: Sequence[Path] = (),
    ) -> None:
        self.name, self.command, self._enter, self._ready = name, list(command), enter, ready
        self._env, self._sockets = dict(env or {}), sockets
        self.log = home / "log" / f"{name.replace(' ', '-')}.log"
        self._note = home / "pids" / f"{name.replace(' ', '-')}.json"

    def process(self) -> Process | None:
        """Its process, when it lives."""
        try:
            process = Process(**json.loads(self._note.read_text()))
        except (OSError, ValueError):
            return None
        return process if process.alive() else None

    def start(
        self, env: Mapping[str, str] | None = None, command: Sequence[str] = (), wait: bool = True
    ) -> None:
        """Start it unless it runs, and wait until it serves.

        :param env: more environment, for this time.
        :param command: another command, for this time.
        :raises LabError: with the end of its log, when it ends or does not serve in time.
        """
        if self.process() is None:
            self._spawn({**self._env, **(env or {})}, list(command) or self.command)
        if wait:
            self.await_ready()

    def await_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it serves; raises LabError with the end of its log."""
        deadline = time.monotonic() + seconds
        while not self._ready():
            if self.process() is None:
                raise self._failure("ended while it started")
            if time.monotonic() > deadline:
                raise self._failure(f"does not serve after {seconds:g} s")
            time.sleep(0.05)

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """Send a signal, SIGKILL unless told; with SIGKILL it has ended on return.

        Returns False when it did not run.
        """
        process = self.process()
        if process is None or not process.signal(number):
            return False
        if number != signal.SIGKILL:
            return True
        if not (process.wait(DEAD_SECONDS) and _threads_end(process.pid)):
            raise LabError(f"{self.name} (pid {process.pid}) does not end by SIGKILL.")
        return True

    def stop(self, seconds: float = 40) -> None:
        """End it in good order, by force after a time; no error when it does not run."""
        process = self.process()
        if process is not None and not process.stop(seconds):
            raise LabError(f"{self.name} (pid {process.pid}) does not end by SIGKILL.")

    def restart(self) -> None:
        """SIGKILL it, as a crash would, and start it again."""
        self.kill()
        self.start()

    def died(self, seconds: float) -> bool:
        """Whether it has ended within a time."""
        process = self.process()
        return process is None or process.wait(seconds)

    def tail(self, characters: int = 3000) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def _failure(self, what: str) -> LabError:
        return LabError(
            f"{self.name} {what}. The rest of the lab stays as it is. Correct the cause and run "
            f"'tools/lab up' again. {self.log} ends:\n{self.tail()}"
        )

    def _spawn(self, env: Mapping[str, str], command: list[str]) -> None:
        for socket in self._sockets:
            socket.unlink(missing_ok=True)
        base = {"PATH": PATH, "PYTHONPATH": str(TOP), "LANG": "C.UTF-8"}
        base["PYTHONPYCACHEPREFIX"] = str(TOP / ".cache/pycache")
        base |= {name: os.environ[name] for name in KEPT if name in os.environ}
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                [*self._enter(), *command],
                cwd="/",
                env=base | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = Process.of(child.pid, self.name)
        # It outlives us; its end is seen through Process, which also reaps it.
        child.returncode = 0
        if process is None:
            raise self._failure("ended at once")
        partial = self._note.with_suffix(".partial")
        partial.write_text(json.dumps(process.as_dict()))
        partial.rename(self._note)


def _threads_end(pid: int, seconds: float = DEAD_SECONDS) -> bool:
    """Wait for the other threads of a process that has ended; its sockets go with the last."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if len(os.listdir(f"/proc/{pid}/task")) <= 1:
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False
