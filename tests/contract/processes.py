"""Child processes of the contract environment: started here, stopped here by their own pid."""

import collections.abc
import ctypes
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

PIPE = subprocess.PIPE
# A deadline for what has to happen, far above what it takes: loaded machines are ten times slower.
SECONDS = 300
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class StartFailed(Exception):
    """A process ended, or was not ready in time; the message carries the end of its log."""


# Below those that the kernel gives to outgoing connections.
_PORTS = range(10000, 32000)
_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port on loopback that nothing listens on, and that no other run of these tests
    on this machine is given while this process lives. Raises StartFailed if there is none."""
    for port in random.sample(_PORTS, 500):
        # A name without a file: it goes with the process, however that ends.
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0magnetar-contract-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise StartFailed("no TCP port is free on loopback")


def listening(port: int) -> bool:
    """Say whether something accepts TCP connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def die_with_parent() -> None:
    """To be called in a child: it is killed when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One child with a log file. `stop` sends SIGTERM, then SIGKILL, and waits for the end."""

    def __init__(self, name: str, command: list[str], log: pathlib.Path, **popen: object) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as sink:
            popen.setdefault("stdin", subprocess.DEVNULL)
            popen.setdefault("stdout", sink)
            self.child = subprocess.Popen(
                command, stderr=sink, preexec_fn=die_with_parent, start_new_session=True, **popen
            )

    def wait_until(self, ready: collections.abc.Callable[[], bool], seconds: float) -> None:
        """Poll `ready` until it is true. Raises StartFailed if the child ends or time is up."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.child.poll() is not None:
                raise StartFailed(f"{self.name} ended with {self.child.returncode}.\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} was not ready in {seconds} s.\n{self.tail()}")
            time.sleep(0.1)

    def stop(self, seconds: float = 30) -> None:
        """End the child and reap it; a child that ignores SIGTERM is killed."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None:
                stream.close()

    def kill(self) -> None:
        """SIGKILL the child with its workers, which are in its session, and reap it."""
        os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def tail(self, lines: int = 25) -> str:
        """Return the end of the log."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:])


def run(command: list[str], log: pathlib.Path, seconds: float = 900, **popen: object) -> None:
    """Run a command to its end. Raises StartFailed with the end of its log if it fails."""
    with log.open("ab") as sink:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, timeout=seconds,
            check=False, **popen,
        )
    if done.returncode:
        text = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise StartFailed(f"{command[0]} ended with {done.returncode}.\n{text}")
