"""admission, migration: what the control plane says about a move, and what it is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.rpc.primitives import Primitive, clean, data, is_object

FOR_EVER = 1_000_000
# Statuses after which a migration is over, as Nova counts them.
TERMINAL = ("confirmed", "reverted", "error", "failed", "cancelled", "completed", "done")


def primitive(run: Run) -> Primitive:
    """The operation's Migration object: as admission read it, as it was sent, or the guest's
    newest one.

    :raises Refused: code ``migration_not_found``: the control plane has none.
    """
    kept = run.outcome("admission")
    if isinstance(kept, Mapping) and is_object(kept.get("migration")):
        return kept["migration"]
    sent = run.request.get("args", {}).get("migration")
    if is_object(sent):
        return sent
    found = newest(run, {})
    if found is None:
        raise Refused(f"The control plane has no migration of guest {run.row.guest}.",
                      now="Nothing was changed.", code="migration_not_found")
    return found


def newest(run: Run, filters: Mapping[str, Any]) -> Primitive | None:
    """The guest's newest migration that fits, None if there is none."""
    found = run.world.conductor.migrations(
        run.context, {"instance_uuid": run.row.guest, **filters})
    return max(found, key=lambda prim: data(prim).get("id") or 0, default=None)


def migration_of(run: Run) -> dict[str, Any]:
    """Fields of the operation's Migration, as of its admission: both ends, and who asked."""
    return data(primitive(run))


def fresh(run: Run) -> Primitive:
    """The operation's Migration as the control plane has it now."""
    return run.world.conductor.migration(run.context, migration_of(run)["id"])


def mark(run: Run, status: str | None, **changes: Any) -> None:
    """Save a Migration's status, unless None, and other fields; quiet when it is gone."""
    values = {**({"status": status} if status else {}), **changes}
    try:
        run.world.conductor.save(run.context, clean(primitive(run)), values)
    except Refused as error:
        if error.code != "migration_not_found":
            raise


class Moving(Step):
    """admission: does the control plane still want this part of a resize, and of this host?

    :param tasks: task_states that the part is asked for under.
    :param statuses: statuses that the Migration may have.
    :param here: the field of the Migration that names this host; None: it is not filled in yet.
    :param holder: the field that names the host which the record has the guest on.
    """

    name = "admission"
    attempts = FOR_EVER

    def __init__(self, tasks: tuple[str | None, ...], statuses: tuple[str, ...],
                 here: str | None, holder: str, *, if_gone: bool = False):
        self.tasks, self.statuses = tasks, statuses
        self.here, self.holder, self.if_gone = here, holder, if_gone

    def do(self, run: Run) -> dict[str, Any]:
        moving = self._migration(run)
        ends = data(moving)
        if ends.get("status") not in self.wanted(run):
            raise stale(run, f"its migration is {ends.get('status')} by now")
        if self.here and ends.get(self.here) != run.world.host:
            raise stale(run, f"its migration names host {ends.get(self.here)} there")
        try:
            run.instance = run.world.conductor.instance(run.context, run.row.guest)
        except Refused as error:
            if error.code != "guest_not_found" or not self.if_gone:
                raise
            run.instance = run.request["args"]["instance"]
            return {"gone": True, "migration": moving}
        fields = data(run.instance)
        if fields.get("task_state") not in self.tasks:
            raise stale(run, f"its task state is {fields.get('task_state')} by now")
        if fields.get("host") not in (ends.get(self.holder), run.world.host):
            raise stale(run, f"it is on host {fields.get('host')} by now")
        return {"gone": False, "migration": moving, "vm_state": fields.get("vm_state")}

    def wanted(self, run: Run) -> tuple[str, ...]:
        """Statuses that the Migration may have."""
        return self.statuses

    def _migration(self, run: Run) -> Primitive:
        """As it is now; found by the guest when the message was lost."""
        sent = run.request["args"].get("migration")
        if is_object(sent):
            try:
                return run.world.conductor.migration(run.context, data(sent)["id"])
            except Refused as error:
                if error.code != "migration_not_found" or not self.if_gone:
                    raise
                return sent
        found = newest(run, {"status": list(self.wanted(run))})
        if found is None:
            raise stale(run, "it has no such migration")
        return found


def stale(run: Run, why: str) -> Refused:
    """The refusal of a message that nobody waits for any more."""
    return Refused(
        f"The request ({run.row.verb}) for guest {run.row.guest} is stale: {why}.",
        now="Nothing was done.", next="Ask again if it is still wanted.", code="stale")


class MigrationEnds(Step):
    """migration: how the move ended.

    :param status: Nova's word for it.
    """

    name = "migration"
    attempts = FOR_EVER

    def __init__(self, status: str):
        self.status = status

    def do(self, run: Run) -> None:
        mark(run, self.status)


class NewMigrationEnds(MigrationEnds):
    """migration: the same for one whose message may have been overtaken before it was admitted: it
    then ends only if nobody goes on with it, since its guest has no task any more."""

    def do(self, run: Run) -> None:
        overtaken = (run.row.error or {}).get("code") in OVERTAKEN
        if not overtaken or run.outcome("admission") is not None or self.orphan(run):
            super().do(run)

    @staticmethod
    def orphan(run: Run) -> bool:
        """Whether the migration waits for a message that nobody heeds."""
        try:
            status = data(fresh(run)).get("status")
            guest = run.world.conductor.instance(run.context, run.row.guest)
        except Refused:
            return False  # there is nothing left to end
        return status == "pre-migrating" and data(guest).get("task_state") is None
