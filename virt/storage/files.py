"""Files that survive a crash: made under another name, synced, renamed, directory synced.

Every small state file is written by :func:`write`; every large file is made under a name from
:func:`part_name` and becomes visible by :func:`publish`. So a final name always holds a whole file.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from compute import concurrency
from compute.errors import Failed, Retryable

CHUNK = 8 * 1024 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT)
PART = re.compile(r"\.part\.(\d+)-(\d+)-(\d+)$")
_NO_RANGE_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
_counter = itertools.count()


@contextmanager
def explained(doing: str, now: str = "Nothing was changed.") -> Iterator[None]:
    """Turn an OSError into one of the five kinds.

    :param doing: what was being done, as the subject of a sentence ("Writing the root disk").
    :raises Retryable: code ``disk_full``.
    :raises Failed: code ``storage_failed``, for every other reason.
    """
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        if error.errno in FULL:
            raise disk_full(f"{doing} did not work: the disk is full ({reason}).", now) from error
        raise Failed(
            f"{doing} did not work ({reason}).",
            now=now,
            next="Correct what the message names on this host, then try again.",
            code="storage_failed",
        ) from error


def disk_full(what: str, now: str = "Nothing was changed.") -> Retryable:
    """The error for a full disk or quota, code ``disk_full``."""
    return Retryable(
        what,
        now=now,
        next="It can work on another host, or here once space was freed.",
        code="disk_full",
    )


def _start_time(pid: int | str) -> str:
    """When a process started, in clock ticks since boot; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def part_name(path: str) -> str:
    """A name for a half-made ``path``, unlike any other: it tells process id and start time."""
    pid = os.getpid()
    return f"{path}.part.{pid}-{_start_time(pid)}-{next(_counter)}"


def is_dead_part(name: str) -> bool:
    """Whether ``name`` is from :func:`part_name` and its process of this host has ended."""
    found = PART.search(name)
    return found is not None and _start_time(found[1]) != found[2]


def free(path: str) -> int:
    """Bytes that may still be written below a directory."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def fsync_dir(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync(path: str) -> None:
    """Make a file's contents durable, without holding up green threads."""
    fd = os.open(path, os.O_RDONLY)
    try:
        concurrency.native(os.fsync, fd)
    finally:
        os.close(fd)


def publish(part: str, path: str) -> None:
    """Give a finished file its final name, durably. ``part`` is in the same directory."""
    sync(part)
    os.replace(part, path)
    fsync_dir(os.path.dirname(path))


def write(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``: after a crash it holds all of the old or all of the new.

    :raises OSError:
    """
    part = part_name(path)
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        fsync_dir(os.path.dirname(path))
    finally:
        remove(part)


def write_json(path: str, data: Mapping[str, Any], mode: int = 0o600) -> None:
    """:func:`write` for a mapping."""
    write(path, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n", mode)


def read_json(path: str) -> dict[str, Any]:
    """Read what :func:`write_json` wrote.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it is not a JSON object.
    """
    with open(path, "rb") as file:
        data = json.loads(file.read().decode("utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")
    return data


def make_dirs(path: str, mode: int = 0o711) -> None:
    """Create a directory and its parents, durably. 0711, so that QEMU's user may pass through."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        make_dirs(parent, mode)
    with suppress(FileExistsError):
        os.mkdir(path, mode)
        os.chmod(path, mode)  # whatever the umask
        fsync_dir(parent or ".")


def remove(path: str) -> bool:
    """Remove a file; tells whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_parts(directory: str, prefix: str = "") -> list[str]:
    """Remove half-made files and directories. The caller must hold the lock of their maker."""
    removed = []
    for entry in os.scandir(directory):
        if entry.name.startswith(prefix) and PART.search(entry.name):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                remove(entry.path)
            removed.append(entry.path)
    return removed


def copy(
    source: str,
    target: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: Callable[[], None] = lambda: None,
) -> None:
    """Copy a file's bytes, keeping its holes; shared blocks where the file system has them.

    ``cancel`` is asked before each 8 MiB and stops the copy by raising.
    """
    with open(source, "rb") as reading, open(target, "wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        writing.truncate(size)
        position = 0
        while position < size:
            cancel()
            position = concurrency.native(
                copy_chunk, reading.fileno(), writing.fileno(), position, size
            )
            progress(position, size)


def copy_chunk(source: int, target: int, position: int, size: int) -> int:
    """Copy up to CHUNK bytes of the next data at or after ``position``; returns where it got."""
    try:
        position = os.lseek(source, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole is left
            return size
        raise
    end = min(os.lseek(source, position, os.SEEK_HOLE), position + CHUNK)
    while position < end:
        count = _copy_some(source, target, position, end - position)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        position += count
    return position


def _copy_some(source: int, target: int, position: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, position, position)
    except OSError as error:
        if error.errno not in _NO_RANGE_COPY:
            raise
    return os.pwrite(target, os.pread(source, count, position), position)
