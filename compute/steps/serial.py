"""serial ports: where guests' serial consoles listen on this host. Each is a claim."""

from __future__ import annotations

import contextlib
import socket
import threading

from compute.engine.run import Run
from compute.errors import Failed

PORT = "serial_port"  # kind of the claim; its key is the port
_one_at_a_time = threading.Lock()


def serial_port(run: Run) -> int | None:
    """The port of the guest's serial console, claimed if need be; None where it has none.

    :raises Failed: code ``no_serial_port``: all ports of the range are taken.
    """
    options, journal, guest = run.world.conf.serial_console, run.world.journal, run.row.guest
    if not options.enabled:
        journal.release(guest=guest, kind=PORT)
        return None
    first, last = ports(options.port_range)
    with _one_at_a_time:
        taken = {int(claim.key): claim.guest for claim in journal.claims(kind=PORT)}
        mine = [port for port, owner in taken.items() if owner == guest and first <= port <= last]
        if mine:
            return mine[0]
        for port in range(first, last + 1):
            if port not in taken and _free(options.proxyclient_address, port):
                journal.claim(PORT, str(port), guest, run.row.id, {})
                return port
    raise Failed(f"There is no port left for the serial console of guest {guest}: all of "
                 f"{options.port_range} are taken.", now="Its definition was not changed.",
                 next="Widen [serial_console] port_range.", code="no_serial_port")


def ports(text: str) -> tuple[int, int]:
    """First and last port of an option. Raises Failed(code='bad_option')."""
    with contextlib.suppress(ValueError):
        first, last = (int(part) for part in text.split(":"))
        if 0 < first <= last < 1 << 16:
            return first, last
    raise Failed(f"[serial_console] port_range cannot be {text!r}.",
                 now="The guest's definition was not changed.",
                 next="Write first and last port, as in 10000:20000.", code="bad_option")


def _free(address: str, port: int) -> bool:
    """Whether nobody else on this host listens there."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
