"""Handlers of the compute RPC methods that reach into one guest: interrupts, rescue, its agent."""

from __future__ import annotations

from collections.abc import Callable

from compute.engine.world import World
from compute.manager import Manager
from db.journal import OperationRow


class GuestHandlers:
    """Mixin of :class:`compute.rpc.server.Handlers`."""

    manager: Manager
    world: World
    _accept: Callable[..., OperationRow]

    def trigger_crash_dump(self, context, args) -> None:
        self._accept("crash_dump", context, args)

    def rescue_instance(self, context, args) -> None:
        self._accept("rescue", context, args)

    def unrescue_instance(self, context, args) -> None:
        self._accept("unrescue", context, args)
