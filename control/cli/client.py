"""The other end of the control socket, for the CLI. Only the standard library is imported."""

from __future__ import annotations

import configparser
import http.client
import json
import os
import re
import socket
import string
from collections.abc import Callable, Iterator
from typing import IO, Any

from compute.errors import Failed, MagnetarError, Refused, Retryable, Unknown, from_dict

STATE_PATH = "/var/lib/magnetar"  # as [DEFAULT] state_path; a test compares the two
SOCKET = "$state_path/control.sock"
CONFIG_FILES = ("/etc/magnetar/magnetar.conf", "/etc/magnetar.conf")
PIECE = 256 << 10


def socket_path(given: str | None, config_file: str | None) -> str:
    """Where the control socket is.

    In this order: ``given`` (--socket), $MAGNETAR_SOCKET, the configuration file named by
    ``config_file`` or $MAGNETAR_CONFIG, the one in /etc, the default.

    :raises Refused: when a configuration file was named and cannot be read.
    """
    path = given or os.environ.get("MAGNETAR_SOCKET")
    if path:
        return path
    named = config_file or os.environ.get("MAGNETAR_CONFIG")
    options: dict[str, str] = {}
    for candidate in [named] if named else CONFIG_FILES:
        if named or os.access(candidate, os.R_OK):
            options = _defaults_of(candidate)
            break
    values = {"state_path": options.get("state_path", STATE_PATH)}
    return string.Template(options.get("socket", SOCKET)).safe_substitute(values)


