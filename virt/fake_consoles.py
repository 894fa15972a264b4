"""The fake hypervisor's consoles: a guest that says what is typed."""

from __future__ import annotations

import contextlib
import socket
import threading

from compute.errors import Refused
from virt.fake_moves import ON
from virt.fake_state import FakeState, hooked


class FakeConsoles(FakeState):
    """See virt.driver.Driver. ``screens`` is the port of the first screen; 0: on unix sockets."""

    screens = 0

    @hooked
    def screen_port(self, uuid: str) -> int | None:
        self._need(uuid)
        return self.screens or None

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
