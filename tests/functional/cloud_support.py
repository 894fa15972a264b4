"""A cloud's services on a local HTTP server: they record what they are asked, and answer as they
were told, in the form that OpenStack's API documentation gives."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fixtures
from oslo_config import cfg

from compute import conf as configuration

SERVICE_PROJECT, TENANT = "a" * 32, "b" * 32
TOKEN = "token-of-the-agent"
# Why the tests of two services run in one mode.
HTTP = "requests go the same way as Cinder's and Glance's, whose tests run in both"
SILENCE, RESET = "silence", "reset"
TYPES = {"volumev3": f"/volume/v3/{SERVICE_PROJECT}", "image": "/image", "network": "/network",
         "placement": "/placement"}


@dataclass
class Asked:
    """One request. ``path`` begins after the service's own address."""

    method: str
    service: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any
    raw: bytes = b""
    target: str = ""  # the whole path

    def header(self, name: str) -> str | None:
        """A header, whatever the case of its name."""
        return next((value for key, value in self.headers.items()
                     if key.lower() == name.lower()), None)


@dataclass
class _Route:
    method: str
    path: re.Pattern
    answers: list[Any] = field(default_factory=list)


class Cloud(fixtures.Fixture):
    """``asked`` holds the requests to the services; ``when`` says what they answer."""

    def _setUp(self) -> None:
        self.asked: list[Asked] = []
        self.tokens = 0
        self.identity: Any = None  # what the identity service answers instead of a token
        self._routes: list[_Route] = []
        self._over = threading.Event()
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                with contextlib.suppress(ConnectionError):  # who asked has hung up
                    cloud._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.addCleanup(self._server.server_close)
        self.addCleanup(self._server.shutdown)
        self.addCleanup(self._over.set)

    def when(self, method: str, path: str, *answers: Any) -> None:
        """What the services answer, one after another, the last one for ever: (status, body
        [, headers]), a function of the request, SILENCE or RESET. ``path`` is a pattern."""
        self._routes.insert(0, _Route(method, re.compile(path + r"\Z"), list(answers)))

    def of(self, method: str, path: str = ".*") -> list[Asked]:
        """The requests of a kind."""
        return [a for a in self.asked if a.method == method and re.fullmatch(path, a.path)]

    # -- serving -----------------------------------------------------------------------------------

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        raw = self._body(handler)
        parts = urlsplit(handler.path)
        if parts.path.startswith("/identity"):
            self._identity(handler)
            return
        service, path = self._service(parts.path)
        kind = handler.headers.get("Content-Type") or ""
        body = json.loads(raw) if raw and "json" in kind else None
        asked = Asked(handler.command, service, path, parse_qs(parts.query),
                      dict(handler.headers), body, raw, parts.path)
        self.asked.append(asked)
        route = next((r for r in self._routes
                      if r.method == asked.method and r.path.match(path)), None)
        answer: Any = (404, {"itemNotFound": {"message": f"{path} could not be found."}})
        if route is not None:
            answer = route.answers.pop(0) if len(route.answers) > 1 else route.answers[0]
        if callable(answer):
            answer = answer(asked)
        if answer == SILENCE:
            self._over.wait(30)
            handler.close_connection = True
        elif answer == RESET:
            handler.close_connection = True
        else:
            self._send(handler, *answer)

    @staticmethod
    def _body(handler: BaseHTTPRequestHandler) -> bytes:
        if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        found = b""
        while size := int(handler.rfile.readline().strip() or b"0", 16):
            found += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return found

    @staticmethod
    def _service(path: str) -> tuple[str, str]:
        for kind in TYPES:
            prefix = "/volume" if kind == "volumev3" else TYPES[kind]
            if path.startswith(prefix):
                rest = path[len(prefix):]
                if kind == "volumev3":
                    rest = re.sub(r"^/v3/\w{32}", "", rest)
                return kind, rest
        return "", path

    def _identity(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "GET":
            self._send(handler, 200, {"version": {
                "id": "v3.14", "status": "stable",
                "links": [{"rel": "self", "href": f"{self.url}/identity/v3/"}]}})
            return
        if self.identity is not None:
            self._send(handler, *self.identity)
            return
        self.tokens += 1
        catalog = [{"type": kind, "name": kind, "id": kind, "endpoints": [
            {"interface": interface, "region": "one", "region_id": "one", "id": interface,
             "url": self.url + path} for interface in ("public", "internal")]}
            for kind, path in TYPES.items()]
        self._send(handler, 201, {"token": {
            "expires_at": "2999-01-01T00:00:00.000000Z", "issued_at": "2026-01-01T00:00:00.000000Z",
            "methods": ["password"], "catalog": catalog, "roles": [{"id": "r", "name": "service"}],
            "project": {"id": SERVICE_PROJECT, "name": "service",
                        "domain": {"id": "default", "name": "Default"}},
            "user": {"id": "u", "name": "nova", "domain": {"id": "default", "name": "Default"}},
        }}, {"X-Subject-Token": TOKEN})

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, body: Any = None,
              headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None \
            else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)),
                            **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    # -- configuration -----------------------------------------------------------------------------

    def configured(self, *groups: str, **values: Any) -> cfg.ConfigOpts:
        """A configuration of an agent of this cloud; ``values`` are options as ``group__name``."""
        from compute.services import rest

        conf = cfg.ConfigOpts()
        configuration.register(conf)
        conf([], default_config_files=[])
        for group in groups:
            rest.register(conf, group)
            conf.set_override("auth_type", "password", group)
            conf.set_override("timeout", 1, group)
        from keystoneauth1 import loading

        for group in groups:
            conf.register_opts(loading.get_auth_plugin_conf_options("password"), group=group)
            for name, value in (("auth_url", f"{self.url}/identity"), ("username", "nova"),
                                ("password", "p"), ("project_name", "service"),
                                ("user_domain_name", "Default"),
                                ("project_domain_name", "Default")):
                conf.set_override(name, value, group)
        for name, value in values.items():
            group, _, option = name.rpartition("__")
            conf.set_override(option, value, group or None)
        return conf


Answer = Callable[[Asked], tuple]
