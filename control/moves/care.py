"""All kinds of moves together, and looking after those that no host has taken up."""

from __future__ import annotations

import logging
from typing import Any

import oslo_messaging

from compute.errors import MagnetarError, Retryable
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control.moves.base import COLD, EVACUATION, LIVE, RESIZE, TASKS, Mover, Plan, V
from control.moves.cold import Cold
from control.moves.evacuation import Evacuation
from control.moves.live import Live
from db.control import moves

LOG = logging.getLogger(__name__)
Row = dict[str, Any]


class Moves:
    """The conductor of moves.

    :param parts: conf, store, computes, builds, images, as :class:`Mover` takes them.
    """

    def __init__(self, *parts: Any):
        self.store = parts[1]
        self.cold, self.live, self.evacuation = Cold(*parts), Live(*parts), Evacuation(*parts)
        self.kinds: dict[str, Mover] = {RESIZE: self.cold, COLD: self.cold, LIVE: self.live,
                                        EVACUATION: self.evacuation}

    def stop(self) -> None:
        """Begin nothing more."""
        self.live.stop()

    def begin(self, context: Context, uuid: str, plan: Plan) -> Row:
        """Admit a move and send it on its way. Returns it.

        :raises Refused: nothing was done.
        :raises Retryable: it could not be sent; nothing was done.
        """
        mover = self.kinds[plan.kind]
        move = mover.open(context, uuid, plan)
        try:
            mover.send(move)
        except MagnetarError:
            mover.withdraw(move)
            raise
        return move

    def resume(self, older_than: float) -> list[str]:
        """Go on with moves that nobody worked on for ``older_than`` seconds and no host has taken
        up: their message may be lost, or the process that was at it. Returns uuids of servers."""
        with self.store.begin() as connection:
            found = moves.opened(connection, V.sent_at.is_not(None))
        done = []
        for move in found:
            try:
                if self._unfinished(move) and self.kinds[move["kind"]].taken(move, older_than):
                    self._go_on(move)
                    done.append(move["instance_uuid"])
            except MagnetarError as error:
                LOG.warning("Server %s: %s", move["instance_uuid"], error)
        return done

    @staticmethod
    def _unfinished(move: Row) -> bool:
        """Whether the next word is the conductor's."""
        if move["kind"] in (RESIZE, COLD):
            waiting = move["status"] == "pre-migrating" and move["dest_compute"] is None
            return waiting or move["status"] in ("confirming", "reverting")
        return move["status"] == "accepted"

    def _go_on(self, move: Row) -> None:
        mover = self.kinds[move["kind"]]
        if move["status"] in ("confirming", "reverting"):
            self.cold.send_end(move)
        elif move["task_state"] != TASKS[move["kind"]]:
            error = Retryable(f"The {move['kind']} was broken off before it began.",
                              now="The server is as before.", next="Ask for it again.")
            mover.fail(move, error, (move["status"],))
        elif move["kind"] != LIVE and not self._up(mover, move):
            error = Retryable("The host that was chosen went down before it took the server up.",
                              now="The server is as before.", next="Ask for it again.",
                              code="host_down")
            mover.fail(move, error, (move["status"],))
        else:
            LOG.info("Sending the %s of server %s again.", move["kind"], move["instance_uuid"])
            mover.send(move)

    def _up(self, mover: Mover, move: Row) -> bool:
        with self.store.begin() as connection:
            node = mover.host_of(connection, move["dest_node"])
        return node is not None and node["up"]


class MigrateServer:
    """What a host hands back of namespace ``compute_task``: a resize that it cannot take."""

    target = oslo_messaging.Target(namespace="compute_task", version="1.26")

    def __init__(self, moves_: Moves):
        self.moves = moves_

    def migrate_server(
        self, context: Context, instance: Row, scheduler_hint: Row | None = None,
        live: bool = False, rebuild: bool = False, flavor: Row | None = None,
        host_list: list[Row] | None = None, **rest: Any,
    ) -> None:
        """Try a resize on hosts that were not tried yet."""
        if live or rebuild:
            LOG.warning("A %s of server %s was handed to the conductor; it is not one of its "
                        "messages.", "live migration" if live else "rebuild",
                        primitives.data(instance).get("uuid"))
            return
        filters = (scheduler_hint or {}).get("filter_properties") or {}
        self.moves.cold.reschedule(context, primitives.data(instance)["uuid"], filters,
                                   list(host_list or ()))
