"""The control socket: HTTP/1.1 and JSON on a unix socket, so that the agent can be asked and told
when broker and database are down.

    POST /v1/call    {"method": "server.show", "args": {"server": "web"}}
    POST /v1/upload  the bytes of an image; header X-Magnetar-Args holds the arguments as JSON, and
                     X-Magnetar-Method the method (image.create when absent)
    POST /v1/console {"guest": …}; see compute.operator.socket_console
    GET  /v1/health  {"status": "serving", …}

An answer is ``{"result": …}``, or ``{"error": {"kind", "code", "what", "now", "next"}}`` with a
status that follows from kind and code. Arguments are checked against the method's signature
before anything is called.
"""

from __future__ import annotations

import http.client
import inspect
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from compute.errors import MagnetarError, Refused, Retryable, Unknown
from compute.operator import socket_console
from compute.operator.socket_calls import Body, Method, bind, parse_json
from compute.operator.socket_file import SocketFile

LOG = logging.getLogger(__name__)

MAX_CALL = 1 << 20  # bytes in the body of a call
DRAIN = 4 << 20  # bytes that are read away after a refusal, so that the client sees why
MAX_HEAD = 64 << 10  # bytes in the request line and headers together
UPLOAD_METHOD = "image.create"


def method_table(*targets: object) -> dict[str, Method]:
    """The public methods of the targets' classes under their names on the socket.

    ``server_create`` becomes ``server.create``: the first underscore parts noun and verb; a name
    without one, such as ``explain``, stays. A later target wins over an earlier one.
    """
    return {
        name.replace("_", ".", 1): getattr(target, name)
        for target in targets
        for name in dir(type(target))
        if not name.startswith("_") and inspect.isfunction(getattr(type(target), name))
    }


