"""The listener for a monitoring system: GET /metrics and GET /healthz, and nothing else."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from compute.errors import MagnetarError, NeedsOperator
from db.journal import Journal, rows

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 10.0
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Listener:
    """Answers on one address.

    :param address: ``ADDRESS:PORT``; an IPv6 address in brackets.
    :param metrics: makes the text of /metrics.
    :param health: makes what /healthz says; its ``healthy`` decides about 200 or 503.
    """

    def __init__(self, address: str, metrics: Callable[[], str],
                 health: Callable[[], Mapping[str, Any]]):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) >= 1 << 16:
            raise refusal(address, "it is no ADDRESS:PORT")
        self._address, self._where = address, (host.strip("[]"), int(port))
        self._metrics, self._health = metrics, health
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_address[1] if self._server else self._where[1]

    def start(self) -> None:
        """Begin to answer. Raises NeedsOperator(code='metrics_address')."""
        kind = type("Server", (ThreadingHTTPServer,), {
            "daemon_threads": True, "block_on_close": False,
            **({"address_family": socket.AF_INET6} if ":" in self._where[0] else {})})
        try:
            self._server = kind(self._where, self._handler())
        except OSError as error:
            raise refusal(self._address, error.strerror or str(error)) from error
        threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True,
                         name="metrics").start()

    def stop(self) -> None:
        """Answer no more; quiet when it never did."""
        if self._server is not None:
            server, self._server = self._server, None
            server.shutdown()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = IDLE_SECONDS

            def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self.answer(200, TEXT, outer._metrics())
                elif path == "/healthz":
                    told = outer._health()
                    self.answer(200 if told["healthy"] else 503, "application/json",
                                json.dumps(told) + "\n")
                else:
                    self.answer(404, TEXT, "There are /metrics and /healthz.\n")

            def answer(self, status: int, kind: str, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                LOG.debug(format, *args)

        return Handler


def well(health: Callable[[], Mapping[str, Any]], reachable: Mapping[str, Callable[[], Any]],
         journal: Journal) -> dict[str, Any]:
    """Whether a host can work: ``healthy``, its ``status``, and each check with what is wrong.

    What needs an operator is counted, and no reason to call the host unwell.
    """
    about = health()
    checks = [{"check": "agent", "ok": about["status"] == "serving",
               "reason": "" if about["status"] == "serving" else "It is starting."}]
    waiting = 0

    def see() -> None:
        nonlocal waiting
        waiting = sum(row.state == rows.NEEDS_OPERATOR for row in journal.find(active=True))

    for name, look in {"journal": see, **reachable}.items():
        try:
            look()
            reason = ""
        except (MagnetarError, SQLAlchemyError) as error:
            reason = str(error)
        checks.append({"check": name, "ok": not reason, "reason": reason})
    return {"healthy": all(one["ok"] for one in checks), "status": about["status"],
            "host": about["host"], "version": about["version"], "needs_operator": waiting,
            "checks": checks}


def refusal(address: str, why: str) -> NeedsOperator:
    return NeedsOperator(f"[metrics] listen = {address} cannot be used: {why}.",
                         now="The agent did not start; guests were not touched.",
                         next="Correct it, or leave it empty.", code="metrics_address")
