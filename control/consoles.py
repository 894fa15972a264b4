"""Servers' consoles: where people reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compute.errors import Refused
from control.common import NOTHING, context_for
from control.messages import Computes
from control.objects import Call
from control.objects.instances import load
from control.refusals import not_ready
from db.control.store import Store
from db.control.tables import instances as table

Row = dict[str, Any]
C = table.c
SENT = ("metadata", "system_metadata", "info_cache", "security_groups")
METHODS = {"novnc": "get_vnc_console", "spice-html5": "get_spice_console",
           "serial": "get_serial_console"}


class Consoles:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    computes: Computes
    _find: Callable[..., Row]  # given by Servers

    def console_url(self, server: str, kind: str = "novnc") -> Row:
        """An address at which a server's screen or serial console can be opened for a while,
        through a proxy: ``{type, url, host, port}``; the latter two are where the proxy finds it.

        :raises Refused: ``console_unavailable``, ``console_not_ready``.
        """
        if kind not in METHODS:
            raise Refused(f"There is no console of type {kind!r}.", now=NOTHING,
                          next=f"Choose one of {', '.join(METHODS)}.", code="console_type_unknown")
        row = self._find(server)
        if not row["host"]:
            raise not_ready(row, "show the console of")
        context = context_for()
        with self.store.begin() as connection:
            instance = load(Call(connection, context), C.uuid == row["uuid"], attrs=SENT)[0]
        told = self.computes.call(context, row["host"], METHODS[kind], console_type=kind,
                                  instance=instance)
        return {"type": kind, "url": told["access_url"], "host": told["host"],
                "port": told["port"]}
