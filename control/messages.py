"""What the control plane sends to agents: Nova's methods, arguments and versions, to the letter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import oslo_messaging

from compute.errors import MagnetarError, Refused, Retryable, from_dict
from compute.rpc.exceptions import from_remote
from compute.rpc.line import Line, tries
from compute.rpc.serializer import Context, ContextSerializer

LOG = logging.getLogger(__name__)
VERSION = "6.0"
VERSIONS = {"rebuild_instance": "6.2"}  # of methods whose arguments changed since
CAP = "6.5"


class Computes:
    """Casts and calls to the agents, each by its host."""

    def __init__(self, transport: Any, timeout: float, long_timeout: float = 1800.0):
        self._timeout, self._long = timeout, long_timeout
        self._line = Line()
        serializer = ContextSerializer()

        def client(topic: str) -> Any:
            target = oslo_messaging.Target(topic=topic, version=VERSION)
            return oslo_messaging.get_rpc_client(
                transport, target, serializer=serializer, timeout=timeout, version_cap=CAP,
                retry=tries(timeout),
            )

        self._compute, self._alt = client("compute"), client("compute-alt")
        own = oslo_messaging.Target(topic="compute", version="1.0", namespace="magnetar")
        self._own = oslo_messaging.get_rpc_client(
            transport, own, serializer=serializer, timeout=timeout, retry=tries(timeout)
        )

    def cast(self, context: Context, host: str, method: str, /, **args: Any) -> None:
        """Send a message and wait for nothing.

        :raises Retryable: code ``broker_unreachable``, when it was not sent.
        :raises Unknown: code ``broker_silent``, when that is not known.
        """
        self._cast(self._compute, context, host, method, args)

    def cast_alt(self, context: Context, host: str, method: str, /, **args: Any) -> None:
        """The same to the topic that a stopping agent still serves."""
        self._cast(self._alt, context, host, method, args)

    def _cast(self, client: Any, context: Context, host: str, method: str,
              args: Mapping[str, Any]) -> None:
        prepared = client.prepare(server=host, version=VERSIONS.get(method, VERSION))
        try:
            self._line.say(f"send {method} to host {host}", self._timeout,
                           lambda: prepared.cast(context, method, **args))
        except Exception as error:  # noqa: BLE001 - translated, never swallowed
            told = from_remote(error, f"send {method} to host {host}")
            if told.code != "broker_unreachable" \
                    and not isinstance(error, oslo_messaging.MessagingException):
                raise told from error
            raise Retryable(
                f"The message {method} could not be given to the broker for host {host}: {error}.",
                now="Nothing was begun.",
                next="Try again when the message broker answers.",
                code="broker_unreachable",
            ) from error

    def call(self, context: Context, host: str, method: str, /, **args: Any) -> Any:
        """Ask a host and wait for its answer.

        :raises MagnetarError: what it answered with; Unknown when no answer came.
        """
        return self._call(self._compute.prepare(server=host), context, host, method, args)

    def call_long(self, context: Context, host: str, method: str, /, **args: Any) -> Any:
        """The same where an answer may take long: the host tells from time to time that it is at
        it, and when that stops, the outcome counts as unknown."""
        client = self._compute.prepare(
            server=host, timeout=max(self._long, self._timeout),
            call_monitor_timeout=max(int(self._timeout), 1),
        )
        return self._call(client, context, host, method, args)

    def call_own(self, context: Context, host: str, method: str, /, **args: Any) -> Any:
        """Ask a host something of our namespace ``magnetar``: it answers ``{"result": …}``, or
        ``{"error": …}`` with one of our errors, which is raised."""
        answer = self._call(self._own.prepare(server=host), context, host, method, args)
        if answer.get("error"):
            raise from_dict(answer["error"])
        return answer["result"]

    def _call(self, client: Any, context: Context, host: str, method: str,
              args: Mapping[str, Any]) -> Any:
        doing = f"{method.replace('_', ' ')} on host {host}"
        try:
            return self._line.say(doing, client.timeout,
                                  lambda: client.call(context, method, **args))
        except Exception as error:  # noqa: BLE001 - translated, never swallowed
            raise remote(error, doing) from error


def remote(error: Exception, doing: str) -> MagnetarError:
    """What a call to a host raised, as one of our kinds; a plain refusal stays one."""
    name = getattr(error, "exc_type", type(error).__name__)
    text = str(getattr(error, "value", error))
    if name == "Refused" and not isinstance(error, MagnetarError):
        return Refused(text)
    if name == "NotImplementedError":
        return Refused(f"The host cannot {doing}.", now="Nothing was done.", code="not_supported")
    return from_remote(error, doing)


def everywhere(
    computes: Computes, context: Context, hosts: list[str], method: str,
    undo: Callable[[str], None] | None = None, **args: Any,
) -> None:
    """Ask hosts one after the other; if one refuses, ``undo`` for those that did it, it included.

    :raises MagnetarError: the first error.
    """
    asked: list[str] = []
    for host in hosts:
        asked.append(host)
        try:
            computes.call_own(context, host, method, **args)
        except MagnetarError:
            if undo is not None:
                _undo(undo, asked)
            raise


def _undo(undo: Callable[[str], None], hosts: list[str]) -> None:
    for host in hosts:
        try:
            undo(host)
        except MagnetarError as error:
            LOG.warning("Undoing it on host %s did not work: %s", host, error)
