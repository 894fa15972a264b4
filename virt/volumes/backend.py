"""What each protocol has to do for a volume."""

from __future__ import annotations

from abc import ABC, abstractmethod

from compute.model.volume import VolumeSource
from virt.volumes.connection import Connection


class Backend(ABC):
    """One protocol. What is left out is right for volumes that QEMU connects to by itself: nothing
    of them is on the host, so nothing can be left over."""

    discards = False  # whether space can be given back, where the volume service does not say

    @abstractmethod
    def connect(self, connection: Connection) -> VolumeSource:
        """Bring the volume to this host; idempotent.

        :raises Failed: it cannot be connected as it is.
        :raises Retryable: it cannot be reached now; nothing is left connected.
        :raises Unknown: it took too long, and may be connected.
        """

    def disconnect(self, connection: Connection) -> None:  # noqa: B027 - QEMU did
        """Take the volume off this host; quiet if it is not there. Raises as :meth:`connect`."""

    def size(self, connection: Connection, format: str) -> int:
        """Look again how large the volume is, read as ``format``: bytes, 0 where only QEMU can
        tell."""
        return 0
