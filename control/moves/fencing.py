"""Confirmations that a host is off: what must be certain before its servers start elsewhere."""

from __future__ import annotations

from typing import Any

from compute.errors import Refused
from control import common
from control.common import NOTHING
from control.scheduler.hosts import silence
from db.control import services
from db.control.store import Store
from db.control.types import utcnow


def confirm_fenced(store: Store, conf: Any, host: str) -> None:
    """Write down that somebody has seen to it that a host is off. It holds until the host is
    heard of again.

    :raises Refused: codes ``host_up``, ``host_not_found``; nothing was written.
    """
    with store.begin() as connection:
        service = services.get(connection, host)
        if service is None:
            raise common.not_found("host", host)
        heard, limit = silence(service), conf.control.service_down_time
        if heard <= limit:
            raise Refused(
                f"Host {host} was heard of {heard:.0f} seconds ago, so it is not off, or only "
                "just.", now=NOTHING, code="host_up",
                next=f"If it is off, try again in {limit - heard + 1:.0f} seconds; if it runs, use "
                     f"'magnetar host drain {host}'.")
        services.save(connection, service["id"], {"fenced_at": utcnow()})
