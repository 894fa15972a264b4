"""Which domains are ours, without asking each of them each time.

Filled from metadata that was read; emptied by events and by our own changes. What was known
before a restart or a reconnect is remembered as noted, and confirmed a few domains at a time. All
this only serves observation: whoever acts on a domain reads its metadata anew.
"""

from __future__ import annotations

import threading
from dataclasses import astuple, dataclass

from virt.libvirt.notes import Notes


@dataclass(frozen=True)
class Owned:
    """What our metadata in a domain says; ``ours`` is False when there is none."""

    ours: bool
    generation: int = 0
    operation: str = ""


FOREIGN = Owned(False)


class OwnershipCache:
    """Known ownership by uuid. ``ticket`` and ``put`` keep a slow reader from bringing back what
    was forgotten while it read."""

    def __init__(self, notes: Notes | None = None) -> None:
        self._lock = threading.Lock()
        self._notes = notes
        self._known: dict[str, Owned] = {}
        self._noted: dict[str, Owned] = {}
        self._forgotten: dict[str, int] = {}
        self._all_forgotten = self._clock = 0

    def load(self) -> None:
        """Read the notes of the process before."""
        if self._notes is not None:
            noted = self._notes.load()
            with self._lock:
                self._noted = {uuid: Owned(*value) for uuid, value in noted.items()}

    def close(self) -> None:
        """Note nothing more."""
        if self._notes is not None:
            self._notes.close()

    def get(self, uuid: str) -> Owned | None:
        """What is known of a domain; None means: read it."""
        return self._known.get(uuid)

    def noted(self, uuid: str) -> Owned | None:
        """What was known before events may have been missed; None means: read it now."""
        return self._noted.get(uuid)

    def ticket(self) -> int:
        """Take before reading metadata that will be ``put``."""
        with self._lock:
            self._clock += 1
            return self._clock

    def put(self, uuid: str, owned: Owned, ticket: int) -> None:
        """Keep what was read, unless it was forgotten since the ticket was taken."""
        with self._lock:
            if ticket > max(self._forgotten.get(uuid, 0), self._all_forgotten):
                known = self._noted.pop(uuid, None)
                self._known[uuid] = owned
                if self._notes is not None and known != owned:
                    self._notes.note(uuid, astuple(owned))

    def forget(self, uuid: str) -> None:
        """This domain changes; called before a change and when one is heard of."""
        with self._lock:
            self._clock += 1
            self._forgotten[uuid] = self._clock
            self._drop(uuid)

    def doubt_all(self) -> None:
        """Events may have been missed: everything known is only noted from now on."""
        with self._lock:
            self._clock += 1
            self._noted.update(self._known)
            self._known.clear()
            self._forgotten.clear()
            self._all_forgotten = self._clock

    def keep_only(self, uuids: set[str]) -> None:
        """Drop what is known of domains that do not exist any more."""
        with self._lock:
            for uuid in (self._known.keys() | self._noted.keys()) - uuids:
                self._drop(uuid)
            if len(self._forgotten) > 10000:
                self._forgotten.clear()
                self._all_forgotten = self._clock

    def _drop(self, uuid: str) -> None:
        known = self._known.pop(uuid, None)
        noted = self._noted.pop(uuid, None)
        if self._notes is not None and (known or noted):
            self._notes.note(uuid, None)
