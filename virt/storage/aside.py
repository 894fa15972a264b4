"""``<uuid>_resize``: a guest's disks as they were before it changes its size or its host.

Renaming is the whole of it, so that the disks are under the one name or the other, and never
copied to make a way back. What is set aside gets an id (``aside.json``), new each time: a copy that
was cut continues only from the very disks that it began with.
"""

from __future__ import annotations

import os
import uuid as uuids

from compute.errors import Failed, NeedsOperator
from virt.storage import files
from virt.storage.dirs import RECORD, Dirs

TAG = "aside.json"


class Aside:
    """Sets directories of disks aside, and brings them back."""

    def __init__(self, dirs: Dirs):
        self._dirs = dirs

    def set_aside(self, uuid: str) -> None:
        """Rename a guest's directory to ``<uuid>_resize``. Quiet if done.

        :raises Failed: code ``disk_missing`` if the guest has no disks here.
        :raises NeedsOperator: code ``disk_in_the_way`` if others were set aside before.
        """
        own, aside = self._dirs.of(uuid), self._dirs.aside_of(uuid)
        with files.explained(f"Setting the disks of guest {uuid} aside"):
            record = self._dirs.record(uuid)
            if os.path.isdir(aside):
                if record is not None and record.origin != self.tag(uuid):
                    raise self._two_copies(uuid)
            elif record is None:
                raise _nothing(uuid, own)
            else:
                files.write_json(os.path.join(own, TAG), {"version": 1, "id": uuids.uuid4().hex})
                os.rename(own, aside)
            files.fsync_dir(self._dirs.path)  # also when it is only seen to be done

    def bring_back(self, uuid: str) -> None:
        """Rename ``<uuid>_resize`` to the guest's own name. Quiet if done. A directory without
        ``disks.json`` that has this name is half made, and goes to quarantine.

        :raises NeedsOperator: code ``disk_in_the_way`` if the guest has disks under its own name.
        :raises Failed: code ``disk_missing`` if it has none under either.
        """
        own, aside = self._dirs.of(uuid), self._dirs.aside_of(uuid)
        with files.explained(f"Bringing the disks of guest {uuid} back"):
            complete = os.path.lexists(os.path.join(own, RECORD))
            if os.path.isdir(aside):
                if complete:
                    raise self._two_copies(uuid)
                if os.path.isdir(own) and not os.listdir(own):
                    os.rmdir(own)
                self._dirs.remove_later(uuid, self._dirs.quarantine)
                os.rename(aside, own)
            elif not complete:
                raise _nothing(uuid, aside)
            files.fsync_dir(self._dirs.path)

    def exists(self, uuid: str) -> bool:
        """Whether ``<uuid>_resize`` is here."""
        return os.path.isdir(self._dirs.aside_of(uuid))

    def delete(self, uuid: str) -> None:
        """Remove ``<uuid>_resize``. Quiet if it is gone.

        :raises Retryable: code ``delete_failed``; a sweep tries again, too.
        """
        with files.explained(f"Removing the former disks of guest {uuid}", "They still exist."):
            self._dirs.remove_later(uuid, self._dirs.deleted, self._dirs.aside_of(uuid))
        self._dirs.remove_for_good(self._dirs.deleted, uuid=uuid)

    def tag(self, uuid: str) -> str:
        """The id of what is set aside; empty if it has none."""
        try:
            return tag_of(files.read_json(os.path.join(self._dirs.aside_of(uuid), TAG)))
        except (FileNotFoundError, ValueError):
            return ""

    def _two_copies(self, uuid: str) -> NeedsOperator:
        own, aside = self._dirs.of(uuid), self._dirs.aside_of(uuid)
        return NeedsOperator(
            f"Guest {uuid} has disks in {own} and others in {aside}.",
            now="Neither was touched.",
            next="Find out which ones the guest needs ('magnetar explain' tells what it did); keep "
            f"the others elsewhere, for example: mv {aside} {aside}.kept",
            code="disk_in_the_way",
        )


def tag_of(data: dict) -> str:
    """The id that an ``aside.json`` holds; empty if it holds none."""
    return str(data.get("id") or "")


def _nothing(uuid: str, path: str) -> Failed:
    return Failed(
        f"Guest {uuid} has no disks in {path}.",
        now="Nothing was changed.",
        next=f"Look for them with 'magnetar explain {uuid}' and in quarantine, on all hosts that "
        "the guest was on.",
        code="disk_missing",
    )
