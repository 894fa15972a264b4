"""What libvirt says of a domain's job, in our words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import libvirt

from compute.errors import Failed, Refused, Unknown
from compute.model import move
from compute.model.move import JobSample
from virt.libvirt.connection import Connection

WORDS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "out",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "in",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
}
# States that tell the job by themselves, so that nothing more has to be asked.
TELLING = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE): "save",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY): "out",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED): "out",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY): "in",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED): "in",
}
# States in which a job is likely and not told. The source has statistics of a migration, the
# destination refuses to tell any.
DOUBTFUL = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP),
}
_POSTCOPY_PHASES = {
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: move.POSTCOPY,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: move.POSTCOPY_PAUSED,
}


def read(connection: Connection, domain: Any) -> Mapping[str, Any] | None:
    """The statistics of a domain's present job; ``type`` is 0 when there is none. None when
    libvirt has none to tell: of a domain that is off, or that arrives.

    :raises Refused: with code ``guest_not_found``.
    :raises Unknown:
    """
    try:
        return connection.call("read_job", domain.jobStats)
    except (Failed, Refused) as error:
        if error.code in ("invalid_state", "unsupported"):
            return None
        if error.code == "guest_not_found":
            raise
        raise Unknown(  # QEMU was asked and did not answer: it may be dying
            error.what, now="What the guest's job does is not known.",
            next="It is looked at again.", code="job_unreadable",
        ) from error  # fmt: skip


def word(number: int, why: int, stats: Mapping[str, Any] | None) -> str:
    """``in``, ``out`` or ``save``; empty for no job, or one that is nobody's concern."""
    if (number, why) in TELLING:
        return TELLING[number, why]
    if stats is None:
        return "in" if (number, why) in DOUBTFUL else ""
    if stats.get("type") in (None, libvirt.VIR_DOMAIN_JOB_NONE):
        return ""
    return WORDS.get(stats.get("operation", 0), "")


def phase(number: int, why: int, stats: Mapping[str, Any]) -> str:
    """How far an outgoing migration is, by the domain's state and its job's statistics."""
    if number == libvirt.VIR_DOMAIN_PAUSED:
        if why in _POSTCOPY_PHASES:
            return _POSTCOPY_PHASES[why]
        if why == libvirt.VIR_DOMAIN_PAUSED_MIGRATION:
            return move.SWITCHOVER
    return move.PRECOPY if stats.get("memory_total") else move.SETUP


def sample(stats: Mapping[str, Any], phase: str, error: str = "") -> JobSample:
    """One look, of libvirt's statistics; what these do not say is 0."""

    def number(name: str) -> int:
        return int(stats.get(name) or 0)

    downtime = stats.get("downtime")
    return JobSample(
        phase=phase,
        time=time.time(),
        elapsed=number("time_elapsed") / 1000,
        memory_total=number("memory_total"),
        memory_processed=number("memory_processed"),
        memory_remaining=number("memory_remaining"),
        disk_total=number("disk_total"),
        disk_processed=number("disk_processed"),
        disk_remaining=number("disk_remaining"),
        dirty_rate=number("memory_dirty_rate") * (number("memory_page_size") or 4096),
        bandwidth=number("memory_bps") or number("disk_bps"),
        iteration=number("memory_iteration"),
        downtime_ms=None if downtime is None else int(downtime),
        throttle=number("auto_converge_throttle"),
        error=error,
    )
