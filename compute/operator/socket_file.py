"""The file of the control socket: who may make it, who has it, and when it may be removed."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import time

from compute.errors import Refused

MODE = 0o660
MAX_PATH = 107  # bytes that the kernel takes for the address of a unix socket
BACKLOG = 64


class SocketFile:
    """A unix socket at ``path`` that one live process can have.

    ``path.lock`` is locked for as long as the socket is served, so that two starters cannot race;
    it stays behind, empty of meaning, when the process ends.
    """

    def __init__(self, path: str):
        self.path = path
        self._lock_fd = -1
        self._made: tuple[int, ...] | None = None

    def listen(self) -> socket.socket:
        """Take the lock, replace what a dead process left, and return the listening socket.

        :raises Refused: ``socket_in_use`` when a live process has it; ``socket_unusable`` when
            no socket can be made there. What was at the path is unchanged then.
        """
        if len(os.fsencode(self.path)) > MAX_PATH - len(".new"):
            raise self._unusable(f"the path is longer than {MAX_PATH - len('.new')} bytes")
        try:
            self._lock()
            try:
                self._refuse_occupied()
                return self._make()
            except BaseException:
                self._unlock()
                raise
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error

    def remove(self) -> None:
        """Remove the socket file, if it is still the one that was made, and give up the lock."""
        if self._made is not None and _identity(self.path) == self._made:
            os.unlink(self.path)
        self._made = None
        self._unlock()

    def _lock(self) -> None:
        fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = peer_of(self.path) or _recorded_pid(fd)
            os.close(fd)
            raise self._in_use(pid) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _refuse_occupied(self) -> None:
        # The lock is ours, so whoever answers here is not one of us, or ran without the lock file.
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise self._unusable("something is there already that is not a socket")
        pid = peer_of(self.path)
        if pid is not None:
            raise self._in_use(pid)

    def _make(self) -> socket.socket:
        # Made aside and renamed: nobody can connect before the mode is right, and a stale file is
        # replaced in one step.
        aside = f"{self.path}.new"
        if _identity(aside) is not None:
            os.unlink(aside)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(aside)
            os.chmod(aside, MODE)
            listener.listen(BACKLOG)
            self._made = _identity(aside)
            os.rename(aside, self.path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _in_use(self, pid: int | None) -> Refused:
        who = f"process {pid}{_command_of(pid)}" if pid else "another process"
        return Refused(
            f"The control socket {self.path} is in use by {who}.",
            now="That process was left alone, and nothing was started.",
            next="Stop it first, or give this agent its own state_path (or [DEFAULT] socket).",
            code="socket_in_use",
        )

    def _unusable(self, why: str) -> Refused:
        return Refused(
            f"The control socket {self.path} cannot be made: {why}.",
            now="Nothing was started, and what is at that path is unchanged.",
            next="Correct the cause, or name another path in [DEFAULT] socket.",
            code="socket_unusable",
        )


def peer_of(path: str) -> int | None:
    """The pid of the process that listens on the unix socket at ``path``; None if nobody does.

    0 when somebody listens whose pid cannot be seen, such as one in another pid namespace.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except TimeoutError:
            return 0  # its backlog is full: alive, but who it is cannot be asked
        packed = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", packed)[0]


def _recorded_pid(fd: int) -> int | None:
    # The holder writes its pid just after locking; give it that moment.
    for _ in range(10):
        text = os.pread(fd, 32, 0).strip()
        if text.isdigit():
            return int(text)
        time.sleep(0.01)
    return None


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(200).split(b"\0")
    except OSError:
        return ""
    line = b" ".join(words).decode(errors="replace").strip()
    return f" ({line[:80]})" if line else ""


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    # inode numbers are used again at once on some file systems
    return status.st_dev, status.st_ino, status.st_mode, status.st_mtime_ns
