"""explain: what goes on with a guest, what was seen, what is judged, and what comes next."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from compute.errors import Refused
from compute.model import states
from compute.model.pci import given_from
from compute.operator.moves import in_force, is_leaving
from compute.recovery.decide import Act, Verdict
from compute.recovery.invariants import check
from compute.recovery.observe import Fact, GuestFacts, Observation, observe
from compute.recovery.reconcile import Reconciler
from db.journal import rows

NEXT = {
    Act.CONTINUE: "A worker goes on with the operation.",
    Act.ROLLBACK: "The operation is undone, newest step first.",
    Act.WAIT: "Nothing is done until the missing fact is known; it is looked for again each pass.",
    Act.LEAVE: "Nothing is done until an operator resolves it.",
    Act.ADOPT: "The next pass begins the operation that the lost message asked for.",
    Act.FAIL: "The next pass tells the control plane that the build is lost.",
    Act.REAP: "The next pass removes the domain; its disks go to quarantine.",
    Act.SYNC: "The next pass corrects the states in the control plane.",
    Act.START: "The next pass starts it.",
    Act.REPORT: "Nothing is done by itself.",
    Act.NOTHING: "Nothing.",
}


def explain(reconciler: Reconciler, guest: str, operation_view: Callable[..., dict],
            step_view: Callable[..., dict]) -> dict[str, Any]:
    """Everything known of a guest, by uuid or by a name that only one guest has.

    :raises Refused: code ``guest_not_found``.
    """
    world = reconciler.world
    seen = observe(world, reconciler.context)
    facts = _find(seen, guest)
    past = world.journal.find(guest=facts.uuid if facts else guest)
    if facts is None and not past:
        raise Refused(f"Nothing is known of a guest {guest} on this host.",
                      next="'magnetar server list' shows the guests and their hosts.",
                      code="guest_not_found")
    latest = facts.operation if facts and facts.operation else past[-1] if past else None
    verdict = _verdict(reconciler, facts)
    return {
        "guest": facts.uuid if facts else guest,
        "name": facts.fields.get("display_name") if facts else None,
        "operation": operation_view(latest) if latest else None,
        **({"migration": in_force(world, latest)} if latest and is_leaving(latest) else {}),
        "steps": [step_view(s) for s in world.journal.steps(latest.id)] if latest else [],
        "facts": _facts(facts) if facts else [],
        "verdict": {"act": verdict.act.value, "row": verdict.row, "reason": verdict.reason},
        "next": _next(verdict, latest, reconciler),
        "overrule": _overrule(latest),
        "findings": [vars(f) for f in check(seen) if facts and f.subject == facts.uuid],
    }


def _find(seen: Observation, guest: str) -> GuestFacts | None:
    if guest in seen.guests:
        return seen.guests[guest]
    named = [f for f in seen.guests.values() if guest in (
        f.fields.get("display_name"), f.domain.value.name if f.domain.value else None)]
    return named[0] if len(named) == 1 else None


def _verdict(reconciler: Reconciler, facts: GuestFacts | None) -> Verdict:
    if facts is None:
        return Verdict(Act.NOTHING, "gone", "It is no longer on this host.")
    row = facts.operation
    if row is not None and row.id in reconciler.manager.running():
        return Verdict(Act.CONTINUE, "working", f"A worker is at step {row.step or 'the first'}.")
    return reconciler.judge(facts)


def _next(verdict: Verdict, latest: Any, reconciler: Reconciler) -> str:
    if latest is not None and latest.state == rows.NEEDS_OPERATOR:
        return (latest.error or {}).get("next") or NEXT[Act.LEAVE]
    if latest is not None and latest.active and latest.retry_at:
        left = latest.retry_at - reconciler.world.clock.now()
        if left > 0:
            return f"Step {latest.step} is tried again in {left:.0f} s."
    return NEXT[verdict.act]


def _overrule(latest: Any) -> str | None:
    if latest is None or not latest.active:
        return None
    if latest.state == rows.NEEDS_OPERATOR:
        return f"magnetar op resolve {latest.id} --as retry|done|undone --reason WHY"
    return f"magnetar op abort {latest.id}"


def _facts(facts: GuestFacts) -> list[dict[str, Any]]:
    fields = facts.fields
    domain = facts.domain.value
    said = {
        "domain": f"{domain.name}, {states.POWER_NAMES.get(domain.power_state)}"
                  f"{' (' + domain.reason + ')' if domain.reason else ''}"
                  f"{'' if domain.ours else ', NOT ours'}" if domain else "none",
        "disks": "present" if facts.disks.value else "none",
        "record": f"vm_state {fields.get('vm_state')}, task_state {fields.get('task_state')}, "
                  f"power_state {fields.get('power_state')}, host {fields.get('host')}"
                  if fields else "none on this host",
        "deleted": "yes" if facts.deleted.value else "no",
    }
    listed = [_fact(name, getattr(facts, name), text) for name, text in said.items()]
    claims = ", ".join(sorted(map(_claim, facts.claims))) or "none"
    return [*listed, {"fact": "claims", "value": claims, "known": True, "source": "journal",
                      "time": listed[0]["time"]}]


def _claim(claim: Any) -> str:
    """A claim's kind, with the host's devices that it holds."""
    devices = [f"{given.address} as {given.alias}" for given in given_from(
        claim.data.get("pci") or ())]
    return f"{claim.kind} (device {', '.join(devices)})" if devices else claim.kind


def _fact(name: str, fact: Fact, text: str) -> dict[str, Any]:
    return {"fact": name, "value": text if fact.known else f"unknown: {fact.why}",
            "known": fact.known, "source": fact.source,
            "time": datetime.fromtimestamp(fact.time, UTC).isoformat(timespec="seconds")}
