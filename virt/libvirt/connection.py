"""The connection to libvirtd: opened, watched, and opened again when it breaks.

libvirt's event loop runs in one native thread of the process. Its callbacks only put words into
a native queue; one dispatcher thread reads them, reconnects when needed and wakes the observer.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import libvirt
from oslo_log import log

from compute import concurrency
from compute.errors import MagnetarError, Unknown
from virt.libvirt.call import Calls

LOG = log.getLogger(__name__)

LIFECYCLE = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: "defined",
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "undefined",
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: "pmsuspended",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}
CONNECTED = "connected"  # reported with an empty uuid: events may have been missed, look at all
METADATA = "metadata"
DEVICE = "device"  # a device left its guest, or the guest refused to let it go
JOB = "job"
OPEN_TIMEOUT = 10.0
TICK = 1.0  # seconds the dispatcher waits for a word before it looks whether to stop


@functools.cache
def start_event_loop() -> Any:
    """Register libvirt's event loop and run it in a native daemon thread, once per process.

    Has to happen before any connection is opened, else keepalive is refused.
    """
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError:
                pause.wait(1)  # logging is not allowed here; the keepalive will tell

    native = concurrency.native_module("threading")
    pause = native.Event()
    thread = native.Thread(target=loop, daemon=True, name="libvirt-events")
    thread.start()
    return thread


class _Session:
    """One open connection and what was registered on it."""

    def __init__(self, handle: libvirt.virConnect, put: Callable[[tuple], None]):
        self.handle, self._put = handle, put
        self._events: list[int] = []

    def register(self, keepalive: tuple[int, int]) -> None:
        handle = self.handle
        # libvirt's in-process test driver has neither of the two.
        for setup in (
            lambda: handle.setKeepAlive(*keepalive),
            lambda: handle.registerCloseCallback(self._on_close, None),
        ):
            try:
                setup()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                    raise
        for event, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, self._on_metadata),
            (libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._on_job),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._on_device),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, self._on_device),
        ):
            self._events.append(handle.domainEventRegisterAny(None, event, callback, None))

    def alive(self) -> bool:
        """Whether the connection is open; asks nobody."""
        try:
            return bool(self.handle.isAlive())
        except libvirt.libvirtError:
            return False

    def release(self) -> None:
        """Deregister everything. The connection closes by itself when its last user lets go of
        the handle: closing it under a thread that still calls would be a use after free."""
        for identifier in self._events:
            with contextlib.suppress(libvirt.libvirtError):  # a dead daemon cannot be told
                self.handle.domainEventDeregisterAny(identifier)
        with contextlib.suppress(libvirt.libvirtError):
            self.handle.unregisterCloseCallback()

    # Called from libvirt's event loop: no logging, no libvirt call that asks the daemon.
    def _on_lifecycle(self, handle: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
        self._put(("event", domain.UUIDString(), LIFECYCLE.get(event, "changed")))

    def _on_metadata(self, handle: Any, domain: Any, kind: int, uri: str, opaque: Any) -> None:
        self._put(("event", domain.UUIDString(), METADATA))

    def _on_device(self, handle: Any, domain: Any, alias: str, opaque: Any) -> None:
        self._put(("event", domain.UUIDString(), DEVICE))

    def _on_job(self, handle: Any, domain: Any, stats: dict, opaque: Any) -> None:
        self._put((JOB, domain.UUIDString(), stats))

    def _on_close(self, handle: Any, reason: int, opaque: Any) -> None:
        self._put(("closed", self, ""))


class Connection:
    """Keeps one connection to ``uri`` open for as long as the agent runs.

    ``on_job`` is called with the statistics of each job that ended, on the dispatcher's thread.
    """

    def __init__(
        self, uri: str, calls: Calls, *, keepalive: tuple[int, int] = (5, 3), retry: float = 2.0
    ):
        self.uri, self.calls = uri, calls
        self.epoch = 0  # how many times it was opened
        self._keepalive, self._retry = keepalive, retry
        self._words = concurrency.native_module("queue").SimpleQueue()
        self._session: _Session | None = None
        self._on_event: Callable[[str, str], None] = lambda uuid, what: None
        self.on_job: Callable[[str, Mapping[str, Any]], None] = lambda uuid, stats: None
        self._stopping, self._ready = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble, self._given_up = "", False

    def start(self, on_event: Callable[[str, str], None]) -> None:
        """Connect; return once connected, or when told meanwhile to stop or to give up."""
        start_event_loop()
        self._on_event = on_event
        self._thread = threading.Thread(target=self._serve, daemon=True, name="libvirt")
        self._thread.start()
        while not (self._ready.wait(TICK) or self._stopping.is_set() or self._given_up):
            pass

    def give_up(self) -> None:
        """End a start() that waits. Takes no lock, so that a signal handler may call it."""
        self._given_up = True

    def stop(self) -> None:
        """Deregister and let the connection close; guests keep running."""
        self._stopping.set()
        self._words.put(("stop", None, ""))
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(OPEN_TIMEOUT)

    def alive(self) -> bool:
        """Whether the connection is open; keepalive closes it when libvirtd stops answering."""
        session = self._session
        return session is not None and session.alive()

    def ask(
        self, name: str, func: Callable[..., Any], *args: Any, timeout: float | None = None
    ) -> Any:
        """Call ``func(connection, *args)`` as :meth:`Calls.run` does.

        :raises Unknown: with code ``libvirt_lost`` while there is no connection.
        """
        session = self._session
        if session is None:
            raise Unknown(
                f"libvirt could not {name.replace('_', ' ')}: there is no connection to "
                f"{self.uri}.",
                now="Guests keep running; what they do is not known.",
                next="The agent reconnects by itself; start libvirtd if it is down.",
                code="libvirt_lost",
            )
        return self._watched(session, name, func, session.handle, *args, timeout=timeout)

    def call(
        self, name: str, func: Callable[..., Any], *args: Any, timeout: float | None = None
    ) -> Any:
        """Call a method of a domain or network that :meth:`ask` returned."""
        return self._watched(self._session, name, func, *args, timeout=timeout)

    def _watched(
        self, session: _Session | None, name: str, func: Callable[..., Any], *args: Any,
        timeout: float | None,
    ) -> Any:
        try:
            return self.calls.run(name, func, *args, timeout=timeout)
        except Unknown as error:
            # A handle from before a reconnect says "lost" too; then the new session is alive.
            if error.code == "libvirt_lost" and session and not session.alive():
                self._words.put(("closed", session, ""))
            raise

    # -- the dispatcher thread ------------------------------------------------------------------
    def _serve(self) -> None:
        while not self._stopping.is_set():
            if self._session is None and not self._connect():
                self._stopping.wait(self._retry)
                continue
            word = concurrency.native(_take, self._words, TICK)
            if word is not None:
                self._dispatch(*word)
        self._drop()

    def _dispatch(self, kind: str, subject: Any, what: Any) -> None:
        if kind == "event":
            self._tell(subject, what)
        elif kind == JOB:
            self.on_job(subject, what)
        elif kind == "closed" and subject is self._session:
            LOG.warning(
                "The connection to %s is lost. Guests keep running, what they do is not known. "
                "Reconnecting.", self.uri,
            )  # fmt: skip
            self._drop()

    def _tell(self, uuid: str, what: str) -> None:
        try:
            self._on_event(uuid, what)
        except Exception:  # noqa: BLE001 - one bad event must not end all events
            LOG.exception("The event %s of guest %s was not dealt with.", what, uuid)

    def _connect(self) -> bool:
        wanted = threading.Event()
        wanted.set()
        began = time.monotonic()
        try:
            session = self.calls.run("connect", self._open, wanted, timeout=OPEN_TIMEOUT)
        except MagnetarError as error:
            wanted.clear()
            if self._trouble != error.what:
                self._trouble = error.what
                LOG.warning(
                    "No connection to %s: %s Guests keep running. Start libvirtd, or correct "
                    "[libvirt] connection_uri; the agent tries again every %g s.",
                    self.uri, error.what, self._retry,
                )  # fmt: skip
            return False
        self._session, self._trouble = session, ""
        self.epoch += 1
        LOG.info("Connected to %s in %.0f ms.", self.uri, (time.monotonic() - began) * 1000)
        self._tell("", CONNECTED)
        self._ready.set()
        return True

    def _open(self, wanted: threading.Event) -> _Session:
        session = _Session(libvirt.open(self.uri), self._words.put)
        session.register(self._keepalive)
        if not wanted.is_set():
            session.release()  # it took so long that nobody waits for it any more
        return session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                self.calls.run("disconnect", session.release, timeout=OPEN_TIMEOUT)
            except MagnetarError as error:
                LOG.warning("The old connection to %s was not released: %s", self.uri, error.what)


def _take(words: Any, timeout: float) -> tuple | None:
    """The next word of a native queue, or None. Runs on a native thread under eventlet."""
    try:
        return words.get(True, timeout)
    except queue.Empty:
        return None
