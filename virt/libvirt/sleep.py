"""Putting guests to sleep: memory to disk and back, and the right time afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import libvirt

from compute.errors import Aborted, MagnetarError, Refused, Unknown
from virt.libvirt import jobs
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.errand import Errand
from virt.libvirt.errors import translate

NO_AGENT = (
    "agent_unresponsive", "unsupported", "domain_unacceptable", "invalid_state", "libvirt_timeout",
)  # fmt: skip
ABORT_SECONDS = 1.0


class Sleep:
    """Managed save of the domains of one libvirtd.

    :param connect: opens a connection for one save alone.
    """

    def __init__(self, connection: Connection, domains: Domains, connect: Callable[[], Any]):
        self._connection, self._domains, self._connect = connection, domains, connect
        self._errands: dict[str, Errand] = {}
        self._unwanted: set[str] = set()
        domains.begun.append(lambda uuid: "save" if self._saving(uuid) else "")

    def _saving(self, uuid: str) -> bool:
        errand = self._errands.get(uuid)
        return errand is not None and not errand.ended

    def save(self, uuid: str, seconds: float) -> None:
        """Write a domain's memory to disk and stop it: see :meth:`virt.driver.Driver.save`.

        A save that is still under way is waited for, not begun twice.
        """
        domain = self._domains.required(uuid)
        if self._is_saved(domain):
            return
        errand = self._errands.get(uuid)
        if errand is None or errand.ended:
            self._unwanted.discard(uuid)
            errand = self._errands[uuid] = Errand(
                "save", self._connect, lambda handle: self._carry_out(uuid, handle)
            )
        if not errand.wait(seconds):
            raise Unknown(
                f"The memory of guest {uuid} was not saved within {seconds:g} s.",
                now="libvirt goes on with it; the guest stands still meanwhile.",
                next="It is looked at again.",
                code="save_timeout",
            )
        self._errands.pop(uuid, None)
        if errand.error is None:
            if uuid in self._unwanted and not self._is_saved(domain):
                raise Aborted(
                    f"Saving the memory of guest {uuid} was stopped before it began.",
                    now="The guest goes on.", next="Ask again if that was not meant.",
                )  # fmt: skip
            return
        if not isinstance(errand.error, libvirt.libvirtError):
            raise errand.error
        if not self._is_saved(domain):
            raise translate(errand.error, "save the guest's memory") from errand.error

    def _carry_out(self, uuid: str, handle: Any) -> None:
        if uuid not in self._unwanted:
            handle.lookupByUUIDString(uuid).managedSave()

    def abort(self, uuid: str) -> None:
        """Stop a save, whoever began it; the guest goes on. Quiet if there is none."""
        self._unwanted.add(uuid)
        deadline = time.monotonic() + ABORT_SECONDS
        while not self._abort_job(uuid) and self._saving(uuid) and time.monotonic() < deadline:
            time.sleep(0.02)  # libvirt is just about to begin

    def _abort_job(self, uuid: str) -> bool:
        """Whether there was a save to stop."""
        domain = self._domains.find(uuid)
        if domain is None:
            return False
        try:
            number, why = self._connection.call("read_domain_state", domain.state)
            if jobs.word(number, why, jobs.read(self._connection, domain)) != "save":
                return False
            self._connection.call("abort_job", domain.abortJob)
        except Refused:
            return False  # it has just ended
        return True

    def _is_saved(self, domain: Any) -> bool:
        active = self._connection.call("read_activity", domain.isActive)
        return not active and self._domains.has_saved(domain)

    def discard(self, uuid: str) -> None:
        """Remove a saved memory; quiet if there is none."""
        domain = self._domains.required(uuid)
        try:
            if self._domains.has_saved(domain):
                self._connection.call("discard_saved", domain.managedSaveRemove)
        except Refused as error:
            if error.code != "guest_not_found":
                raise

    def sync_time(self, uuid: str) -> bool:
        """Set the guest's clock by its agent; False when none answers."""
        domain = self._domains.required(uuid)
        try:
            self._connection.call("set_guest_time", _set_time, domain)
        except MagnetarError as error:
            if error.code in NO_AGENT:
                return False
            raise
        return True


def _set_time(domain: Any) -> None:
    now = time.time()
    domain.setTime({"seconds": int(now), "nseconds": int(now % 1 * 1_000_000_000)})
