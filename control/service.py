"""Starting and stopping the embedded control plane."""

from __future__ import annotations

import logging
import threading
from typing import Any

import oslo_messaging
import sqlalchemy as sa
from oslo_messaging.rpc.dispatcher import DefaultRPCAccessPolicy
from sqlalchemy.engine import Engine

from compute.errors import NeedsOperator, Unknown
from compute.rpc.line import Line
from compute.rpc.serializer import ContextSerializer
from control.api import ControlPlane
from control.builds import ComputeTask
from control.conductor import TOPIC, BaseApi, Conductor
from control.moves.care import MigrateServer
from control.network_rpc import NetworkService
from control.volume_rpc import VolumeService
from db.engine import migrate, open_engine

LOG = logging.getLogger(__name__)
BROKER_SECONDS = 2.0  # that a start waits for the broker
DRAIN_SECONDS = 1.0  # between two looks at drains that go on


class Service:
    """A running control plane: its RPC server, and a timer that looks after unfinished work."""

    def __init__(self, conf: Any, transport: Any, images: Any = None):
        if images is None:
            from compute.services.images import LocalImages

            images = LocalImages(conf.image_dir)
        self.conf = conf
        self.engine = open_database(conf.control.database)
        self.control = ControlPlane(conf, transport, self.engine, images)
        self._unfinished = self.control.unfinished_networks()
        self._volumes = self.control.keeper.unfinished()
        store = self.control.store
        endpoints = [BaseApi(), Conductor(store), NetworkService(store),
                     VolumeService(self.control.keeper), ComputeTask(self.control.builds),
                     MigrateServer(self.control.moves)]
        self._server = oslo_messaging.get_rpc_server(
            transport, oslo_messaging.Target(topic=TOPIC, server=conf.host), endpoints,
            serializer=ContextSerializer(),
            access_policy=DefaultRPCAccessPolicy,
        )
        self._line, self._listens = Line(), threading.Event()
        self._stopping = threading.Event()
        self._bell = threading.Event()
        self.control.drains_wake = self._bell.set
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target
                         in (("control-care", self._look_after), ("control-drain", self._drain))]

    def start(self) -> ControlPlane:
        """Serve. Returns the control plane for callers in this process, also while the broker is
        away: it is listened to as soon as it answers."""
        try:
            self._line.say("serve the conductor's topic", BROKER_SECONDS, self._listen)
        except Unknown as error:
            LOG.warning("%s", error)
        for thread in self._threads:
            thread.start()
        LOG.info("The embedded control plane serves topic %s as %s.", TOPIC, self.conf.host)
        return self.control

    def _listen(self) -> None:
        self._server.start()
        self._listens.set()

    def stop(self) -> None:
        """Answer what has begun, then stop serving; safe to call twice."""
        self._stopping.set()
        self._bell.set()
        self.control.moves.stop()
        self.control.keeper.stop()
        if self._listens.is_set():  # else the library waits for the broker, to stop after it began
            self._server.stop()
            self._server.wait()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        self.engine.dispose()

    def _look_after(self) -> None:
        """At start, what an earlier process left undone; then, what no host took up."""
        age = 0
        while not self._stopping.is_set():
            try:
                self.control.builds.resume(age)
                self.control.moves.resume(age)
                self.control.resume_unshelving(age)
                self.control.clean_networks(self._unfinished)
                self._unfinished = []
                self.control.keeper.resume(self._volumes)
                self._volumes = []
                self.control.sweep_volumes()
            except Exception:
                LOG.exception("Looking after unfinished work failed; tried again later.")
            age = self.conf.control.resend_after
            self._stopping.wait(age / 2)

    def _drain(self) -> None:
        """Go on with the drains of hosts: often while there are any, at once when one begins."""
        while not self._stopping.is_set():
            self._bell.clear()
            going = True
            try:
                going = self.control.drains.step()
            except Exception:
                LOG.exception("Going on with drains failed; tried again.")
            if not self._stopping.is_set():
                self._bell.wait(DRAIN_SECONDS if going else self.conf.control.resend_after)


def open_database(url: str) -> Engine:
    """The control plane's database at its newest revision.

    :raises NeedsOperator: code ``database_unusable``, when it cannot be opened or changed.
    """
    try:
        engine = open_engine(url)
        migrate(engine, "control")
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        shown = url if "@" not in url else "the one in [control] database"
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise NeedsOperator(
            f"The control plane's database ({shown}) cannot be used: {reason}.",
            now="The control plane did not start; servers keep running.",
            next="Correct [control] database, or the rights on it, and start again.",
            code="database_unusable",
        ) from error
    return engine


def start(conf: Any, transport: Any, images: Any = None) -> ControlPlane:
    """Open the database, bring it to the newest revision, and serve topic ``conductor``.

    :param conf: the global ``cfg.CONF`` with Magnetar's options and ``host`` set.
    :param transport: oslo.messaging's RPC transport, whose exchange is ``nova``.
    :param images: defaults to the local directory of ``[DEFAULT] image_dir``.
    :returns: the control plane; its ``stop()`` ends the service.
    """
    service = Service(conf, transport, images)
    control = service.start()
    control.on_stop = service.stop
    return control
