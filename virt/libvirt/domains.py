"""Observing domains and acting on them; only ever on those that carry our metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import libvirt

from compute.errors import MagnetarError, Refused
from compute.model.guest import GuestState
from virt.libvirt import jobs, metadata
from virt.libvirt.connection import Connection
from virt.libvirt.notes import Notes
from virt.libvirt.ownership import FOREIGN, Owned, OwnershipCache
from virt.libvirt.states import power_state, reason
from virt.xml.metadata import OURS

UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM  # it is one of the guest's disks, and goes with them
)
CONFIRM_AT_ONCE = 10
SLOW = 4  # times the usual deadline: QEMU starts and ends in its own time


class Domains:
    """The domains of one libvirtd."""

    undefine_flags = UNDEFINE

    def __init__(self, connection: Connection, timeout: float, notes: Notes | None = None):
        self._connection, self._slow = connection, timeout * SLOW
        self.ownership = OwnershipCache(notes)
        self._moving: set[str] = set()  # seen to migrate: looked at more closely
        # Each tells the word of a job that this process began and libvirt perhaps has not yet.
        self.begun: list[Callable[[str], str]] = []

    # -- observing --------------------------------------------------------------------------
    def states(self) -> Mapping[str, GuestState]:
        """All domains, in three calls plus one for each domain not seen before, and one for each
        that migrates.

        After a restart or reconnect up to CONFIRM_AT_ONCE more, until all notes are confirmed. A
        migration that a process before this one began is known once :meth:`state` has seen it.
        """
        ticket = self.ownership.ticket()
        found = self._all()
        # Asked second: a domain that turns persistent in between is at worst called transient.
        fleeting = self._listed("transient", libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
        saved = self._saved()
        result, confirm = {}, CONFIRM_AT_ONCE
        for domain, number, why in found:
            uuid = domain.UUIDString()
            owned = self.ownership.get(uuid)
            if owned is None and confirm == 0:
                owned = self.ownership.noted(uuid)
            if owned is None:
                confirm -= self.ownership.noted(uuid) is not None
                owned = self._read_seen(domain, uuid, ticket)
            if owned is not None:
                result[uuid] = _state(
                    domain, number, why, uuid not in fleeting, owned, uuid in saved,
                    self._job_of(domain, uuid, number, why),
                )  # fmt: skip
        self.ownership.keep_only(set(result))
        return result

    def _all(self) -> list[tuple[Any, int, int]]:
        """Handle, state and reason of each domain, by one call."""
        found = self._connection.ask(
            "list_domain_states", libvirt.virConnect.getAllDomainStats,
            libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )  # fmt: skip
        return [(domain, stats["state.state"], stats.get("state.reason", 0))
                for domain, stats in found]

    def _saved(self) -> set[str]:
        """The domains whose memory was saved to disk."""
        return self._listed("saved", libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)

    def _listed(self, what: str, flags: int) -> set[str]:
        found = self._connection.ask(
            f"list_{what}_domains", libvirt.virConnect.listAllDomains, flags
        )
        return {domain.UUIDString() for domain in found}

    def _job_of(self, domain: Any, uuid: str, number: int, why: int) -> str:
        """The word for a listed domain's job; asks libvirt only where one is likely."""
        likely = uuid in self._moving or (number, why) in jobs.DOUBTFUL or self._begun(uuid)
        if (number, why) not in jobs.TELLING and not likely:
            return ""
        try:
            return self.job(domain, uuid, number, why)
        except Refused as error:
            if error.code != "guest_not_found":
                raise
            return ""

    def job(self, domain: Any, uuid: str, number: int, why: int) -> str:
        """The word for a domain's job, asked now: see :attr:`GuestState.job`."""
        found = ""
        if number not in OFF:
            told = (number, why) in jobs.TELLING
            found = jobs.word(number, why, None if told else jobs.read(self._connection, domain))
            found = found or self._begun(uuid)
        (self._moving.add if found in ("in", "out") else self._moving.discard)(uuid)
        return found

    def _begun(self, uuid: str) -> str:
        return next((word for word in (ask(uuid) for ask in self.begun) if word), "")

    def _read_seen(self, domain: Any, uuid: str, ticket: int) -> Owned | None:
        """Ownership of a listed domain; None if it went away since it was listed."""
        try:
            owned = self._read(domain)
        except Refused as error:
            if error.code == "guest_not_found":
                return None
            raise
        self.ownership.put(uuid, owned, ticket)
        return owned

    def state(self, uuid: str) -> GuestState | None:
        """One domain, None if libvirt says that it has none."""
        ticket = self.ownership.ticket()
        domain = self.find(uuid)
        if domain is None:
            return None
        try:
            number, why = self._connection.call("read_domain_state", domain.state)
            persistent = bool(self._connection.call("read_persistence", domain.isPersistent))
            saved = number in OFF and self.has_saved(domain)
            job = self.job(domain, uuid, number, why)
        except Refused as error:
            if error.code == "guest_not_found":
                return None
            raise
        owned = self.ownership.get(uuid) or self._read_seen(domain, uuid, ticket)
        if owned is None:
            return None
        return _state(domain, number, why, persistent, owned, saved, job)

    def has_saved(self, domain: Any) -> bool:
        """Whether a domain's memory was saved to disk."""
        return bool(self._connection.call("read_saved", domain.hasManagedSaveImage))

    def find(self, uuid: str) -> Any | None:
        """libvirt's handle of a domain, None if there is none."""
        return self._looked_up(libvirt.virConnect.lookupByUUIDString, uuid)

    def find_name(self, name: str) -> Any | None:
        """libvirt's handle of the domain with a name, None if there is none."""
        return self._looked_up(libvirt.virConnect.lookupByName, name)

    def _looked_up(self, lookup: Any, key: str) -> Any | None:
        try:
            return self._connection.ask("look_up_domain", lookup, key)
        except Refused as error:
            if error.code == "guest_not_found":
                return None
            raise

    def _read(self, domain: Any) -> Owned:
        """What our metadata in a domain says, asked now."""
        text = self._connection.call("read_domain_metadata", _metadata, domain)
        return FOREIGN if text is None else metadata.read(text)

    # -- acting -----------------------------------------------------------------------------
    def define(self, uuid: str, name: str, xml: str, generation: int) -> None:
        """Store a definition. Raises Refused(uuid_in_use, stale_generation)."""
        self.check_free(uuid, name, generation)
        self.ownership.forget(uuid)
        self._connection.ask("define_domain", libvirt.virConnect.defineXML, xml)
        self.ownership.forget(uuid)

    def check_free(self, uuid: str, name: str, generation: int) -> None:
        """Raise Refused unless uuid and name are unused or this very guest of ours."""
        domain = self.find(uuid)
        if domain is not None:
            owned = self._read(domain)
            if not owned.ours:
                raise _foreign(uuid, domain.name())
            if owned.generation > generation:
                raise Refused(
                    f"Guest {uuid} is here with generation {owned.generation}; "
                    f"generation {generation} is older.",
                    now="The newer definition was left as it is.",
                    next="Ask 'magnetar explain' which host owns the guest.",
                    code="stale_generation",
                )
        other = self.find_name(name)
        if other is not None and other.UUIDString() != uuid:
            raise _foreign(other.UUIDString(), name)

    def undefine(self, uuid: str) -> None:
        """Remove the definition; quiet if there is none, or only a running domain without one."""
        domain = self._ours(uuid)
        if domain is None:
            return
        self.ownership.forget(uuid)
        try:
            self._connection.call("undefine_domain", domain.undefineFlags,
                                  self.undefine_flags)  # fmt: skip
        except Refused as error:
            if error.code != "guest_not_found" and self._is_persistent(uuid):
                raise
        finally:
            self.ownership.forget(uuid)

    def power_on(self, uuid: str, prepare: Callable[[], None]) -> None:
        """Start it unless it runs; ``prepare`` is called once it is known to be ours."""
        domain = self.required(uuid)
        prepare()
        self._unless(domain, _ACTIVE, "start_domain", domain.create, timeout=self._slow)

    def shutdown(self, uuid: str) -> None:
        """Ask it to shut down: by its agent if that answers, else by ACPI."""
        domain = self.required(uuid)
        self._unless(domain, OFF, "shut_down_domain", domain.shutdown)

    def resume(self, uuid: str) -> None:
        """Let it go on, unless it does."""
        domain = self.required(uuid)
        self._unless(domain, (libvirt.VIR_DOMAIN_RUNNING,), "resume_domain", domain.resume)

    def pause(self, uuid: str) -> None:
        """Stop its CPUs, unless they stand still."""
        domain = self.required(uuid)
        self._unless(domain, (libvirt.VIR_DOMAIN_PAUSED,), "pause_domain", domain.suspend)

    def power_off(self, uuid: str) -> None:
        """Stop it by force; quiet if it is off or gone."""
        domain = self._ours(uuid)
        if domain is None:
            return
        try:
            self._unless(domain, OFF, "stop_domain", domain.destroy, timeout=self._slow)
        except Refused as error:
            if error.code != "guest_not_found":
                raise

    def _unless(
        self, domain: Any, wanted: tuple[int, ...], name: str, act: Any,
        timeout: float | None = None,
    ) -> None:
        """Act, and let a refusal pass when the domain already is in a wanted state."""
        try:
            self._connection.call(name, act, timeout=timeout)
        except MagnetarError as error:
            if error.code not in ("invalid_state", "hypervisor_error"):
                raise
            number, _ = self._connection.call("read_domain_state", domain.state)
            if number not in wanted:
                raise

    def _is_persistent(self, uuid: str) -> bool:
        domain = self.find(uuid)
        return domain is not None and bool(
            self._connection.call("read_persistence", domain.isPersistent)
        )

    def required(self, uuid: str) -> Any:
        """The handle of a domain of ours. Raises Refused (guest_not_found, not_ours)."""
        domain = self._ours(uuid)
        if domain is None:
            raise Refused(
                f"libvirt has no domain {uuid}.",
                now="Nothing was changed.",
                next=f"Ask 'magnetar explain {uuid}' where the guest should be.",
                code="guest_not_found",
            )
        return domain

    def is_ours(self, domain: Any, uuid: str) -> bool:
        """Whether a listed domain is ours; asks libvirt only about one not seen before."""
        owned = self.ownership.get(uuid)
        if owned is None:
            owned = self._read_seen(domain, uuid, self.ownership.ticket())
        return owned is not None and owned.ours

    def _ours(self, uuid: str) -> Any | None:
        """The handle of a domain of ours, None if there is none; ownership is read now."""
        domain = self.find(uuid)
        if domain is None:
            return None
        try:
            owned = self._read(domain)
        except Refused as error:
            if error.code == "guest_not_found":
                return None
            raise
        if not owned.ours:
            raise _foreign(uuid, domain.name(), code="not_ours")
        return domain


OFF = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED)
_ACTIVE = (
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED,
    libvirt.VIR_DOMAIN_PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN,
    libvirt.VIR_DOMAIN_PMSUSPENDED,
)


def _metadata(domain: Any) -> str | None:
    """Our element of a domain's metadata as text, None if it has none."""
    try:
        return domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, OURS)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise


def _state(
    domain: Any, number: int, why: int, persistent: bool, owned: Owned, saved: bool, job: str
) -> GuestState:
    return GuestState(
        uuid=domain.UUIDString(),
        name=domain.name(),
        power_state=power_state(number),
        reason=reason(number, why),
        persistent=persistent,
        ours=owned.ours,
        generation=owned.generation,
        operation=owned.operation,
        saved=saved,
        job=job,
    )


def _foreign(uuid: str, name: str, code: str = "uuid_in_use") -> Refused:
    return Refused(
        f"The domain {name} ({uuid}) in libvirt was not made by Magnetar.",
        now="It was left alone; nothing was changed.",
        next="Remove or rename it if it should not be there, or choose another name.",
        code=code,
    )
