"""Runs qemu-img and other tools that make disks: limits, a deadline, errors in our kinds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from compute.errors import Failed, Retryable, Unknown
from virt.storage import files

GIB = 1024**3
KILL_WAIT = 5  # seconds
NOT_FOUND = 127  # prlimit's exit code for a command that does not exist
_FULL = ("No space left on device", "Disk quota exceeded")
_CHECKED = (0, 2, 3)  # qemu-img check: sound, damaged, has lost clusters
_LIMIT_SIGNALS = (signal.SIGXCPU, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)


def run(
    argv: Sequence[str],
    timeout: float,
    limits: Sequence[str] = (),
    accept: Sequence[int] = (0,),
    cancel: Callable[[], None] = lambda: None,
) -> str:
    """Run a tool and return what it printed.

    :param cancel: asked again and again meanwhile; when it raises, the tool is killed.
    :param timeout: seconds after which it is killed.
    :param limits: options of prlimit(1), for example ``--cpu=30``.
    :param accept: exit codes that mean success.
    :raises Retryable: code ``disk_full`` or ``command_timeout``.
    :raises Unknown: it could not be killed; it may still be running.
    :raises Failed: code ``command_missing``, ``command_failed`` or ``command_limit``.
    """
    command = ["prlimit", *limits, "--", *argv] if limits else list(argv)
    # Output goes to memory files and the end is polled for: the same in both concurrency modes
    # (eventlet's pipes raise a TimeoutExpired of their own), and a grandchild cannot hold us up.
    with _memory_file() as out, _memory_file() as complaint:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=complaint,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError as error:
            raise _missing(command[0]) from error
        try:
            ended = _ended(process, timeout, cancel)
        except BaseException:
            _kill(process, argv[0], timeout)
            raise
        if not ended:
            raise _kill(process, argv[0], timeout)
        if process.returncode not in accept:
            raise _failure(argv, process.returncode, _text(complaint).strip(), bool(limits))
        return _text(out)


def _memory_file() -> IO[bytes]:
    return open(os.memfd_create("output"), "w+b")


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _ended(
    process: subprocess.Popen, seconds: float, cancel: Callable[[], None] = lambda: None
) -> bool:
    """Whether a process ends within some seconds."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while process.poll() is None:
        cancel()
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.3, 0.1)
    return True


def _kill(process: subprocess.Popen, name: str, timeout: float) -> Retryable | Unknown:
    process.kill()
    if not _ended(process, KILL_WAIT):
        return Unknown(
            f"{name} (process {process.pid}) did not finish in {timeout:g} seconds and cannot be "
            "killed.",
            now="It may still write, though only to files that are not in use.",
            next="Look whether the disk or its server still answers.",
            code="command_timeout",
        )
    return Retryable(
        f"{name} did not finish in {timeout:g} seconds and was killed.",
        now="What it had begun is removed.",
        next="It can work on another host, or here when the disk is less busy; "
        "[disk] command_timeout sets the limit.",
        code="command_timeout",
    )


def _missing(name: str) -> Failed:
    return Failed(
        f"The command {name} is not installed on this host.",
        now="Nothing was changed.",
        next="Install the packages that bindep.txt lists, then try again.",
        code="command_missing",
    )


def _failure(
    argv: Sequence[str], code: int, complaint: str, limited: bool
) -> Retryable | Failed:
    if limited and code == NOT_FOUND:
        return _missing(argv[0])
    name = " ".join(argv[:2]) if argv[0] == "qemu-img" else argv[0]
    if any(words in complaint for words in _FULL):
        return files.disk_full(
            f"{name} did not work: the disk is full ({complaint}).",
            "What it had begun is removed.",
        )
    if -code in _LIMIT_SIGNALS or "Cannot allocate memory" in complaint:
        return Failed(
            f"{name} used more CPU time or memory than it may, and was stopped ({code}).",
            now="What it had begun is removed.",
            next="The image may be made to exhaust the host. If it can be trusted, raise [disk] "
            "images_cpu_time_limit or images_address_space_limit.",
            code="command_limit",
        )
    return Failed(
        f"{name} ended with code {code}: {complaint or 'without a word'}.",
        now="What it had begun is removed.",
        next="Correct what the message names, then try again.",
        code="command_failed",
    )


