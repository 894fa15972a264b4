"""The operator's verbs, the same on the control socket and over RPC (namespace ``magnetar``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from compute.errors import MagnetarError, Refused
from compute.operator.doctor import examine
from compute.operator.explain import explain
from compute.recovery.invariants import Finding, check, check_nics, check_volumes
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler
from db.journal import OperationRow, StepRow, rows


def utc(seconds: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC, milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def operation_view(row: OperationRow) -> dict[str, Any]:
    """An operation as people and machines are shown it."""
    return {
        "id": row.id, "verb": row.verb, "guest": row.guest, "state": row.state,
        "step": row.step, "steps_done": row.steps_done, "steps_total": row.steps_total,
        "started_at": utc(row.created), "updated_at": utc(row.updated),
        "seconds": round(row.updated - row.created, 3), "request_id": row.request_id,
        "message": row.message, "error": dict(row.error) if row.error else None,
        "attempts": row.attempts, "restarts": row.restarts, "verdict": row.verdict,
        "waits_for": row.waits_for, "abort": row.abort,
    }


def step_view(row: StepRow) -> dict[str, Any]:
    """A step of an operation."""
    seconds = round(row.finished - row.started, 3) if row.finished else None
    return {"phase": row.phase, "step": row.name, "state": row.state,
            "started_at": utc(row.started), "seconds": seconds,
            "error": dict(row.error) if row.error else None, **_noted(row.outcome)}


def _noted(outcome: Any) -> dict[str, Any]:
    """What a step that is done has to say to people, if it has."""
    noted = isinstance(outcome, Mapping) and outcome.get("note")
    return {"note": noted} if noted else {}


class OperatorVerbs:
    """What an operator may ask of one agent."""

    def __init__(self, reconciler: Reconciler, checks: Mapping[str, Callable[[], Any]]):
        self._reconciler = reconciler
        self._manager = reconciler.manager
        self._world = reconciler.world
        self._checks = checks

    def op_list(self, guest: str | None = None, all: bool = False) -> list[dict[str, Any]]:
        """Operations, oldest first: those going on, or with ``all`` also those that ended."""
        found = self._world.journal.find(guest=guest, active=None if all else True)
        return [operation_view(row) for row in found]

    def op_show(self, op: str) -> dict[str, Any]:
        """One operation with its steps."""
        row = self._operation(op)
        return {**operation_view(row),
                "steps": [step_view(s) for s in self._world.journal.steps(row.id)]}

    def op_abort(self, op: str) -> dict[str, Any]:
        """Stop an operation and undo it."""
        row = self._manager.abort(self._operation(op).id, "an operator stopped it")
        return operation_view(row)

    def op_resolve(self, op: str, as_: str, reason: str = "") -> dict[str, Any]:
        """Tell the truth about an operation that needs an operator: ``retry`` it, or call it
        ``done`` or ``undone``. Done is checked against what is observed."""
        row = self._operation(op)
        if row.state != rows.NEEDS_OPERATOR:
            raise Refused(f"Operation {row.id} does not need an operator; it is {row.state}.",
                          now="Nothing was changed.", next=f"magnetar op show {row.id}",
                          code="not_waiting")
        if as_ not in ("retry", "done", "undone"):
            raise Refused(f"An operation cannot be resolved as '{as_}'.",
                          now="Nothing was changed.", next="Use retry, done or undone.",
                          code="bad_request")
        note = f"resolved as {as_}: {reason or 'no reason given'}"
        if as_ == "retry":
            back = any(s.state in (rows.STEP_UNDONE, rows.UNDO_FAILED)
                       for s in self._world.journal.steps(row.id))
            self._world.journal.reopen(row.id)
            self._world.journal.update(
                row.id, state=rows.UNDOING if back else rows.RUNNING, attempts=0, message=note)
            self._manager.start(self._world.journal.row(row.id))
        else:
            self._world.journal.update(
                row.id, state=rows.DONE if as_ == "done" else rows.UNDONE, message=note)
        return operation_view(self._world.journal.row(row.id))

    def explain(self, guest: str) -> dict[str, Any]:
        """What goes on with a guest, what was observed, and what will be done next."""
        return explain(self._reconciler, guest, operation_view, step_view)

    def audit(self) -> dict[str, Any]:
        """Compare journal, hypervisor, disks and control plane; list what is not as it must be."""
        seen = observe(self._world, self._reconciler.context)
        findings = check(seen)
        for what, look in (
                ("NICs", lambda: check_nics(seen, self._world.driver.taps())),
                ("Volumes", lambda: check_volumes(seen, self._world.driver.volumes))):
            try:
                findings += look()
            except MagnetarError as error:
                findings.append(Finding("observable", what.lower(), f"{what} cannot be observed: "
                                        f"{error}", "See 'magnetar doctor'."))
        return {
            "clean": not findings, "time": utc(seen.time), "guests": len(seen.guests),
            "foreign_domains": [{"uuid": s.uuid, "name": s.name} for s in seen.foreign],
            "findings": [vars(f) for f in findings],
        }

    def doctor(self) -> dict[str, Any]:
        """Examine this host and agent: each check with its result and what to do."""
        return examine(self._checks)

    def usage(self) -> list[dict[str, Any]]:
        """What each running guest of this host uses: CPU time in nanoseconds, memory in KiB, bytes
        of disks and NICs."""
        return [{"id": uuid, **vars(use)}
                for uuid, use in sorted(self._world.driver.usage().items())]

    def image_fetches(self) -> dict[str, list[int]]:
        """Bytes that are here, and of how many, of each image that is being cached beforehand."""
        return {image: list(progress) for image, progress in self._world.fetches.items()}

    def create_network(self, network: dict[str, Any]) -> None:
        """Make a network of the embedded control plane on this host, or check its bridge."""
        self._world.driver.create_network(network)

    def delete_network(self, name: str) -> None:
        """Remove a network that create_network made."""
        self._world.driver.delete_network(name)

    def _operation(self, op: str) -> OperationRow:
        row = self._world.journal.get(op)
        if row is None:
            known = [r for r in self._world.journal.find() if r.id.startswith(op)] \
                if len(op) >= 4 else []
            if len(known) != 1:
                raise Refused(f"There is no operation {op}." if not known else
                              f"{op} begins the ids of {len(known)} operations.",
                              now="Nothing was changed.", next="See 'magnetar op list --all'.",
                              code="operation_not_found")
            row = known[0]
        return row
