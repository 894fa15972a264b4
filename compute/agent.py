"""Puts one agent together, starts it in the right order, and stops it at step borders.

Order of the start: the state directory is locked, journal, control socket (so that an operator gets
answers while the rest is missing), hypervisor, conductor, identity, RPC servers, unfinished
operations, and last the Service record that makes the scheduler send work.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from compute.engine.clock import SystemClock
from compute.engine.secrets import Secrets
from compute.engine.world import World
from compute.errors import MagnetarError, NeedsOperator, Refused, Unknown
from compute.manager import Manager
from compute.operations import OPERATIONS
from compute.operator.doctor import standard_checks
from compute.operator.listener import Listener, well
from compute.operator.metrics import Metrics
from compute.operator.moves import MoveVerbs
from compute.operator.socket import ControlSocket, method_table
from compute.operator.verbs import OperatorVerbs
from compute.recovery.observe import Observation
from compute.recovery.reconcile import Reconciler, restore_claims
from compute.recovery.resizes import Resizes
from compute.recovery.timers import Timers
from compute.resources.node import Node
from compute.resources.providing import Provider, tell
from compute.resources.tracker import Tracker
from compute.rpc.conductor import ConductorClient
from compute.rpc.peer import PeerClient
from compute.rpc.serializer import ContextSerializer
from compute.rpc.server import Server
from compute.services import chosen
from db.engine import migrate, open_engine
from db.journal import Journal, OperationRow

LOG = logging.getLogger(__name__)
PING_SECONDS = 5.0
FIRST_PASS = 1.0  # seconds from the start to the first pass
SOON = 2.0  # seconds from an event to the pass that looks at it; more events join it
FORGET_AFTER = 30 * 86400  # seconds that ended operations are kept


class Stopping(Exception):
    """The agent was told to stop while it was starting."""


def unusable(path: str, why: str) -> NeedsOperator:
    """The refusal to start on a state directory that cannot be read and written."""
    return NeedsOperator(
        f"The state directory {path} cannot be used: {why}.",
        now="The agent did not start; guests were not touched.",
        next="Correct the directory's owner and mode, or [DEFAULT] state_path.",
        code="state_unusable")


def lock_state(path: str) -> int:
    """Take the state directory for this process; the lock goes with the process.

    :returns: the lock's file descriptor.
    :raises NeedsOperator: it cannot be used, or another agent has it.
    """
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True, mode=0o711)
        fd = os.open(os.path.join(path, "agent.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise NeedsOperator(
            f"Another agent (process {holder or 'unknown'}) uses the state directory {path}.",
            now="This one did not start; the other goes on.",
            next="Stop the other agent first, or give this one its own state_path and host.",
            code="state_in_use") from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def make_driver(conf: Any) -> Any:
    """The configured hypervisor driver."""
    if conf.compute_driver == "fake":
        from virt.fake import FakeDriver

        return FakeDriver(conf.disk.instances_path, hostname=conf.host)
    from virt.libvirt.driver import LibvirtDriver
    from virt.storage import volume_source
    from virt.storage.store import Store

    keepalive = (conf.libvirt.keepalive_interval, conf.libvirt.keepalive_count)
    return LibvirtDriver(conf, Store(conf, volume_source.opener(keepalive)))


class Agent:
    """One host's agent.

    :param lock: of the state directory, from :func:`lock_state`, when the caller has taken it
        before; the agent lets it go when it stops.
    :param methods: further methods for the control socket (the embedded control plane's).
    """

    def __init__(self, conf: Any, transport: Any, lock: int | None = None, *, driver: Any = None,
                 methods: Mapping[str, Callable[..., Any]] | None = None):
        self.conf = conf
        self.host = conf.host
        self.methods = dict(methods or {})
        self.serving = False
        self._stop = threading.Event()
        self._dirty = threading.Event()  # the inventory changed, or a pass is wanted
        self._look = threading.Event()  # something happened that is no operation's doing
        self._threads: list[threading.Thread] = []
        self._lock = lock_state(conf.state_path) if lock is None else lock
        try:
            engine = open_engine(f"sqlite:///{conf.state_path}/journal.sqlite", durable=True)
            migrate(engine, "journal")
            secrets = Secrets(os.path.join(conf.state_path, "secrets"))
        except (OSError, SQLAlchemyError) as error:
            os.close(self._lock)
            raise unusable(conf.state_path, str(getattr(error, "orig", None) or error)) from error
        serializer = ContextSerializer()
        clock = SystemClock()
        self.journal = Journal(engine, clock.now)
        self.driver = driver or make_driver(conf)
        self.conductor = ConductorClient(transport, serializer, self.host, conf.timeouts.conductor)
        self.tracker = Tracker(conf, self.host, self.journal, self.driver, self.conductor)
        self.provider = Provider(self.tracker, self.conductor, chosen.providers(conf))
        self.context = {"is_admin": True, "roles": ["admin"], "user_id": None, "project_id": None,
                        "request_id": None, "read_deleted": "no"}
        self.world = World(
            host=self.host, conf=conf, journal=self.journal, driver=self.driver,
            conductor=self.conductor, images=chosen.images(conf),
            networks=chosen.networks(conf, self.conductor, self.host),
            volumes=chosen.volumes(conf, self.conductor), peers=PeerClient(transport, serializer),
            inventory=self.tracker, secrets=secrets, clock=clock)
        self.manager = Manager(self.world, conf.operation_workers, OPERATIONS, self._ended)
        self.reconciler = Reconciler(self.manager, self.context)
        self.resizes = Resizes(self.manager, self.context)
        self.timers = Timers(self.manager, self.context)
        verbs = OperatorVerbs(self.reconciler, standard_checks(self.reconciler, self.conductor))
        moves = MoveVerbs(self.reconciler)
        self.socket = ControlSocket(conf.socket, {**method_table(verbs, moves), **self.methods},
                                    self.health, console=self._console)
        reachable = {"hypervisor": self._hypervisor,
                     "control_plane": lambda: self.conductor.ping(PING_SECONDS)}
        self.metrics = Metrics(self.world, self.tracker, reachable)
        self.listener = Listener(conf.metrics.listen, self.metrics.text,
                                 lambda: well(self.health, reachable, self.journal)) \
            if conf.metrics.listen else None
        self.node = Node(conf, self.host, self.conductor, self.tracker, self.context)
        self.server = Server(transport, serializer, self.host, self.manager, {
            name: getattr(target, name) for target in (verbs, moves)
            for name in dir(target) if not name.startswith("_")})

    def health(self) -> dict[str, Any]:
        """What GET /v1/health adds to the status."""
        from importlib import metadata

        return {"status": "serving" if self.serving else "starting", "host": self.host,
                "version": metadata.version("magnetar"),
                "pid": os.getpid(), "driver": self.driver.name, "calls": self.calls()}

    def _hypervisor(self) -> None:
        """Raise Unknown while the hypervisor is not connected."""
        if not self.driver.connected():
            raise Unknown("The hypervisor does not answer.", now="Running guests are not touched.",
                          next="See 'systemctl status libvirtd'; it is connected again by itself.",
                          code="libvirt_lost")

    def _console(self, guest: str, force: bool) -> socket.socket:
        """The serial console of a guest of this host, by uuid or by its domain's name."""
        found = self.driver.states()
        known = found.get(guest) or next((s for s in found.values() if s.name == guest), None)
        if known is None or not known.ours:
            raise Refused(f"Guest {guest} is not on host {self.host}.",
                          now="Nothing was opened.",
                          next="Ask the agent of the guest's host, with --socket; 'magnetar server "
                               "show' tells which that is.", code="guest_not_found")
        return self.driver.open_console(known.uuid, force)

    def calls(self) -> dict[str, int]:
        """How many calls this process made: to the conductor, and to the hypervisor."""
        hypervisor = self.driver.calls
        made = sum(hypervisor.values()) if isinstance(hypervisor, dict) else hypervisor.total()
        return {"conductor": self.conductor.calls, "hypervisor": made}

    # -- starting -----------------------------------------------------------------------------
    def start(self) -> None:
        """Start serving; returns when the scheduler may send work.

        :raises NeedsOperator: identity or version do not fit.
        :raises Stopping: stop() was called meanwhile.
        """
        began = time.monotonic()
        self.socket.start()
        if self.listener is not None:
            self.listener.start()
        self.driver.start(self._event)
        if self._stop.is_set():
            raise Stopping()
        self._wait_for_conductor()
        self.tracker.facts(refresh=True)
        self.node.check(any(s.ours for s in self.driver.states().values()))
        self.server.start()
        self.reconciler.resume()
        self.node.register()
        self.serving = True
        for target in (self._heartbeat, self._passes):
            thread = threading.Thread(target=target, name=target.__name__.strip("_"), daemon=True)
            thread.start()
            self._threads.append(thread)
        LOG.info("Host %s serves after %.2f s.", self.host, time.monotonic() - began)

    def _wait_for_conductor(self) -> None:
        said = False
        while not self._stop.is_set():
            try:
                self.conductor.ping(PING_SECONDS)
                return
            except MagnetarError as error:
                if not said:
                    LOG.warning("No conductor answers yet (%s); the agent waits for it.", error)
                    said = True
                self._stop.wait(0.5)
        raise Stopping()

    # -- while it runs ------------------------------------------------------------------------
    def _event(self, uuid: str, what: str) -> None:
        """The hypervisor's events wake the observer; they are no facts."""
        if not uuid:  # connected again: whatever waits for the hypervisor looks at once
            self.manager.wake_all()
        if not uuid or not self.manager.wake(uuid):
            self._look.set()
            self._dirty.set()

    def _ended(self, row: OperationRow) -> None:
        self._dirty.set()
        if self.listener is not None:
            self.metrics.ended(row)

    def _heartbeat(self) -> None:
        while not self._stop.wait(self.conf.report_interval):
            try:
                self.node.heartbeat()
            except MagnetarError as error:
                LOG.warning("The heartbeat did not reach the control plane: %s", error)
            except Exception:
                LOG.exception("The heartbeat failed.")

    def _passes(self) -> None:
        """Inventory soon after each change; reconciliation on events and on a slow timer."""
        next_pass = time.monotonic() + FIRST_PASS
        while not self._stop.is_set():
            self._dirty.wait(max(next_pass - time.monotonic(), 0.05))
            if self._stop.is_set():
                return
            try:
                if self._dirty.is_set():
                    self._dirty.clear()
                    self.tracker.report(self.context)
                    tell(self.provider, self.context)
                if self._look.is_set():
                    self._look.clear()
                    next_pass = min(next_pass, time.monotonic() + SOON)
                if time.monotonic() >= next_pass:
                    next_pass = time.monotonic() + self.conf.audit_interval
                    self.one_pass()
            except MagnetarError as error:
                LOG.warning("This pass is left for later: %s", error)
            except Exception:
                LOG.exception("A pass failed; the next one is tried all the same.")

    def one_pass(self) -> Observation:
        """Reconcile all guests, then tell the control plane the inventory."""
        seen = self.reconciler.run_pass()
        restore_claims(self.world, seen)
        self.journal.forget(self.world.clock.now() - FORGET_AFTER)
        self.tracker.report(self.context, refresh=True)
        tell(self.provider, self.context, all_of_it=True)
        if not seen.unknown:
            self._sweep(seen)
        self.resizes.run_pass()
        self.timers.run_pass(seen)
        return seen

    def _sweep(self, seen: Observation) -> None:
        used = [image for f in seen.guests.values() if (image := f.fields.get("image_ref"))]
        for removed in self.driver.sweep(used, self.conf.disk.image_cache_seconds):
            LOG.info("Removed from the image cache or quarantine: %s", removed)

    # -- stopping -----------------------------------------------------------------------------
    def give_up(self) -> None:
        """End a start that waits for something; safe in a signal handler."""
        self._stop.set()
        self.driver.give_up()

    def stop(self) -> None:
        """Take no more work, let operations rest at their next step border, and leave. Guests and
        libvirt's own jobs go on."""
        began = time.monotonic()
        self._stop.set()
        self._dirty.set()
        if self.serving:
            self.serving = False
            self.server.stop()
        rested = self.manager.park(self.conf.timeouts.stop)
        for thread in self._threads:
            thread.join(1.0)
        if self.listener is not None:
            self.listener.stop()
        self.socket.stop()
        self.driver.stop()
        self.journal.engine.dispose()
        os.close(self._lock)
        LOG.info("Stopped after %.2f s; %s.", time.monotonic() - began,
                 "all operations rest at a step border" if rested
                 else "some operations were in the middle of a step and go on from the journal")