class QemuImg:
    """qemu-img with limits. It never guesses: every call names the format of every file."""

    def __init__(self, cpu_seconds: int, address_space_gib: int, timeout: float):
        self._cpu, self._space, self._timeout = cpu_seconds, address_space_gib, timeout

    def info(self, path: str, format: str) -> dict[str, Any]:
        """What ``qemu-img info`` says of one file, its backing chain not followed."""
        return self._json("info", "--force-share", "--output=json", "-f", format, path)

    def damage(self, path: str, size: int) -> int:
        """How many errors a qcow2 file has in its tables; clusters that are only lost count not.

        ``size`` in bytes is only used for the limit of CPU time.
        """
        argv = ("check", "--force-share", "--output=json", "-f", "qcow2", path)
        report = self._json(*argv, accept=_CHECKED, more_cpu=_more_cpu(size))
        return report.get("corruptions", 0) + report.get("check-errors", 0)

    def create_overlay(self, path: str, size: int, base: str, base_format: str) -> None:
        """Create a qcow2 file of ``size`` bytes (what the guest sees) on a base."""
        self._run("create", "-q", "-f", "qcow2", "-F", base_format, "-b", base, path, str(size))

    def create_empty(self, path: str, size: int) -> None:
        """Create a qcow2 file of ``size`` bytes (what the guest sees) that stands by itself."""
        self._run("create", "-q", "-f", "qcow2", path, str(size))

    def rebase(self, path: str, base: str, base_format: str) -> None:
        """Let a qcow2 overlay refer to its base under another name; no contents are read."""
        self._run("rebase", "-q", "-u", "-f", "qcow2", "-F", base_format, "-b", base, path)

    def enlarge(self, path: str, format: str, size: int) -> None:
        """Let the guest see ``size`` bytes. Only for a disk that nothing uses, and that is
        smaller."""
        self._run("resize", "-q", "-f", format, path, str(size))

    def convert_to_raw(self, source: str, format: str, target: str, size: int) -> None:
        """Copy an image's contents to a raw file, leaving holes where it is empty.

        ``size`` in bytes is only used for the limit of CPU time.
        """
        self.convert(source, format, target, "raw", size)

    def convert(
        self, source: str, format: str, target: str, wanted: str, size: int,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy an image's contents to a file of the format ``wanted`` that stands by itself.

        ``size`` in bytes is only used for the limit of CPU time. ``cancel`` stops it by raising.
        """
        argv = ("convert", "-q", "-f", format, "-O", wanted, source, target)
        self._run(*argv, more_cpu=_more_cpu(size), cancel=cancel)

    def flatten(
        self, source: str, format: str, target: str, size: int, cancel: Callable[[], None]
    ) -> None:
        """Copy what a disk of ours shows, its bases included, to a file that stands by itself.

        ``size`` in bytes is only used for the limit of CPU time. ``cancel`` stops it by raising.
        """
        self.convert(source, format, target, format, size, cancel)

    def fill(self, source: str, format: str, device: str, size: int) -> None:
        """Write an image's contents to a device that exists.

        ``size`` in bytes is only used for the limit of CPU time.
        """
        argv = ("convert", "-q", "-n", "-f", format, "-O", "raw", source, device)
        self._run(*argv, more_cpu=_more_cpu(size))

    def reshape(
        self, source: str, format: str, target: str, wanted: str, compress: bool, size: int,
        cancel: Callable[[], None],
    ) -> None:
        """Copy a file that stands by itself to one of another format, or with its contents
        compressed; ``size`` and ``cancel`` as for :meth:`flatten`."""
        packed = ("-c",) if compress and wanted == "qcow2" else ()
        argv = ("convert", "-q", *packed, "-f", format, "-O", wanted, source, target)
        self._run(*argv, more_cpu=_more_cpu(size), cancel=cancel)

    def absorb(self, path: str, size: int) -> None:
        """Write the contents of a qcow2 file's base into it, and let it forget the base.

        ``size`` in bytes is only used for the limit of CPU time.
        """
        self._run("rebase", "-q", "-f", "qcow2", "-b", "", path, more_cpu=_more_cpu(size))

    def _run(
        self, *argv: str, accept: Sequence[int] = (0,), more_cpu: int = 0,
        cancel: Callable[[], None] = lambda: None,
    ) -> str:
        # core=0: a crash on hostile input shall not write a file of the size of its memory.
        limits = (f"--cpu={self._cpu + more_cpu}", f"--as={self._space * GIB}", "--core=0")
        return run(("qemu-img", *argv), self._timeout, limits, accept, cancel)

    def _json(self, *argv: str, **options: Any) -> dict[str, Any]:
        text = self._run(*argv, **options)
        try:
            return json.loads(text)
        except ValueError as error:
            raise Failed(
                f"qemu-img {argv[0]} did not print JSON.",
                now="Nothing was changed.",
                next="Check that the installed qemu-utils are whole.",
                code="command_failed",
            ) from error


def _more_cpu(size: int) -> int:
    return 10 * (size // GIB + 1)