def _defaults_of(path: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise Refused(
            f"The configuration file {path} cannot be read: {error}.",
            now="Nothing was done.",
            next="Name another with --config-file, or the socket itself with --socket.",
            code="bad_config",
        ) from error
    return {key: value.strip("\"' ") for key, value in parser.defaults().items() if value}


class Client:
    """Calls methods of the agent over its control socket; the connection is kept between calls.

    :param path: of the control socket.
    :param timeout: seconds to wait for an answer; after it the outcome is :class:`Unknown`.
    """

    def __init__(self, path: str, timeout: float = 60.0):
        self.path, self.timeout = path, timeout
        self._connection: _UnixConnection | None = None

    def call(self, method: str, **args: Any) -> Any:
        """The result of a method. Arguments that are None are left to the method's default.

        :raises MagnetarError: of the kind that the agent answered; Refused ``no_agent`` when no
            agent listens; Unknown when the answer did not come.
        """
        body = json.dumps({"method": method, "args": _given(args)}).encode()
        return self._exchange("/v1/call", body, {"Content-Type": "application/json"})["result"]

    def upload(
        self,
        method: str,
        file: IO[bytes],
        size: int | None,
        progress: Callable[[int], object],
        **args: Any,
    ) -> Any:
        """The result of a method that takes the bytes of a file.

        :param size: number of bytes, None when it cannot be known (a pipe).
        :param progress: called with the number of bytes sent since its last call.
        """
        headers = {"X-Magnetar-Method": method, "X-Magnetar-Args": json.dumps(_given(args))}
        if size is not None:
            headers["Content-Length"] = str(size)
        pieces = _pieces(file, size, progress)
        return self._exchange("/v1/upload", pieces, headers)["result"]

    def health(self) -> dict[str, Any]:
        """What ``GET /v1/health`` says: status, and what the agent adds to it."""
        return self._exchange("/v1/health", None, {})

    def console(self, guest: str, force: bool = False) -> socket.socket:
        """A guest's serial console: what it writes can be read, what is sent is typed."""
        connection = _UnixConnection(self.path, self.timeout)
        try:
            connection.connect()
        except OSError as error:
            raise _cannot_reach(self.path, error) from error
        sock, body = connection.sock, json.dumps({"guest": guest, "force": force}).encode()
        assert sock is not None
        try:
            sock.sendall(b"POST /v1/console HTTP/1.1\r\nHost: localhost\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(body) + body)
            head = _head(sock)
            if b" 101 " not in head.split(b"\r\n")[0]:
                answer = sock.makefile("rb").read(int(_LENGTH.findall(head)[0]))
                raise from_dict(json.loads(answer)["error"])
        except (OSError, ValueError, LookupError) as error:
            sock.close()
            raise self._no_answer(error) from error
        except MagnetarError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, target: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
        kept = self._connection is not None
        connection = self._connect()
        try:
            response = self._send(connection, target, body, headers)
            data = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            # A kept connection that was closed before we wrote took no request: once more.
            if kept and isinstance(error, BrokenPipeError) and isinstance(body, bytes | None):
                return self._exchange(target, body, headers)
            raise self._no_answer(error) from error
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        if not isinstance(data, dict) or not {"result", "status", "error"} & set(data):
            raise self._no_answer(ValueError("this is not the answer of an agent"))
        if "error" in data:
            raise from_dict(data["error"])
        return data

    def _connect(self) -> _UnixConnection:
        if self._connection is None:
            connection = _UnixConnection(self.path, self.timeout)
            try:
                connection.connect()
            except OSError as error:
                raise _cannot_reach(self.path, error) from error
            self._connection = connection
        return self._connection

    def _send(
        self, connection: _UnixConnection, target: str, body: Any, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        chunked = body is not None and not isinstance(body, bytes)
        chunked = chunked and "Content-Length" not in headers
        if chunked:
            headers = {**headers, "Transfer-Encoding": "chunked"}
        method = "GET" if body is None else "POST"
        try:
            connection.request(method, target, body, headers, encode_chunked=chunked)
        except (BrokenPipeError, ConnectionResetError):
            if isinstance(body, bytes | None):
                raise
            # An upload that is refused is answered before it was all sent: read why.
        return connection.getresponse()

    def _no_answer(self, error: Exception) -> MagnetarError:
        why = f"no answer within {self.timeout:.0f} s" if isinstance(error, TimeoutError) else error
        return Unknown(
            f"The agent at {self.path} did not answer properly: {why or type(error).__name__}.",
            now="Whether the request was carried out is not known.",
            next="Look with 'magnetar op list --all' before repeating it.",
            code="no_answer",
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        if self.sock is not None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


_LENGTH = re.compile(rb"Content-Length: (\d+)")


def _head(sock: socket.socket) -> bytes:
    """The head of an answer, and not a byte more: what follows may be a guest's."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionResetError("the connection was closed")
        head += byte
    return head


def _given(args: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if value is not None}


def _pieces(
    file: IO[bytes], size: int | None, progress: Callable[[int], object]
) -> Iterator[bytes]:
    left = size
    while left is None or left > 0:
        piece = file.read(PIECE if left is None else min(PIECE, left))
        if not piece:
            break
        if left is not None:
            left -= len(piece)
        yield piece
        progress(len(piece))
    if left:
        raise Failed(
            f"The file became {left} bytes shorter while it was sent.",
            now="The upload was broken off; nothing of it is kept.",
            next="Send it again once nobody writes to it.",
            code="upload_cut",
        )


_NAMING = "name another socket with --socket PATH or MAGNETAR_SOCKET"


def _cannot_reach(path: str, error: OSError) -> MagnetarError:
    if isinstance(error, PermissionError):
        return Refused(
            f"The control socket {path} may not be used by this user.",
            now="Nothing was done.",
            next="Run the command as root or as a member of the socket's group.",
            code="not_allowed",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        absent = not isinstance(error, ConnectionRefusedError)
        why = "is not there" if absent else "is there, but nobody listens on it"
        return Refused(
            f"No agent seems to run: the control socket {path} {why}.",
            now="Nothing was done.",
            next=f"Start one with 'magnetar up', or {_NAMING}.",
            code="no_agent",
        )
    if isinstance(error, BlockingIOError | TimeoutError):
        return Retryable(
            f"The agent at {path} has more clients than it can take at the moment.",
            now="Nothing was done.",
            next="Try again in a moment.",
            code="busy",
        )
    return Refused(
        f"The control socket {path} cannot be used: {error.strerror or error}.",
        now="Nothing was done.",
        next=f"Check the path, or {_NAMING}.",
        code="no_agent",
    )
