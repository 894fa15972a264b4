"""Agents that talk with each other in one process, over an exchange that may lose what they say.

Casts to an agent that is down wait for it, as in a broker's queue. What is said is plain data, and
errors pass the same translation as on the wire.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from compute.errors import MagnetarError, Refused, Retryable, Unknown
from compute.manager import Manager
from compute.operator.moves import MoveVerbs
from compute.recovery.reconcile import Reconciler
from compute.rpc.contract import METHODS
from compute.rpc.exceptions import from_remote, to_nova
from compute.rpc.peer import LOOK_SECONDS, SIGN_OF_LIFE, view
from compute.rpc.server import Handlers

LOG = logging.getLogger(__name__)
Verbs = Mapping[str, Callable[..., Any]]


class Exchange:
    """Who listens, and what is on its way.

    ``loses(host, method)`` says whether a cast is lost; ``cut`` holds pairs of hosts, as
    frozensets, between which nothing passes. ``carry(host, work, seconds)`` lets an agent work for
    a caller that waits and notices within so many seconds that it is dead, ``post(host, work)``
    for one that does not wait; at first both are the caller's thread.
    """

    def __init__(self) -> None:
        self.agents: dict[str, tuple[Handlers, Verbs]] = {}
        self.waiting: dict[str, list[tuple[dict, str, dict]]] = {}
        self.loses: Callable[[str, str], bool] = lambda host, method: False
        self.cut: set[frozenset[str]] = set()
        self.carry: Callable[[str, Callable[[], Any], float], Any] = \
            lambda host, work, seconds: work()
        self.post: Callable[[str, Callable[[], Any]], Any] = lambda host, work: work()

    def join(self, host: str, manager: Manager, verbs: Verbs | None = None) -> None:
        """An agent begins to listen; it gets what waited for it.

        :param verbs: its operator's verbs besides those about moves.
        """
        moves = MoveVerbs(Reconciler(manager, {}))
        own = {name: getattr(moves, name) for name in dir(moves) if not name.startswith("_")}
        self.agents[host] = Handlers(manager), {**own, **(verbs or {})}
        for message in self.waiting.pop(host, []):
            self.cast(host, *message)

    def leave(self, host: str) -> None:
        """An agent is gone."""
        self.agents.pop(host, None)

    def agent(self, sender: str, host: str) -> tuple[Handlers, Verbs]:
        """Who answers. Raises Retryable when nobody listens, Unknown when nothing passes."""
        if frozenset({sender, host}) in self.cut:
            raise Unknown(f"No answer came from host {host}.", code="rpc_timeout")
        if host not in self.agents:
            raise Retryable(f"Nobody listens on host {host}.", code="broker_unreachable")
        return self.agents[host]

    def cast(self, host: str, context: dict, method: str, args: dict) -> None:
        """Bring a cast to an agent, or keep it until that is there."""
        if host in self.agents:
            self.post(host, lambda: self.deliver(host, context, method, args))
        else:
            self.waiting.setdefault(host, []).append((context, method, args))

    def deliver(self, host: str, context: dict, method: str, args: dict) -> None:
        """Hand a cast to an agent; nobody hears of its error but the log."""
        handlers, _ = self.agents[host]
        try:
            serve(handlers, context, method, args)
        except (MagnetarError, NotImplementedError) as error:
            LOG.info("%s on %s: %s", method, host, error)


def serve(handlers: Handlers, context: dict, method: str, args: dict) -> Any:
    """What an agent does with a message."""
    METHODS[method].check(args)
    METHODS[method].check_types(args)
    own = getattr(handlers, method, None)
    return own(context, args) if own else handlers.unsupported(METHODS[method], context, args)


def plain(value: Any) -> Any:
    """As it comes out at the other end of a wire."""
    return json.loads(json.dumps(value))


class FakePeers:
    """One agent's way to the others; see compute.engine.world.Peers.

    :param hook: called with each method and ``before`` or ``after``; raises to make it fail.
    """

    def __init__(self, exchange: Exchange, host: str,
                 hook: Callable[[str, str], None] | None = None):
        self.exchange, self.host = exchange, host
        self.hook = hook or (lambda method, when: None)
        self.calls: list[tuple[str, str]] = []  # (host, method)

    def _around(self, host: str, method: str, work: Callable[[], Any]) -> Any:
        self.calls.append((host, method))
        self.hook(method, "before")
        result = work()
        self.hook(method, "after")
        return result

    def call(self, context: Mapping[str, Any], host: str, method: str, **args: Any) -> Any:
        def work() -> Any:
            handlers, _ = self.exchange.agent(self.host, host)
            given = plain(dict(context)), method, plain(args)
            try:
                return plain(self.exchange.carry(
                    host, lambda: serve(handlers, *given), SIGN_OF_LIFE))
            except (MagnetarError, NotImplementedError) as error:
                raised = to_nova(error) if isinstance(error, MagnetarError) else error
                raise from_remote(raised, f"{method} on host {host}") from error
        return self._around(host, method, work)

    def cast(self, context: Mapping[str, Any], host: str, method: str, **args: Any) -> None:
        message = plain(dict(context)), method, plain(args)

        def work() -> None:
            away = frozenset({self.host, host}) in self.exchange.cut
            if not away and not self.exchange.loses(host, method):
                self.exchange.cast(host, *message)
        self._around(host, method, work)

    def ask(self, host: str, method: str, *, seconds: float = LOOK_SECONDS, **args: Any) -> Any:
        given = plain(args)

        def work() -> Any:
            _, verbs = self.exchange.agent(self.host, host)
            if method not in verbs:
                raise Refused(f"The agent of host {host} cannot be asked for {method}.",
                              code="no_peer")
            return plain(self.exchange.carry(host, lambda: verbs[method](**given), seconds))
        return self._around(host, method, work)

    def look(self, host: str, guest: str) -> Any:
        return view(host, self.ask(host, "peer_look", guest=guest))
