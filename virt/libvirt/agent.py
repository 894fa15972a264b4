"""What only the agent inside a guest can do: passwords, and file systems that stand still.

libvirt waits for an agent for ever unless it is told how long; an agent that hangs is found out by
the time that it takes. Nothing is assumed of what it did meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compute.errors import Failed, MagnetarError
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains

ANSWER_SECONDS = 10  # for a password: a moment's work
FREEZE_SECONDS = 20  # all that was written has to reach the disk first
MARGIN = 5.0  # seconds that libvirt has to say that the agent did not answer
ABSENT = ("not connected", "not configured")


class GuestAgent:
    """The agents in the domains of one libvirtd."""

    def __init__(self, connection: Connection, domains: Domains):
        self._connection, self._domains = connection, domains

    def set_password(self, uuid: str, user: str, password: str) -> None:
        """See :meth:`virt.driver.Driver.set_password`."""
        try:
            self._ask(uuid, "set_guest_password", ANSWER_SECONDS,
                      lambda domain: domain.setUserPassword(user, password))
        except Failed as error:
            if error.code != "hypervisor_error":
                raise
            raise Failed(
                f"The agent in guest {uuid} did not set the password of {user}: {error.what}",
                now="The password is as it was.",
                next="Look whether that user exists in the guest; the image property "
                     "os_admin_user names another.",
                code="password_refused",
            ) from error

    def freeze(self, uuid: str) -> None:
        """See :meth:`virt.driver.Driver.freeze`."""
        self._ask(uuid, "freeze_guest", FREEZE_SECONDS, lambda domain: domain.fsFreeze())

    def thaw(self, uuid: str) -> None:
        """See :meth:`virt.driver.Driver.thaw`."""
        self._ask(uuid, "thaw_guest", FREEZE_SECONDS, lambda domain: domain.fsThaw())

    def _ask(self, uuid: str, name: str, seconds: int, act: Callable[[Any], Any]) -> None:
        domain = self._domains.required(uuid)

        def bounded() -> None:
            domain.agentSetResponseTimeout(seconds)
            act(domain)

        try:
            self._connection.call(name, bounded, timeout=seconds + MARGIN)
        except MagnetarError as error:
            if error.code in ("agent_unresponsive", "unsupported") and any(
                    words in str(error) for words in ABSENT):
                raise absent(uuid) from error
            raise


def absent(uuid: str) -> Failed:
    """The error for a guest in which nobody listens, code ``agent_missing``."""
    return Failed(
        f"No agent runs in guest {uuid}.",
        now="Nothing was changed.",
        next="Install and start qemu-guest-agent in it; its image must not have "
             "hw_qemu_guest_agent=no.",
        code="agent_missing",
    )
