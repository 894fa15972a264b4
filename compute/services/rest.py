"""Talking to OpenStack's services over HTTP, by keystoneauth1: credentials, retries, errors.

A request that was not sent is sent again. One that was sent and not answered is sent again only if
that does no harm; else its outcome is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import requests
import urllib3
from keystoneauth1 import adapter, loading
from keystoneauth1 import exceptions as failures
from keystoneauth1.service_token import ServiceTokenAuthWrapper
from keystoneauth1.session import Session

from compute.errors import MagnetarError, NeedsOperator, Refused, Retryable, Unknown

TIMEOUT = 60  # seconds without a byte of an answer
HARMLESS = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # twice is once
PAUSE = 0.5  # seconds before the first retry; doubled for each further one
GONE = (404, 410)
OVERLOADED = (413, 429, 503)
UNCLEAR = (500, 502, 504)
_NOT_SENT = (requests.exceptions.ConnectTimeout, urllib3.exceptions.NewConnectionError,
             urllib3.exceptions.ConnectTimeoutError, ConnectionRefusedError)


class Missing(Exception):
    """The service knows no such thing. The adapters say what it is."""


def register(conf: Any, group: str) -> None:
    """Register keystoneauth1's options in a group: how to authenticate, time limits, TLS, where the
    service is."""
    loading.register_auth_conf_options(conf, group)
    loading.register_session_conf_options(conf, group)
    loading.register_adapter_conf_options(conf, group, include_deprecated=False)
    conf.set_default("timeout", TIMEOUT, group=group)


class Rest:
    """One service.

    :param name: for messages: "the volume service".
    :param retries: how often a request is sent again.
    :param prefix: of all paths, unless the service's address in the catalog ends with it.
    :param service_token: show also that it is a service which asks.
    :param adapted: further arguments of keystoneauth1's Adapter, over what ``group`` says.
    :raises NeedsOperator: code ``not_configured``.
    """

    def __init__(self, conf: Any, group: str, name: str, retries: int, prefix: str = "",
                 service_token: bool = False, **adapted: Any):
        register(conf, group)
        self.name, self.group, self.retries, self.prefix = name, group, retries, prefix
        try:
            auth = loading.load_auth_from_conf_options(conf, group)
            if auth is None:
                raise failures.OptionError("auth_type is not set")
            if service_token:
                auth = ServiceTokenAuthWrapper(user_auth=auth, service_auth=auth)
            session = loading.load_session_from_conf_options(conf, group, auth=auth)
            self.adapter: adapter.Adapter = loading.load_adapter_from_conf_options(
                conf, group, session=session,
                **{key: value for key, value in adapted.items() if value is not None})
        except (failures.ClientException, TypeError, ValueError) as error:
            raise NeedsOperator(
                f"How to reach {name} is not configured: {error}.",
                now="The agent did not start; guests keep running.",
                next=f"Set auth_type, auth_url and so on in [{group}], as for Nova.",
                code="not_configured") from error

    @property
    def session(self) -> Session:
        """keystoneauth1's session."""
        return self.adapter.session

    def call(self, method: str, path: str, doing: str, body: Any = None,
             **more: Any) -> Any:
        """The JSON of an answer, None for an empty one; see :meth:`send`."""
        answer = self.send(method, path, doing, json=body, **more)
        return answer.json() if answer.content else None

    def send(self, method: str, path: str, doing: str, once: bool = False,
             accept: Collection[int] = (), **more: Any) -> requests.Response:
        """The answer to a request.

        :param doing: for messages: "attach volume …".
        :param accept: further statuses that are an answer.
        :param once: send it again only if it did not reach the service.
        :param more: arguments of keystoneauth1's ``Adapter.request``.
        :raises Missing: status 404.
        :raises Refused: code ``service_refused``: the service said no.
        :raises Retryable: code ``service_unreachable``: it was not done, and may be later.
        :raises Unknown: code ``service_silent``: it may have been done.
        """
        left, pause = self.retries, PAUSE
        harmless = method in HARMLESS and not once
        while True:
            try:
                return self._once(method, path, doing, accept, more)
            except Retryable:
                if not left:
                    raise
            except Unknown:
                if not left or not harmless:
                    raise
            left -= 1
            time.sleep(pause)
            pause *= 2

    def _once(self, method: str, path: str, doing: str, accept: Collection[int],
              more: Mapping[str, Any]) -> requests.Response:
        try:
            given = {name: value for name, value in more.items() if value is not None}
            answer = self.adapter.request(self._full(path), method, raise_exc=False, **given)
        except failures.ClientException as error:
            raise self._failure(error, method, doing) from error
        if answer.status_code < 400 or answer.status_code in accept:
            return answer
        if answer.status_code in GONE:
            raise Missing(reason_of(answer))
        raise self._status(answer, method, doing)

    def _full(self, path: str) -> str:
        base = self.adapter.get_endpoint() if self.prefix else None
        return path if base and base.rstrip("/").endswith(self.prefix) else self.prefix + path

    def _failure(self, error: Exception, method: str, doing: str) -> MagnetarError:
        """Why no answer came."""
        if isinstance(error, failures.HttpError):  # of the identity service
            if error.http_status < 500:
                return Refused(
                    f"The identity service gives the agent no token to {doing}: {error}.",
                    now="Nothing was done.", code="service_refused",
                    next=f"Correct the credentials in [{self.group}].")
            return self._unreachable(doing, error)
        if isinstance(error, failures.CatalogException):
            return Refused(f"The catalog has no address of {self.name}: {error}.",
                           now="Nothing was done.",
                           next=f"Correct region and interface in [{self.group}], or set "
                           "endpoint_override.", code="service_refused")
        if method != "GET" and _was_sent(error):
            return self._silent(doing, error)
        return self._unreachable(doing, error)

    def _status(self, answer: requests.Response, method: str, doing: str) -> MagnetarError:
        told = f"{answer.status_code} {reason_of(answer)}"
        if answer.status_code in OVERLOADED or (
                method == "GET" and answer.status_code in UNCLEAR):
            return self._unreachable(doing, told)
        if answer.status_code >= 500:
            return self._silent(doing, told)
        return Refused(f"{self.name.capitalize()} refused to {doing}: {told}.",
                       now="Nothing was done.", code="service_refused",
                       next="Correct what it names; its own log may tell more.")

    def _unreachable(self, doing: str, why: Any) -> Retryable:
        return Retryable(f"{self.name.capitalize()} cannot be asked to {doing} now: {why}.",
                         now="Nothing was done.", next="It is tried again.",
                         code="service_unreachable")

    def _silent(self, doing: str, why: Any) -> Unknown:
        return Unknown(f"Asked to {doing}, {self.name} did not say whether it did: {why}.",
                       next="What is true is looked for before anything else is done.",
                       code="service_silent")


def _was_sent(error: BaseException | None) -> bool:
    """Whether a request may have reached the service, when no answer came."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        reasons: list[Any] = [error, *error.args]
        reasons += [getattr(reason, "reason", None) for reason in reasons]
        if any(isinstance(reason, _NOT_SENT) for reason in reasons):
            return False
        error = error.__cause__ or error.__context__
    return True


def reason_of(answer: requests.Response) -> str:
    """The sentence in the body of an error: services wrap it in one key or another, Neutron with
    the name of its exception."""
    try:
        found = answer.json()
    except ValueError:
        return answer.reason or ""
    if isinstance(found, dict) and isinstance(own := found.get("NeutronError"), dict):
        return f"{own.get('type')}: {str(own.get('message')).rstrip('.')}"
    for _ in range(3):
        if isinstance(found, list) and found:
            found = found[0]
        elif isinstance(found, dict) and found:
            found = next((found[key] for key in ("message", "detail", "title") if key in found),
                         next(iter(found.values())))
    return str(found or "")[:500].strip().rstrip(".") or answer.reason or ""
