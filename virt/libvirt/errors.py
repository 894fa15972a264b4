"""The one table from libvirt's error codes to the five kinds."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import libvirt

from compute.errors import (
    Aborted,
    Failed,
    MagnetarError,
    NeedsOperator,
    Refused,
    Retryable,
    Unknown,
)


@dataclass(frozen=True)
class Row:
    """What an error means: its kind, its word for machines, what is true and what to do."""

    kind: type[MagnetarError]
    code: str
    now: str
    next: str


LOST = Row(Unknown, "libvirt_lost", "Whether it was done is not known; guests keep running.",
           "The agent reconnects by itself and looks again.")  # fmt: skip
DISK_FULL = Row(Retryable, "disk_full", "Nothing was changed.",
                "Free space on the host's disks; it is tried again.")  # fmt: skip
NO_MEMORY = Row(Retryable, "no_memory", "The guest does not run.",
                "Free memory on the host, or lower ram_allocation_ratio.")  # fmt: skip
DENIED = Row(NeedsOperator, "libvirt_permission", "Nothing was changed.",
             "Give the agent's user access to libvirt (group libvirt, or polkit), then restart "
             "the agent.")  # fmt: skip
TIMEOUT = Row(Unknown, "libvirt_timeout", "Whether it was done is not known.",
              "The guest is looked at again before anything else is done to it.")  # fmt: skip
BAD_XML = Row(Failed, "domain_unacceptable", "The definition was not stored.",
              "Correct the flavor, image property or option that asks for it.")  # fmt: skip
UNSUPPORTED = Row(Failed, "unsupported", "Nothing was changed.",
                  "This libvirt, QEMU or guest cannot do it; use another host.")  # fmt: skip
STATE = Row(Refused, "invalid_state", "Nothing was changed.",
            "Look at the guest's present state; it changed meanwhile.")  # fmt: skip
AGENT = Row(Retryable, "agent_unresponsive", "The guest's agent did not answer.",
            "Install or start qemu-guest-agent in the guest.")  # fmt: skip
BROKEN = Row(Failed, "hypervisor_error", "The hypervisor gave up on it.",
             "See the host's libvirtd log, and /var/log/libvirt/qemu for the guest's.")  # fmt: skip

TABLE: dict[int, Row] = {
    libvirt.VIR_ERR_NO_DOMAIN: Row(
        Refused, "guest_not_found", "libvirt has no such domain on this host.",
        "Ask 'magnetar explain' where the guest should be."),
    libvirt.VIR_ERR_NO_SECRET: Row(
        Failed, "secret_not_found", "Nothing was changed.",
        "Detach the volume and attach it again, so that its secret is told anew."),
    libvirt.VIR_ERR_NO_NETWORK: Row(
        Failed, "network_missing", "Nothing was changed.",
        "Create the libvirt network, or use another one."),
    libvirt.VIR_ERR_NETWORK_EXIST: Row(
        Refused, "network_exists", "Nothing was changed.", "Choose another name."),
    libvirt.VIR_ERR_DOM_EXIST: Row(
        Refused, "uuid_in_use", "The existing domain was left alone.",
        "Remove or rename it if it should not be there."),
    libvirt.VIR_ERR_NO_MEMORY: NO_MEMORY,
    libvirt.VIR_ERR_OPERATION_INVALID: STATE,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: TIMEOUT,
    libvirt.VIR_ERR_CPU_INCOMPATIBLE: Row(
        Failed, "cpu_incompatible", "Nothing was changed.",
        "Choose a host whose CPU has what is missing, or set [libvirt] cpu_mode = custom to a "
        "model that all hosts have; a guest gets it at its next start."),
    libvirt.VIR_ERR_MIGRATE_UNSAFE: Row(
        Failed, "migrate_unsafe", "The guest stays where it is.",
        "Use cache=none for disks on shared storage ([libvirt] disk_cachemodes), or let the "
        "disks be copied."),
    libvirt.VIR_ERR_OPERATION_ABORTED: Row(
        Aborted, "aborted", "The job was stopped.", "Ask again if that was not meant."),
    libvirt.VIR_ERR_RESOURCE_BUSY: Row(
        Retryable, "libvirt_busy", "Nothing was changed.", "It is tried again."),
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: AGENT,
    libvirt.VIR_ERR_AGENT_UNSYNCED: AGENT,
    libvirt.VIR_ERR_OPERATION_DENIED: DENIED,
    libvirt.VIR_ERR_ACCESS_DENIED: DENIED,
    libvirt.VIR_ERR_AUTH_FAILED: DENIED,
    libvirt.VIR_ERR_AUTH_CANCELLED: DENIED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: DENIED,
    libvirt.VIR_ERR_XML_ERROR: BAD_XML,
    libvirt.VIR_ERR_XML_DETAIL: BAD_XML,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: BAD_XML,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: BAD_XML,
    libvirt.VIR_ERR_INVALID_ARG: BAD_XML,
    libvirt.VIR_ERR_NO_SUPPORT: UNSUPPORTED,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: UNSUPPORTED,
    libvirt.VIR_ERR_INVALID_CONN: LOST,
    libvirt.VIR_ERR_NO_CONNECT: LOST,
    libvirt.VIR_ERR_RPC: LOST,
}  # fmt: skip

# QEMU's own complaints reach us as internal errors; only their text tells them apart.
BY_TEXT = (
    ("No space left on device", DISK_FULL),
    ("Disk quota exceeded", DISK_FULL),
    ("Cannot allocate memory", NO_MEMORY),
    ("cannot set up guest memory", NO_MEMORY),
)
BY_ERRNO = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.ENOMEM: NO_MEMORY,
    errno.ETIMEDOUT: TIMEOUT,
}
_CLIENT_SIDE = (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
_VAGUE = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR)


def is_lost(error: libvirt.libvirtError) -> bool:
    """Whether the connection is gone, so that the error tells nothing of the call itself."""
    code = error.get_error_code()
    if code is None:
        return True  # libvirt said nothing at all
    return TABLE.get(code) is LOST or (code in _VAGUE and error.get_error_domain() in _CLIENT_SIDE)


def row(error: libvirt.libvirtError) -> Row:
    """The row for an error. A lost connection comes before everything else."""
    if is_lost(error):
        return LOST
    code, text = error.get_error_code(), error.get_error_message() or ""
    for words, found in BY_TEXT:
        if words in text:
            return found
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() in BY_ERRNO:
        return BY_ERRNO[error.get_int1()]
    return TABLE.get(code, BROKEN)


def translate(error: libvirt.libvirtError, doing: str) -> MagnetarError:
    """The error as one of the five kinds; ``doing`` is a verb phrase such as 'start domain'."""
    found = row(error)
    text = (error.get_error_message() or "no reason given").strip().rstrip(".")
    return found.kind(
        f"libvirt could not {doing}: {text}.", now=found.now, next=found.next, code=found.code
    )
