"""An oslo.messaging driver for one process: ``transport_url = inproc://``.

For the embedded control plane. Like oslo.messaging's ``fake://`` it carries messages in memory, but
a listener sleeps until there is one: ``fake://`` looks every 50 ms, which costs each call as much
and the idle process its sleep. A message is carried as JSON, so that nothing is shared; it waits
while nobody listens, as in a broker's queue.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from typing import Any

import oslo_messaging
from oslo_messaging._drivers import base
from oslo_serialization import jsonutils

Address = tuple[str, str, str | None]  # exchange, topic, server


class _Message(base.RpcIncomingMessage):
    """One message, and where its answer goes."""

    def __init__(self, context: dict, message: dict, answers: queue.Queue | None):
        super().__init__(context, message)
        self._answers = answers

    def reply(self, reply: Any = None, failure: Any = None) -> None:
        if self._answers is not None:
            self._answers.put((reply, failure[1] if failure else None))

    def acknowledge(self) -> None:
        """Nothing to do: it left its queue when it was read."""

    def requeue(self) -> None:
        raise NotImplementedError("a message is not given back within one process")

    def heartbeat(self) -> None:
        """Nobody waits in another process."""


class _Queues:
    """Messages by address; the condition tells of new ones."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._waiting: dict[Address, deque] = {}

    def put(self, addresses: list[Address], message: _Message) -> None:
        with self.changed:
            for address in addresses:
                self._waiting.setdefault(address, deque()).append(message)
            self.changed.notify_all()

    def take(self, addresses: list[Address]) -> _Message | None:
        """The next message for one of the addresses. Called with the condition held."""
        for address in addresses:
            if self._waiting.get(address):
                return self._waiting[address].popleft()
        return None

    def servers(self, exchange: str, topic: str) -> list[Address]:
        return [a for a in list(self._waiting) if a[:2] == (exchange, topic) and a[2] is not None]

    def open(self, address: Address) -> None:
        with self.changed:
            self._waiting.setdefault(address, deque())


class _Listener(base.PollStyleListener):
    """Takes messages of one server and of its topic."""

    def __init__(self, queues: _Queues, addresses: list[Address]):
        super().__init__()
        self._queues, self._addresses, self._stopped = queues, addresses, False

    @base.batch_poll_helper
    def poll(self, timeout: float | None = None) -> _Message | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._queues.changed:
            while not self._stopped:
                message = self._queues.take(self._addresses)
                left = None if deadline is None else deadline - time.monotonic()
                if message is not None or (left is not None and left <= 0):
                    return message
                self._queues.changed.wait(left)
        return None

    def stop(self) -> None:
        with self._queues.changed:
            self._stopped = True
            self._queues.changed.notify_all()


class InProcessDriver(base.BaseDriver):
    """One transport object is one broker: client and servers have to share it."""

    def __init__(self, conf: Any, url: Any, default_exchange: str | None = None,
                 allowed_remote_exmods: Any = None):
        super().__init__(conf, url, default_exchange, allowed_remote_exmods)
        self._queues = _Queues()

    def require_features(self, requeue: bool = False) -> None:
        if requeue:
            raise NotImplementedError("inproc:// does not requeue")

    def _exchange(self, target: Any) -> str:
        return target.exchange or self._default_exchange

    def send(self, target: Any, ctxt: dict, message: dict, wait_for_reply: bool | None = None,
             timeout: float | None = None, call_monitor_timeout: float | None = None,
             retry: int | None = None, transport_options: Any = None) -> Any:
        exchange = self._exchange(target)
        answers: queue.Queue | None = queue.Queue() if wait_for_reply else None
        addresses: list[Address] = [(exchange, target.topic, target.server)]
        if target.fanout:
            addresses = self._queues.servers(exchange, target.topic)
        carried = json.loads(jsonutils.dumps(message))
        self._queues.put(addresses, _Message(dict(ctxt), carried, answers))
        if answers is None:
            return None
        try:
            reply, failure = answers.get(timeout=timeout)
        except queue.Empty:
            raise oslo_messaging.MessagingTimeout(f"No reply on topic {target.topic}") from None
        if failure:
            raise failure
        return json.loads(jsonutils.dumps(reply))

    def send_notification(self, target: Any, ctxt: dict, message: dict, version: float,
                          retry: int | None = None) -> None:
        """Nobody listens for notifications here."""

    def listen(self, target: Any, batch_size: int, batch_timeout: float | None) -> Any:
        exchange = self._exchange(target)
        addresses = [(exchange, target.topic, target.server), (exchange, target.topic, None)]
        for address in addresses:
            self._queues.open(address)
        return base.PollStyleListenerAdapter(
            _Listener(self._queues, addresses), batch_size, batch_timeout)

    def listen_for_notifications(self, targets_and_priorities: Any, pool: Any, batch_size: int,
                                 batch_timeout: float | None) -> Any:
        raise NotImplementedError("inproc:// has no notifications")

    def cleanup(self) -> None:
        """Nothing outlives the process."""
