"""What two hosts compare to find out whether they see the same directory of disks."""

from __future__ import annotations

import errno
import os
import uuid as uuids
from contextlib import suppress

from virt.storage import files

STORAGE_ID = ".storage-id"


def storage_id(instances_path: str) -> str:
    """The contents of a file in the directory, made once and never changed. Raises Failed."""
    path = os.path.join(instances_path, STORAGE_ID)
    with files.explained(f"Reading {path}"):
        if not os.path.exists(path):
            files.make_dirs(instances_path)
            _write_new(path, uuids.uuid4().hex.encode() + b"\n")
        with open(path, encoding="ascii") as file:
            return file.read().strip()


def _write_new(path: str, data: bytes) -> None:
    """Write a file that must not replace another host's; whole as soon as it can be seen."""
    part = files.part_name(path) + "." + uuids.uuid4().hex  # hosts may have equal process ids
    try:
        files.write(part, data, 0o644)
        with suppress(FileExistsError):
            os.link(part, path)
        files.fsync_dir(os.path.dirname(path))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        os.rename(part, path)  # a file system without hard links
    finally:
        files.remove(part)
