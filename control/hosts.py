"""Hosts: what they have, whether they are up, whether they may take new servers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from compute.errors import MagnetarError, Refused
from control import common, views
from control.common import NOTHING, context_for
from control.messages import Computes
from control.moves.drain import DRAIN, EVACUATE, STOPPED, progress
from control.moves.fencing import confirm_fenced
from control.scheduler import hosts
from db.control import drains, instances, services
from db.control.store import Store
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
DRAINED = "its servers are moved away"


class Hosts:
    """Mixin of :class:`control.api.ControlPlane`."""

    conf: Any
    store: Store
    computes: Computes
    drains_wake: Callable[[], None]  # the service's: look at the drains now

    def host_list(self) -> list[Row]:
        """All hosts in order of name; in a constant number of statements."""
        with self.store.begin() as connection:
            found = hosts.load(connection, self.conf)
        return [views.host(host) for host in sorted(found, key=lambda host: host.host)]

    def host_show(self, host: str) -> Row:
        """One host by its name, or its node's name or uuid."""
        rows = [row for row in self.host_list() if host in (row["host"], row["node"], row["id"])]
        return common.one("host", host, rows, ("host",))

    def server_usage_list(self, host: str | None = None) -> list[Row]:
        """What each running server uses, as its host tells: CPU time in nanoseconds, memory in KiB,
        bytes of disks and NICs. Hosts that do not answer are left out, if none is named.

        :param host: only servers of this host.
        """
        asked = [self.host_show(host)] if host else \
            [row for row in self.host_list() if row["state"] == "up"]
        found: dict[str, Row] = {}
        for row in asked:
            try:
                told = self.computes.call_own(context_for(), row["host"], "usage")
            except MagnetarError as error:
                if host:
                    raise
                LOG.warning("Host %s does not tell what its servers use: %s", row["host"], error)
                continue
            found |= {one["id"]: {**one, "host": row["host"]} for one in told}
        with self.store.begin() as connection:
            names = instances.names(connection, found)
        return [{**use, "name": names[uuid]} for uuid, use in found.items() if uuid in names]

    def host_enable(self, host: str) -> Row:
        """Let a host take new servers again; a drain of it ends."""
        row = self.host_show(host)
        with self.store.begin() as connection:
            self._stop_drain(connection, row["host"])
        return self._switch(row["host"], True, None)

    def host_disable(self, host: str, reason: str | None = None) -> Row:
        """Keep a host from taking new servers; those on it keep running."""
        return self._switch(host, False, reason or "disabled by the operator")

    def host_drain(self, host: str, max: int | None = None) -> Row:  # noqa: A002
        """Disable a host and move its servers away: live where possible, else cold (such a server
        is shut down, moved, started, and confirmed). Asked again it goes on, with what failed
        tried once more.

        :param max: how many servers are on their way at once; default [control] max_drain_moves.
        :returns: see :meth:`host_drain_show`.
        """
        row, limit = self.host_show(host), self._most(max)
        if row["status"] == "enabled":
            self._switch(row["host"], False, DRAINED)
        return self._begin_drain(row["host"], DRAIN, limit)

    def host_evacuate(self, host: str, fenced: bool = False, max: int | None = None,  # noqa: A002
                      ) -> Row:
        """Start the servers of a lost host on other ones.

        :param fenced: confirms that the host is off; it holds until the host is heard of again.
        :raises Refused: ``host_up``: it was heard of lately; ``not_fenced``: nobody confirmed.
        """
        row, limit = self.host_show(host), self._most(max)
        if fenced:
            confirm_fenced(self.store, self.conf, row["host"])
        elif not self._fenced(row["host"]):
            raise Refused(
                f"Nobody has confirmed that host {row['host']} is off. Its servers may still run "
                "there, and would then run twice on the same disks.", now=NOTHING,
                next="Power it off or cut it from network and storage, then add --fenced.",
                code="not_fenced")
        return self._begin_drain(row["host"], EVACUATE, limit)

    def _fenced(self, host: str) -> bool:
        with self.store.begin() as connection:
            service = services.get(connection, host)
        return service is not None and service["fenced_at"] is not None

    def _most(self, wanted: int | None) -> int:
        """How many servers are on their way at once; looked at before anything is changed."""
        if wanted is None:
            return self.conf.control.max_drain_moves
        return common.checked_number("The number of servers on their way", wanted, 1, 1000)

    def _begin_drain(self, host: str, kind: str, limit: int) -> Row:
        with self.store.begin() as connection:
            old = drains.newest(connection, host)
            if old is not None and old["status"] == drains.RUNNING and old["kind"] == kind:
                drains.save(connection, old["id"], {"max_moves": limit})
            else:
                self._stop_drain(connection, host)
                drains.create(connection, {"host": host, "kind": kind, "max_moves": limit})
        self.drains_wake()
        return self.host_drain_show(host)

    def host_drain_show(self, host: str) -> Row:
        """How far the newest drain or evacuation of a host is: ``status`` running, done, stuck
        (what is left cannot be moved, with the reasons) or stopped; how many were ``moved`` of
        how many in ``total``, which are ``moving``, which are ``left``, and whose former disks
        are there until a resize is confirmed (``unconfirmed``)."""
        row = self.host_show(host)
        with self.store.begin() as connection:
            drain = drains.newest(connection, row["host"])
            if drain is None:
                raise Refused(f"Host {row['host']} was never drained.", now=NOTHING,
                              next=f"Begin with 'magnetar host drain {row['host']}'.",
                              code="drain_not_found")
            return progress(connection, drain)

    def host_drain_stop(self, host: str) -> Row:
        """Begin no more moves; those that are on their way go on. The host stays disabled."""
        row = self.host_show(host)
        with self.store.begin() as connection:
            self._stop_drain(connection, row["host"])
        return self.host_drain_show(row["host"])

    @staticmethod
    def _stop_drain(connection: Any, host: str) -> None:
        old = drains.newest(connection, host)
        if old is not None:
            drains.save(connection, old["id"], {"status": STOPPED, "ended_at": utcnow()})

    def host_set_zone(self, host: str, availability_zone: str | None = None) -> Row:
        """Put a host into an availability zone; None for the default one."""
        zone = common.checked_name("zone", availability_zone) if availability_zone else None
        return self._save(self.host_show(host), {"availability_zone": zone})

    def _switch(self, key: str, enabled: bool, reason: str | None) -> Row:
        row = self.host_show(key)
        shown = self._save(row, {"disabled": not enabled, "disabled_reason": reason})
        if row["state"] == "up":
            try:
                self.computes.call(context_for(), row["host"], "set_host_enabled",
                                   enabled=enabled)
            except MagnetarError as error:  # the row decides; the host reads it again by itself
                LOG.warning("Host %s was not told: %s", row["host"], error)
        return shown

    def _save(self, row: Row, values: Row) -> Row:
        with self.store.begin() as connection:
            service = services.get(connection, row["host"])
            if service is None:
                raise common.not_found("host", row["host"])
            services.save(connection, service["id"], values)
        return self.host_show(row["host"])