class ControlSocket:
    """Serves a table of methods on a unix socket (mode 0660), one thread for each connection.

    :param path: where the socket file is made; ``path.lock`` beside it is locked while serving.
    :param methods: name to callable; keyword arguments in, JSON-able data out.
    :param health: called for ``GET /v1/health``; its items are added to ``status``.
    :param max_connections: further ones are answered 503 ``busy`` at once.
    :param idle_timeout: seconds without a byte from the client after which it is dropped.
    :param console: opens the serial console of a guest.
    """

    def __init__(
        self,
        path: str,
        methods: Mapping[str, Method],
        health: Callable[[], Mapping[str, Any]] | None = None,
        *,
        max_connections: int = 32,
        idle_timeout: float = 30.0,
        console: socket_console.Opener = socket_console.none_here,
    ):
        self.file = SocketFile(os.fspath(path))
        self.methods = methods
        self.health = health or dict
        self.idle_timeout = idle_timeout
        self.console = console
        self._slots = threading.BoundedSemaphore(max_connections)
        self._guard = threading.Lock()
        self._open: dict[socket.socket, bool] = {}  # connection: is a request being answered?
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.stopping = False

    def start(self) -> None:
        """Take the lock, make the socket file, and serve in the background.

        :raises Refused: ``socket_in_use`` when a live process has it, ``socket_unusable`` when
            the path cannot hold a socket. Nothing is changed then.
        """
        self._listener = self.file.listen()
        self._listener.settimeout(1.0)
        self._bell = socket.socketpair()  # shutdown() does not wake accept() with green threads
        self._thread = threading.Thread(target=self._accept, name="control-socket", daemon=True)
        self._thread.start()

    def stop(self, grace: float = 2.0) -> None:
        """Stop listening, let running requests finish for ``grace`` seconds, remove the file.

        The file is left alone when it is no longer the one made by :meth:`start`.
        """
        if self._listener is None:
            return
        self.stopping = True
        self._bell[1].send(b"!")
        if self._thread:
            self._thread.join(timeout=2.0)
        for one in (self._listener, *self._bell):
            one.close()
        self._listener = None
        deadline = time.monotonic() + grace
        while self._hang_up_idle() and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._guard:
            for connection in self._open:
                _hang_up(connection)
        self.file.remove()

    def mark(self, connection: socket.socket, busy: bool) -> None:
        """Note whether a request is being answered on the connection; idle ones end at a stop."""
        with self._guard:
            if connection in self._open:
                self._open[connection] = busy

    def _hang_up_idle(self) -> bool:
        with self._guard:
            for connection, busy in self._open.items():
                if not busy:
                    _hang_up(connection)
            return any(self._open.values())

    def _accept(self) -> None:
        listener, bell = self._listener, self._bell[0]
        while listener is not None and not self.stopping:
            ready, _, _ = select.select([listener, bell], [], [])
            if bell in ready:
                return
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue  # that client went away again
            except OSError as error:
                LOG.warning("The control socket could not accept a connection: %s", error)
                time.sleep(0.1)  # out of file descriptors, most likely: do not spin
                continue
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        if not self._slots.acquire(blocking=False):
            _turn_away(connection)
            return
        with self._guard:
            self._open[connection] = False
        threading.Thread(
            target=self._serve, args=(connection,), name="control-client", daemon=True
        ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            _Handler(connection, "", self)  # type: ignore[arg-type]
        except OSError as error:
            LOG.debug("A client of the control socket went away: %s", error)
        finally:
            with self._guard:
                self._open.pop(connection, None)
            connection.close()
            self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "magnetar", ""
    wbufsize = -1
    server: ControlSocket  # type: ignore[assignment]

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.idle_timeout)
        self._plain = self.rfile

    def handle_one_request(self) -> None:
        self.server.mark(self.connection, busy=False)
        self.rfile = _Head(  # type: ignore[assignment]
            self._plain, lambda: self.server.mark(self.connection, busy=True)
        )
        try:
            super().handle_one_request()
        except http.client.LineTooLong:
            self.requestline = self.command = ""
            self.request_version = self.protocol_version
            self.close_connection = True
            self.send_error(431, "the request line is too long")
        if self.server.stopping:
            self.close_connection = True

    def do_GET(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body here would be taken for the next request
        if self.path != "/v1/health":
            self._answer_error(_no_such_path(self.path))
            return
        self._run(lambda: {"status": "serving", **self.server.health()}, wrap=False)

    def do_POST(self) -> None:
        try:
            body = Body.of(self._plain, self.headers)
        except Refused as error:
            self.close_connection = True  # where the next request begins is not known
            self._answer_error(error)
            return
        if self.path == "/v1/call":
            self._run(lambda: self._call(body))
        elif self.path == "/v1/upload":
            self._run(lambda: self._upload(body))
        elif self.path == "/v1/console":
            self._console(body)
        else:
            self._answer_error(_no_such_path(self.path))
        self.wfile.flush()
        if not body.drain(DRAIN):
            self.close_connection = True

    def _call(self, body: Body) -> Any:
        request = parse_json(body.read_all(MAX_CALL), "The body of the call")
        unknown = set(request) - {"method", "args"}
        if unknown or not isinstance(request.get("method"), str):
            raise Refused(
                'A call needs {"method": NAME, "args": {…}}'
                + (f", and knows no {', '.join(sorted(unknown))}." if unknown else "."),
                now="Nothing was done.",
                next="Correct the body of the call.",
                code="bad_request",
            )
        return bind(self.server.methods, request["method"], request.get("args"))()

    def _upload(self, body: Body) -> Any:
        name = self.headers.get("X-Magnetar-Method", UPLOAD_METHOD)
        text = self.headers.get("X-Magnetar-Args", "{}")
        args = parse_json(text.encode("latin-1", "replace"), "The header X-Magnetar-Args")
        return bind(self.server.methods, name, args, stream=body)()

    def _console(self, body: Body) -> None:
        """Become a console, until it ends; what is wrong with that is answered before."""
        try:
            request = parse_json(body.read_all(MAX_CALL), "The body of the request")
            console = self.server.console(*socket_console.wanted(request))
        except MagnetarError as error:
            self._answer_error(error)
            return
        self.close_connection = True
        self.server.mark(self.connection, busy=False)  # a stopping agent does not wait for it
        with console:
            self.connection.sendall(socket_console.ANSWER)
            socket_console.carry(self.connection, console)

    def _run(self, work: Callable[[], Any], wrap: bool = True) -> None:
        begin = time.monotonic()
        try:
            result = work()
            status, payload = 200, json.dumps({"result": result} if wrap else result)
        except MagnetarError as error:
            status, payload = status_of(error), json.dumps({"error": error.to_dict()})
        except Exception as error:
            LOG.exception("%s %s met an error without a name", self.command, self.path)
            status, payload = 500, json.dumps({"error": _unforeseen(error).to_dict()})
        took = (time.monotonic() - begin) * 1000
        LOG.debug("%s %s: %d in %.1f ms", self.command, self.path, status, took)
        self._answer(status, payload)

    def _answer_error(self, error: MagnetarError) -> None:
        self._answer(status_of(error), json.dumps({"error": error.to_dict()}))

    def _answer(self, status: int, text: str) -> None:
        payload = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Called by the base class for what is not HTTP as we speak it."""
        self.close_connection = True
        what = f"The request is not understood: {message or explain or code}."
        error = Refused(what, now="Nothing was done.", next=_SPEAKS, code="bad_request")
        self._answer(int(code), json.dumps({"error": error.to_dict()}))

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: what matters is logged by :meth:`_run`."""


class _Head:
    """The reader of request line and headers: bounded, and tells when the first byte is there."""

    def __init__(self, plain: Any, began: Callable[[], None]):
        self._plain, self._began, self._left = plain, began, MAX_HEAD

    def readline(self, limit: int = -1) -> bytes:
        line = self._plain.readline(min(limit, self._left + 1) if limit >= 0 else self._left + 1)
        if self._left == MAX_HEAD:
            self._began()
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("header")
        return line

    def close(self) -> None:
        self._plain.close()


_SPEAKS = "POST /v1/call, POST /v1/upload and GET /v1/health are served here."
_NOT_FOUND = ("not_found", "unknown_method", "no_such_path")
_MALFORMED = ("bad_", "invalid_", "malformed_")


def status_of(error: MagnetarError) -> int:
    """The HTTP status for an error: by kind, and for refusals by code too."""
    if error.code == "internal":
        return 500
    if error.kind == "refused":
        if error.code.endswith(_NOT_FOUND):
            return 404
        malformed = error.code.startswith(_MALFORMED) and error.code != "bad_state"
        return 400 if malformed else 409
    return {"unknown": 504, "retryable": 503}.get(error.kind, 500)


def _unforeseen(error: Exception) -> Unknown:
    return Unknown(
        f"The agent met an error that it does not know: {type(error).__name__}: {error}",
        now="Whether anything was changed is not known.",
        next="Look with 'magnetar op list --all' and 'magnetar audit'; the agent's log has more.",
        code="internal",
    )


def _no_such_path(path: str) -> Refused:
    return Refused(
        f"There is no {path[:80]} on the control socket.",
        now="Nothing was done.",
        next=_SPEAKS,
        code="no_such_path",
    )


def _turn_away(connection: socket.socket) -> None:
    error = Retryable(
        "The control socket serves as many clients as it can.",
        now="Nothing was done.",
        next="Try again in a moment.",
        code="busy",
    )
    payload = json.dumps({"error": error.to_dict()}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    try:
        connection.settimeout(1.0)
        connection.sendall(head.encode() + payload)
    except OSError as error:
        LOG.debug("A client that was turned away is gone: %s", error)
    finally:
        connection.close()


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        LOG.debug("The other end was gone already: %s", error)
