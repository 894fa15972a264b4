"""Putting servers to sleep and waking them: pause, suspend, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compute.model import states

Row = dict[str, Any]
SENT = ("metadata", "system_metadata", "info_cache", "security_groups")
SENT_SUSPEND = (*SENT, "flavor", "old_flavor", "new_flavor")


class Sleep:
    """Mixin of :class:`control.api.ControlPlane`."""

    _act: Callable[..., Row]  # given by Servers

    def server_pause(self, server: str, request_id: str | None = None) -> Row:
        """Stop a server's CPUs; its memory stays where it is."""
        return self._act(server, "pause", (states.ACTIVE,), (None,), states.PAUSING,
                         "pause_instance", SENT, {}, request_id)

    def server_unpause(self, server: str, request_id: str | None = None) -> Row:
        """Let a paused server run again."""
        return self._act(server, "unpause", (states.PAUSED,), (None,), states.UNPAUSING,
                         "unpause_instance", SENT, {}, request_id)

    def server_suspend(self, server: str, request_id: str | None = None) -> Row:
        """Write a server's memory to its host's disk, and stop it."""
        return self._act(server, "suspend", (states.ACTIVE,), (None,), states.SUSPENDING,
                         "suspend_instance", SENT_SUSPEND, {}, request_id)

    def server_resume(self, server: str, request_id: str | None = None) -> Row:
        """Let a suspended server go on from where it was."""
        return self._act(server, "resume", (states.SUSPENDED,), (None,), states.RESUMING,
                         "resume_instance", SENT, {}, request_id)
