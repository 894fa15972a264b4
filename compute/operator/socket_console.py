"""Consoles on the control socket: an HTTP connection that becomes a guest's serial console.

    POST /v1/console {"guest": "…", "force": false}

is answered 101, and from then on the connection carries what the guest writes, and what is typed.
Either end may close it, and so does the agent when it stops.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any

from compute.errors import Refused

Opener = Callable[[str, bool], socket.socket]
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: console\r\n\r\n"
PIECE = 4096


def wanted(request: Mapping[str, Any]) -> tuple[str, bool]:
    """Which console, and whether to end somebody's session. Raises Refused('bad_request')."""
    guest, force = request.get("guest"), request.get("force", False)
    if set(request) - {"guest", "force"} or not isinstance(guest, str) \
            or not isinstance(force, bool):
        raise Refused('A console needs {"guest": ID, "force": true or false}.',
                      now="Nothing was opened.", next="Correct the body of the request.",
                      code="bad_request")
    return guest, force


def carry(client: socket.socket, console: socket.socket) -> None:
    """Carry bytes both ways until either end closes."""
    other = {client: console, console: client}
    client.settimeout(None)
    with contextlib.suppress(OSError):
        while True:
            ready, _, _ = select.select(list(other), [], [])
            for one in ready:
                data = one.recv(PIECE)
                if not data:
                    return
                other[one].sendall(data)


def none_here(guest: str, force: bool) -> socket.socket:
    """The opener of an agent that has no guests."""
    raise Refused("There are no consoles behind this socket.", now="Nothing was opened.",
                  next="Ask the agent of the guest's host, with --socket.", code="no_console")
