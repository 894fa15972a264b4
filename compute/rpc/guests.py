"""Handlers of the compute RPC methods that reach into one guest: interrupts, rescue, its agent,
diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compute.engine.world import World
from compute.errors import Unknown, from_dict
from compute.manager import Manager
from compute.model import wire
from compute.rpc import diagnostics
from compute.rpc.primitives import Primitive
from db.journal import OperationRow, rows

ANSWER_SECONDS = 55.0  # below the minute that callers wait
FIRST_LOOK, LAST_LOOK = 0.01, 0.2  # seconds between two looks at an operation, growing


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

    def set_admin_password(self, context, args) -> None:
        """Answers when the guest's agent has set it."""
        self._ended(self._accept("set_password", context, args))

    def quiesce_instance(self, context, args) -> None:
        """Answers when the guest's file systems stand still."""
        self._ended(self._accept("quiesce", context, args))

    def unquiesce_instance(self, context, args) -> None:
        self._accept("unquiesce", context, args)

    # -- diagnostics ----------------------------------------------------------------------------
    def get_diagnostics(self, context, args) -> Mapping[str, int]:
        """What the guest has used, in the old form."""
        return diagnostics.flat(self.world.driver.diagnostics(wire.instance_of(args)["uuid"]))

    def get_instance_diagnostics(self, context, args) -> Primitive:
        """What the guest has used, as a Diagnostics object."""
        fields: Mapping[str, Any] = wire.instance_of(args)
        driver = self.world.driver
        return diagnostics.whole(driver.diagnostics(fields["uuid"]), fields, driver.name,
                                 self.world.clock.now())

    # -- helpers --------------------------------------------------------------------------------
    def _ended(self, row: OperationRow) -> None:
        """Wait for an operation's end; raises what it failed of."""
        clock, pause = self.world.clock, FIRST_LOOK
        deadline = clock.now() + ANSWER_SECONDS
        while True:
            row = self.world.journal.row(row.id)
            if row.state == rows.DONE:
                return
            if not row.active or row.state == rows.NEEDS_OPERATOR:
                raise from_dict(dict(row.error or {"what": f"{row.verb} of guest {row.guest} is "
                                                           f"{row.state}."}))
            if clock.now() > deadline:
                raise Unknown(f"{row.verb} of guest {row.guest} is still at step {row.step}.",
                              now="It goes on.", next=f"magnetar op show {row.id}",
                              code="not_answered")
            clock.wait(pause)
            pause = min(pause * 1.5, LAST_LOOK)
