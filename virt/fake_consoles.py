"""The fake hypervisor's consoles: a guest that says what is typed."""

from __future__ import annotations

import contextlib
import socket
import threading

from compute.errors import Refused
from virt.fake_moves import ON
from virt.fake_state import FakeState, hooked


class FakeConsoles(FakeState):
    """See virt.driver.Driver. ``screens`` is the port of VNC, 0: on unix sockets; that of SPICE
    is the next one."""

    screens = 0

    @hooked
    def console_port(self, uuid: str, kind: str) -> int | None:
        found = self._need(uuid)
        if kind == "serial":
            return found.get("serial_port")
        return self.screens + (kind == "spice") if self.screens else None

    @hooked
    def open_console(self, uuid: str, force: bool = False) -> socket.socket:
        if self._need(uuid)["power_state"] not in ON:
            raise Refused(f"Domain {uuid} does not run.", now="Nothing was opened.",
                          next="Start it.", code="invalid_state")
        ours, theirs = socket.socketpair()

        def echo() -> None:
            with ours, contextlib.suppress(OSError):
                while typed := ours.recv(4096):
                    self._say(uuid, typed.decode(errors="replace").strip())
                    ours.sendall(typed)

        threading.Thread(target=echo, daemon=True, name="fake-console").start()
        return theirs
