"""Hosts: what they have, whether they are up, whether they may take new servers."""

from __future__ import annotations

import logging
from typing import Any

from compute.errors import MagnetarError
from control import common, views
from control.common import context_for
from control.messages import Computes
from control.scheduler import hosts
from db.control import services
from db.control.store import Store

LOG = logging.getLogger(__name__)
Row = dict[str, Any]


class Hosts:
    """Mixin of :class:`control.api.ControlPlane`."""

    conf: Any
    store: Store
    computes: Computes

    def host_list(self) -> list[Row]:
        """All hosts in order of name; in a constant number of statements."""
        with self.store.begin() as connection:
            found = hosts.load(connection, self.conf)
        return [views.host(host) for host in sorted(found, key=lambda host: host.host)]

    def host_show(self, host: str) -> Row:
        """One host by its name, or its node's name or uuid."""
        rows = [row for row in self.host_list() if host in (row["host"], row["node"], row["id"])]
        return common.one("host", host, rows, ("host",))

    def host_enable(self, host: str) -> Row:
        """Let a host take new servers again."""
        return self._switch(host, True, None)

    def host_disable(self, host: str, reason: str | None = None) -> Row:
        """Keep a host from taking new servers; those on it keep running."""
        return self._switch(host, False, reason or "disabled by the operator")

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
