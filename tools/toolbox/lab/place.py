"""Where a lab is: its directory, and the names derived from it.

Everything that a lab makes outside its directory has a name with the lab's id in it, so that it is
found and taken away even when whoever made it was killed before noting anything.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.toolbox.processes import Process

TOP = Path(__file__).resolve().parents[3]
LABS = TOP / ".cache/lab"
NETNS = Path("/run/netns")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
# Empty directories of this machine on which hosts mount their own, and what marks them as ours.
MOUNT_POINTS = (
    Path("/etc/libvirt"),
    Path("/etc/pki"),
    Path("/var/lib/libvirt"),
    Path("/var/log/libvirt"),
    Path("/var/cache/libvirt"),
    Path("/var/lib/magnetar"),
)
MARK = ".made-by-magnetar-lab"


class LabError(Exception):
    """The lab could not do it; the text says what happened and what to do."""


class LabBusy(LabError):
    """Another command works on this lab at the moment."""


class Place:
    """Names and paths of the lab ``name`` of this checkout."""

    def __init__(self, name: str = "default") -> None:
        """:raises LabError: when the name is not one word of letters, digits, - and _."""
        if not NAME.fullmatch(name):
            raise LabError(f"{name!r} cannot be a lab's name: give one word of at most 40 letters.")
        self.name = name
        self.directory = LABS / name
        self.id = hashlib.sha256(str(self.directory).encode()).hexdigest()[:8]
        # Paths of sockets must be below 108 bytes, and a checkout may be anywhere.
        self.short = Path(f"/run/magnetar-lab-{self.id}")
        self.switch = self.namespace("switch")
        self.images = self.directory / "images"
        self.shared = self.directory / "shared"
        self.locks = self.directory / "locks"
        self.logs = self.directory / "log"

    def namespace(self, role: str) -> str:
        """The name of the network namespace of a host or of the switch."""
        return f"mlab-{self.id}-{role}"

    def namespaces(self) -> list[str]:
        """Those that exist."""
        found = NETNS.glob(f"mlab-{self.id}-*") if NETNS.exists() else []
        return sorted(path.name for path in found)

    def prepare(self) -> None:
        """Make the directories and the short name."""
        for path in (self.images, self.shared, self.locks, self.logs, self.directory / "pids"):
            path.mkdir(parents=True, exist_ok=True)
        if not self.short.is_symlink():
            self.short.symlink_to(self.directory)

    def noted(self) -> dict[str, Any]:
        """What `note` kept: {"hosts": int, "shared": bool, "bare": bool, "owner": {…} | None}."""
        try:
            return json.loads((self.directory / "lab.json").read_text())
        except FileNotFoundError:  # perhaps at this moment: another process takes it down
            return {}

    def abandoned(self) -> bool:
        """Whether its owner has ended, or its maker before it could say whose it is.

        For certain only while the lock is held: a maker holds it.
        """
        noted = self.noted()
        owner = noted.get("owner")
        return not noted or bool(owner and not Process(**owner).alive())

    def note(self, values: dict[str, Any]) -> None:
        """Keep what kind of lab this is; see `noted`."""
        partial = self.directory / "lab.json.partial"
        partial.write_text(json.dumps(values))
        partial.rename(self.directory / "lab.json")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One command at a time brings this lab up or down. Raises LabBusy when one does."""
        LABS.mkdir(parents=True, exist_ok=True)
        path = LABS / f"{self.name}.lock"
        with path.open("w") as handle:
            # Whoever had the lock before may have removed the file that we opened.
            if not _taken(handle) or not _is_file(handle, path):
                raise LabBusy(
                    f"another command is bringing the lab {self.name} up or down. Nothing was "
                    "done. Run this again when it has ended."
                )
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def mount_points() -> Iterator[None]:
    """While the block mounts over them, MOUNT_POINTS exist and nobody removes them."""
    with _machine_lock():
        for path in MOUNT_POINTS:
            if not path.exists():
                path.mkdir(parents=True)
                (path / MARK).touch()
        yield


def remove_mount_points() -> None:
    """Remove those that a lab made, that are still empty, and that no lab uses.

    A directory that is removed is unmounted in every namespace, so it must not be in use.
    """
    with _machine_lock():
        ours = [path for path in MOUNT_POINTS if (path / MARK).exists()]
        used = _mounted() if ours else set()
        for path in ours:
            if str(path) not in used and os.listdir(path) == [MARK]:
                (path / MARK).unlink()
                path.rmdir()


@contextlib.contextmanager
def _machine_lock() -> Iterator[None]:
    handle = os.open("/var/lib", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Asked again and again, so that green threads of one process can take turns.
        while not _taken(handle):
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _taken(handle: Any) -> bool:
    """Take the lock of an open file; False when another has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file(handle: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _mounted() -> set[str]:
    """Every mount point in every mount namespace that has a process."""
    points = set()
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            points |= {line.split()[4] for line in table.read_text().splitlines()}
    return points
