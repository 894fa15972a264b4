"""The embedded control plane as its callers see it: the tenants' verbs as plain methods.

All arguments and results go into JSON. Names or ids are accepted everywhere; an ambiguous name is
refused. What cannot be had is refused by :class:`compute.errors.Refused`, which says what
happened, what is true now and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Engine

from compute import concurrency
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control.attaching import ServerVolumes
from control.builds import Builds
from control.caching import Caching
from control.catalog import Catalog
from control.common import context_for
from control.consoles import Consoles
from control.hosts import Hosts
from control.images import Images
from control.interfaces import Interfaces
from control.messages import Computes
from control.moves.care import Moves
from control.moves.drain import Drains
from control.moves.verbs import MoveVerbs
from control.moves.views import Migrations
from control.networks import Networks
from control.objects import Call
from control.objects.instances import load
from control.ports import Ports
from control.rebuild import Rebuild
from control.servers import C, Servers
from control.shelving import Shelving
from control.sleep import Sleep
from control.snapshots import Snapshots
from control.softdelete import SoftDeletes
from control.tending import Tending
from control.volume_keeper import VolumeKeeper
from control.volumes import Volumes
from db.control.store import Store

Row = dict[str, Any]
VERBS = ("server_", "image_", "flavor_", "network_", "host_", "keypair_", "group_", "console_",
         "migration_", "volume_", "port_")
EVENTS = ("network-changed", "network-vif-plugged", "network-vif-unplugged",
          "network-vif-deleted", "volume-extended", "volume-reimaged", "power-update")


class ControlPlane(Servers, Sleep, Tending, Snapshots, Rebuild, Shelving, SoftDeletes, Interfaces,
                   Volumes, ServerVolumes, Consoles, MoveVerbs, Migrations, Catalog, Images,
                   Caching, Networks, Ports, Hosts):
    """One control plane over one database.

    :param conf: the global configuration, with Magnetar's options registered.
    :param transport: an oslo.messaging RPC transport.
    :param engine: the control plane's database, migrated.
    :param images: where images are: show, list, create, delete, as LocalImages.
    """

    def __init__(self, conf: Any, transport: Any, engine: Engine, images: Any):
        self.conf, self.images = conf, images
        self.store = Store(engine, green=concurrency.mode() == "eventlet")
        self.computes = Computes(transport, conf.timeouts.conductor,
                                 conf.control.long_rpc_timeout)
        self.keeper = VolumeKeeper(conf, self.store, images)
        self.builds = Builds(conf, self.store, self.computes)
        self.moves = Moves(conf, self.store, self.computes, self.builds, images)
        self.drains = Drains(conf, self.store, self.moves)
        self._open_cache()
        self.drains_wake: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = engine.dispose

    def methods(self) -> dict[str, Any]:
        """The verbs by the names of the control socket: ``server.create`` and so on."""
        return {
            name.replace("_", ".", 1): getattr(self, name)
            for name in dir(type(self))
            if name.startswith(VERBS) and name != "server_event"
        }

    def stop(self) -> None:
        """End the service that runs it (see :mod:`control.service`)."""
        self._cache_pool.shutdown(wait=False, cancel_futures=True)
        self.on_stop()

    def server_event(self, server: str, name: str, tag: str | None = None,
                     status: str = "completed") -> None:
        """Tell a server's host of something that happened outside (a port was plugged, say)."""
        if name not in EVENTS:
            raise ValueError(f"{name} is none of {', '.join(EVENTS)}")
        self._event(context_for(), self._find(server), name, tag, status)

    def _event(self, context: Context, row: Row, name: str, tag: str | None = None,
               status: str = "completed") -> None:
        with self.store.begin() as connection:
            attrs = ("info_cache", "security_groups", "migration_context")
            instance = load(Call(connection, context), C.uuid == row["uuid"], attrs=attrs)[0]
        event = primitives.make("InstanceExternalEvent", {
            "instance_uuid": row["uuid"], "name": name, "status": status, "tag": tag,
        })
        if row["host"]:
            self.computes.cast_alt(context, row["host"], "external_instance_event",
                                   instances=[instance], events=[event])
