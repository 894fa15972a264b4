"""Live migrations that leave this host: begun, looked at, tuned, stopped.

libvirtd carries them out, peer to peer. What this process remembers of one that it began, its error
above all, completes what libvirt tells; a process that came later goes by libvirt's word alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import libvirt

from compute.errors import Failed, MagnetarError, Refused, Retryable, Unknown
from compute.model import move
from compute.model.move import JobSample, MovePlan
from virt.libvirt import jobs
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.errand import Errand
from virt.libvirt.errors import is_lost, translate

UNLIMITED = 8796093022207  # MiB/s: the most that libvirt takes; 0 means something else to it
RECOVER_SECONDS = 30.0
AGAIN_SECONDS = 0.5
STATISTICS_SECONDS = 1.0  # how long the event with the final statistics may lag behind the end
MANY = 1000
LET_GO_ON = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED)


class Transfer:
    """A migration that this process began."""

    def __init__(self, errand: Callable[[Transfer], Errand]):
        self.unwanted = False  # it shall be stopped as soon as there is something to stop
        self.last: JobSample | None = None
        self.errand = errand(self)

    @property
    def error(self) -> BaseException | None:
        """Why it ended, once it ended; None too when only the word of its end was lost."""
        error = self.errand.error
        lost = isinstance(error, libvirt.libvirtError) and is_lost(error)
        return None if lost else error


class Unwanted(Exception):
    """A migration was stopped before libvirt had begun it."""


class Moves:
    """The outgoing migrations of one libvirtd.

    :param connect: opens a connection for one migration alone.
    """

    def __init__(self, connection: Connection, domains: Domains, connect: Callable[[], Any]):
        self._connection, self._domains, self._connect = connection, domains, connect
        self._lock = threading.Lock()
        self._transfers: dict[str, Transfer] = {}
        self._completed: dict[str, Mapping[str, Any]] = {}
        domains.begun.append(lambda uuid: "out" if self.leaving(uuid) else "")

    def completed(self, uuid: str, stats: Mapping[str, Any]) -> None:
        """Keep the final statistics that libvirt sent; it forgets them with the domain."""
        if jobs.WORDS.get(stats.get("operation", 0)) == "out":
            with self._lock:
                self._completed[uuid] = stats
                while len(self._completed) > MANY:
                    self._completed.pop(next(iter(self._completed)))

    def forget(self, uuid: str) -> None:
        """The guest is here again: what is remembered of its leaving is over."""
        with self._lock:
            self._transfers.pop(uuid, None)
            self._completed.pop(uuid, None)

    def leaving(self, uuid: str) -> bool:
        """Whether this process has a migration of the guest under way."""
        transfer = self._transfers.get(uuid)
        return transfer is not None and not transfer.errand.ended

    # -- beginning --------------------------------------------------------------------------
    def migrate(self, uuid: str, plan: MovePlan) -> None:
        """Begin; quiet if the domain migrates. Raises Refused(guest_not_found, not_ours)."""
        domain = self._domains.required(uuid)
        number, why = self._connection.call("read_domain_state", domain.state)
        if self._domains.job(domain, uuid, number, why) == "out":
            return
        from virt.libvirt.orders import parameters  # not needed to start

        live, stored = self._connection.call("read_definition", _definitions, domain)
        values, flags = parameters(live, stored, plan)
        self._start(uuid, plan, values, flags)

    def _start(self, uuid: str, plan: MovePlan, values: dict[str, Any], flags: int) -> Transfer:
        def carry(transfer: Transfer, handle: Any) -> None:
            domain = handle.lookupByUUIDString(uuid)
            if not flags & libvirt.VIR_MIGRATE_POSTCOPY_RESUME:
                domain.migrateSetMaxDowntime(max(1, plan.downtime_ms))
            if transfer.unwanted:
                raise Unwanted
            try:
                domain.migrateToURI3(plan.uri, values, flags)
            except libvirt.libvirtError:
                _stand_still(domain)
                raise

        with self._lock:
            self._completed.pop(uuid, None)
            transfer = Transfer(
                lambda made: Errand("migration", self._connect, lambda handle: carry(made, handle))
            )
            self._transfers[uuid] = transfer
        return transfer

    def recover(self, uuid: str, plan: MovePlan) -> None:
        """Continue in post-copy after the network broke; quiet if it does.

        :raises Retryable: with libvirt's reason.
        :raises Unknown: when nothing was seen of it in RECOVER_SECONDS. QEMU at the destination
            answers nobody while it waits, for a device, for memory that it misses.
        """
        self._domains.required(uuid)
        if not self._is_broken(uuid):
            return
        from virt.libvirt.orders import resume_flags

        deadline = time.monotonic() + RECOVER_SECONDS
        while time.monotonic() < deadline:
            # The source's QEMU may notice the broken connection some seconds later only.
            if not self.leaving(uuid):
                self._start(uuid, plan, *resume_flags(plan))
            errand = self._transfers[uuid].errand
            if errand.wait(AGAIN_SECONDS):
                time.sleep(AGAIN_SECONDS)
            if not self._is_broken(uuid):
                return
        if errand.error is None:
            raise Unknown(
                f"The post-copy migration of guest {uuid} was asked to go on, and did not within "
                f"{RECOVER_SECONDS:g} s.",
                now="The guest stands still, its memory on both hosts; libvirt still tries.",
                next="It is looked at again. Stop the guest on neither host.",
                code="recover_slow",
            )
        raise Retryable(
            f"The post-copy migration of guest {uuid} could not be continued: "
            f"{_words(errand.error)}",
            now="The guest stands still, its memory on both hosts.",
            next="Mend the network between the two hosts; it is tried again.",
            code="recover_failed",
        )

    def _is_broken(self, uuid: str) -> bool:
        sample = self.job(uuid)
        return sample is not None and sample.phase == move.POSTCOPY_PAUSED

    # -- looking ----------------------------------------------------------------------------
    def job(self, uuid: str) -> JobSample | None:
        """How the migration stands: see :meth:`virt.driver.Driver.job`."""
        transfer = self._transfers.get(uuid)
        over = transfer is not None and transfer.errand.ended  # before looking: it ends after
        domain = self._domains.find(uuid)
        try:
            found = self._look(domain, uuid, transfer, over)
        except Refused as error:
            if error.code != "guest_not_found":
                raise
            found = self._gone(uuid, transfer, over)
        if found is not None and transfer is not None:
            transfer.last = found
        return found

    def _look(
        self, domain: Any | None, uuid: str, transfer: Transfer | None, over: bool
    ) -> JobSample | None:
        if domain is None:
            return self._gone(uuid, transfer, over)
        number, why = self._connection.call("read_domain_state", domain.state)
        if number == libvirt.VIR_DOMAIN_SHUTOFF:
            if why == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED:
                return self._gone(uuid, transfer, over)
            return self._ended(transfer, over)
        stats = jobs.read(self._connection, domain)
        word = jobs.word(number, why, stats)
        if word == "in":
            return None
        if word == "out":
            self._stop_if_unwanted(domain, transfer)
            return jobs.sample(stats or {}, jobs.phase(number, why, stats or {}))
        return self._ended(transfer, over)

    def _gone(self, uuid: str, transfer: Transfer | None, over: bool) -> JobSample:
        """The domain left, or libvirt still tidies up after it."""
        if transfer is not None and not over:
            last = transfer.last or JobSample(move.SWITCHOVER)
            return replace(last, phase=move.SWITCHOVER, time=time.time())
        if transfer is not None and transfer.error is not None:
            return jobs.sample({}, move.FAILED, _words(transfer.error))
        deadline = time.monotonic() + STATISTICS_SECONDS
        while transfer and uuid not in self._completed and time.monotonic() < deadline:
            time.sleep(0.02)
        stats = self._completed.get(uuid)
        if stats is None and transfer is not None and transfer.last is not None:
            return replace(transfer.last, phase=move.COMPLETED, time=time.time(), error="",
                           memory_remaining=0, disk_remaining=0, downtime_ms=None)  # fmt: skip
        return jobs.sample(stats or {}, move.COMPLETED)

    def _ended(self, transfer: Transfer | None, over: bool) -> JobSample | None:
        """The domain is here and has no migration job."""
        if transfer is None:
            return None
        if not over:  # libvirt has not begun, or has just ended
            return replace(transfer.last or JobSample(move.SETUP), time=time.time())
        error = transfer.errand.error
        if error is None:
            return None  # it left, and came back by other means
        cancelled = transfer.unwanted or isinstance(error, Unwanted) or (
            isinstance(error, libvirt.libvirtError)
            and error.get_error_code() == libvirt.VIR_ERR_OPERATION_ABORTED)
        ended = move.CANCELLED if cancelled else move.FAILED
        return replace(transfer.last or JobSample(ended), phase=ended, time=time.time(),
                       error=_words(error))  # fmt: skip

    # -- steering ---------------------------------------------------------------------------
    def abort(self, uuid: str) -> None:
        """Stop the migration; quiet if there is none. Raises Refused(code='too_late')."""
        transfer = self._transfers.get(uuid)
        if transfer is not None:
            transfer.unwanted = True
        domain = self._domains.find(uuid)
        if domain is None:
            return
        sample = self.job(uuid)
        if sample is None or sample.phase in move.ENDED:
            return
        if sample.phase in (move.POSTCOPY, move.POSTCOPY_PAUSED):
            if transfer is not None:
                transfer.unwanted = False
            raise Refused(
                f"The migration of guest {uuid} cannot be stopped any more: the guest runs at the "
                "destination, and part of its memory is only there.",
                now="It goes on.",
                next="Let it end, and move the guest back then.",
                code="too_late",
            )
        self._quietly("abort_job", domain.abortJob)

    def _stop_if_unwanted(self, domain: Any, transfer: Transfer | None) -> None:
        """Stop what was to be stopped before libvirt had begun it."""
        if transfer is not None and transfer.unwanted:
            self._quietly("abort_job", domain.abortJob)

    def tune(self, uuid: str, downtime_ms: int | None, bandwidth: int | None) -> None:
        """Change pause and bandwidth while it runs; quiet if it does not."""
        domain = self._domains.find(uuid)
        if domain is None:
            return
        if downtime_ms is not None:
            self._quietly("set_downtime", domain.migrateSetMaxDowntime, max(1, downtime_ms))
        if bandwidth is not None:
            sample, flags = self.job(uuid), 0
            if sample is not None and sample.phase in (move.POSTCOPY, move.POSTCOPY_PAUSED):
                flags = libvirt.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY
            self._quietly(
                "set_bandwidth", domain.migrateSetMaxSpeed, bandwidth or UNLIMITED, flags)

    def start_postcopy(self, uuid: str) -> None:
        """Let the guest go on at the destination; quiet if it does, or is there.

        :raises Refused: when there is no migration, or it was begun without post-copy.
        """
        sample = self.job(uuid)
        if sample is not None and sample.phase in (
            move.POSTCOPY, move.POSTCOPY_PAUSED, move.COMPLETED
        ):
            return
        domain = self._domains.required(uuid)
        self._connection.call("start_post_copy", domain.migrateStartPostCopy)

    def dirty_rate(self, uuid: str, seconds: int) -> int | None:
        """Bytes of memory that the guest writes in a second, by QEMU's sampling of pages."""
        domain = self._domains.find(uuid)
        if domain is None:
            return None
        try:
            self._connection.call("measure_dirty_rate", domain.startDirtyRateCalc, seconds)
        except (Failed, Refused):
            return None  # off, or this QEMU cannot
        deadline = time.monotonic() + 2 * seconds + 2
        time.sleep(seconds)
        while time.monotonic() < deadline:
            found = self._connection.ask("read_dirty_rate", _dirty_rate, domain)
            if found.get("dirtyrate.calc_status") == libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
                rate = int(found.get("dirtyrate.megabytes_per_second", 0))
                return max(0, rate) << 20
            time.sleep(0.1)
        return None

    def _quietly(self, name: str, func: Any, *args: Any) -> None:
        """Call, and let pass that there is nothing to do it to."""
        try:
            self._connection.call(name, func, *args)
        except MagnetarError as error:
            if error.code not in ("invalid_state", "guest_not_found"):
                raise


def _stand_still(domain: Any) -> None:
    """Stop a guest that libvirt let go on after it had stopped it for the switch-over: it may go on
    at the destination. On the thread of the migration, since each moment counts; should this
    process be gone, the next one does it."""
    try:
        if tuple(domain.state()) == LET_GO_ON:
            domain.suspend()
    except libvirt.libvirtError:
        pass  # whoever asks how the guest is meets the same


def _definitions(domain: Any) -> tuple[str, str]:
    """The definition of a running domain as it may leave, and the one for its next boot."""
    flags = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
    return domain.XMLDesc(flags), domain.XMLDesc(flags | libvirt.VIR_DOMAIN_XML_INACTIVE)


def _dirty_rate(handle: Any, domain: Any) -> dict[str, Any]:
    found = handle.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE, 0)
    return found[0][1] if found else {}


def _words(error: BaseException) -> str:
    if isinstance(error, Unwanted):
        return "It was stopped before it began."
    if isinstance(error, libvirt.libvirtError):
        return translate(error, "migrate the guest").what
    return f"{type(error).__name__}: {error}"
