"""Client of other hosts' agents: the methods of the compute RPC API that agents call of each other.

Which topic each goes to is Nova's choice, as captured: those that finish what was begun come on
``compute-alt``, so that a host that takes no new work still ends its moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import oslo_messaging as messaging

from compute.engine.world import Context, PeerView
from compute.errors import Refused, from_dict
from compute.model.guest import GuestState
from compute.rpc.exceptions import from_remote
from compute.rpc.line import Line, tries

PRIMARY = frozenset({"check_can_live_migrate_source", "prep_resize"})
LONG_SECONDS, SIGN_OF_LIFE = 1800, 60  # Nova's long_rpc_timeout, and how often it is renewed
LOOK_SECONDS = 10
CAST_SECONDS = 30


class PeerClient:
    """See compute.engine.world.Peers for what each method may raise."""

    def __init__(self, transport: Any, serializer: Any):
        def client(topic: str) -> Any:
            return messaging.get_rpc_client(
                transport, messaging.Target(topic=topic, version="6.0"), serializer=serializer,
                timeout=LONG_SECONDS, call_monitor_timeout=SIGN_OF_LIFE,
                retry=tries(CAST_SECONDS))

        self._primary, self._alternative = client("compute"), client("compute-alt")
        self.calls = 0
        self._line = Line()

    def _client(self, host: str, method: str) -> Any:
        self.calls += 1
        client = self._primary if method in PRIMARY else self._alternative
        return client.prepare(server=host)

    def call(self, context: Context, host: str, method: str, **args: Any) -> Any:
        """Call a method on a host's agent. It may take long; the host gives signs of life."""
        client, doing = self._client(host, method), f"{method} on host {host}"
        try:
            return self._line.say(doing, LONG_SECONDS,
                                  lambda: client.call(context, method, **args))
        except Exception as error:  # noqa: BLE001 - translated, never swallowed
            raise from_remote(error, doing) from error

    def cast(self, context: Context, host: str, method: str, **args: Any) -> None:
        """Send a message to a host's agent."""
        client, doing = self._client(host, method), f"{method} on host {host}"
        try:
            self._line.say(doing, CAST_SECONDS, lambda: client.cast(context, method, **args))
        except Exception as error:  # noqa: BLE001 - translated, never swallowed
            raise from_remote(error, doing) from error

    def look(self, host: str, guest: str) -> PeerView:
        """What a host's agent sees of a guest.

        :raises Refused: code ``no_peer``: the agent there is not one of ours.
        """
        return view(host, self.ask(host, "peer_look", guest=guest))

    def ask(self, host: str, method: str, *, seconds: int = LOOK_SECONDS, **args: Any) -> Any:
        """Call a method of our namespace ``magnetar`` 1.0 on a host's agent.

        :raises Refused: code ``no_peer``: the agent there is not one of ours.
        """
        client = self._primary.prepare(
            server=host, namespace="magnetar", version="1.0", timeout=seconds,
            call_monitor_timeout=None, retry=tries(seconds))
        self.calls += 1
        try:
            answer = self._line.say(f"{method} on host {host}", seconds,
                                    lambda: client.call({"is_admin": True}, method, **args))
        except Exception as error:  # noqa: BLE001 - translated, never swallowed
            found = from_remote(error, f"{method} on host {host}")
            if "UnsupportedVersion" in found.what or "NoSuchMethod" in found.what:
                raise Refused(f"The agent of host {host} is none of ours and cannot be asked "
                              f"for {method}.", code="no_peer") from error
            raise found from error
        if "error" in answer:
            raise from_dict(answer["error"])
        return answer["result"]


def view(host: str, plain: Mapping[str, Any]) -> PeerView:
    """A PeerView from what ``peer_look`` answers."""
    domain = plain.get("domain")
    return PeerView(host=host, domain=GuestState(**domain) if domain else None,
                    disks=bool(plain.get("disks")), aside=bool(plain.get("aside")),
                    operations=tuple(plain.get("operations") or ()))
