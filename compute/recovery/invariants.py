"""What must be true of a host at rest; used by the tests and by the operator's audit alike.

P2: never two running copies, never zero copies of a disk that a guest refers to. P3: nothing of
ours without an owner. P1: every operation ends or names a command. Claims = observed + in progress.
"""

from __future__ import annotations

from dataclasses import dataclass

from compute.model import states
from compute.recovery.observe import GuestFacts, Observation
from db.journal import rows

HAS_DISKS = (states.ACTIVE, states.STOPPED, states.PAUSED, states.SUSPENDED, states.RESCUED,
             states.RESIZED)
STUCK_SECONDS = 3600.0


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be: which invariant, about whom, what, and what to do."""

    rule: str
    subject: str
    what: str
    next: str = ""


def check(seen: Observation, *, now: float | None = None) -> list[Finding]:
    """All findings about one observation; empty when all is well."""
    found: list[Finding] = []
    for facts in seen.guests.values():
        found += _operation(facts, now or seen.time)
        if facts.operation is None:
            found += _owners(facts)
            found += _agreement(facts)
    found += [Finding("observable", source.split(":", 1)[0], f"It cannot be observed: {source}",
                      "See 'magnetar doctor'.") for source in seen.unknown]
    return found


def _operation(facts: GuestFacts, now: float) -> list[Finding]:
    row = facts.operation
    if row is None:
        return []
    if row.state == rows.NEEDS_OPERATOR:
        return [Finding("ends", facts.uuid, f"Operation {row.id} ({row.verb}) needs an operator: "
                        f"{(row.error or {}).get('what', '')}",
                        (row.error or {}).get("next", ""))]
    if now - row.updated > STUCK_SECONDS:
        return [Finding("ends", facts.uuid, f"Operation {row.id} ({row.verb}) gave no sign of life "
                        f"for {now - row.updated:.0f} s.", f"magnetar op show {row.id}")]
    return []


def _owners(facts: GuestFacts) -> list[Finding]:
    """P3, in both directions: what is there is claimed, what is claimed is there."""
    if not (facts.domain.known and facts.disks.known and facts.record.known):
        return []
    found = []
    kinds = {claim.kind for claim in facts.claims}
    owned = facts.record.value is not None
    if facts.domain.value is not None and not owned:
        found.append(Finding("owner", facts.uuid, f"Domain {facts.domain.value.name} is ours and "
                             "the control plane has no such guest on this host.",
                             f"magnetar explain {facts.uuid}"))
    if facts.disks.value and not owned:
        found.append(Finding("owner", facts.uuid, "Disks are here and the control plane has no "
                             "such guest on this host.", f"magnetar explain {facts.uuid}"))
    if kinds and not owned:
        found.append(Finding("owner", facts.uuid, f"Claims ({', '.join(sorted(kinds))}) are held "
                             "for a guest that the control plane does not have on this host.",
                             f"magnetar explain {facts.uuid}"))
    if facts.domain.value is not None and owned and "domain" not in kinds:
        found.append(Finding("claims", facts.uuid, "The domain is here without a claim.",
                             "The next pass of reconciliation claims it."))
    if facts.disks.value and owned and "disks" not in kinds:
        found.append(Finding("claims", facts.uuid, "Disks are here without a claim.",
                             f"magnetar explain {facts.uuid}"))
    return found


def _agreement(facts: GuestFacts) -> list[Finding]:
    """P2, and states that agree."""
    if facts.record.value is None or not (facts.domain.known and facts.disks.known):
        return []
    found = []
    vm_state, task = facts.fields.get("vm_state"), facts.fields.get("task_state")
    if vm_state in HAS_DISKS and not facts.disks.value:
        found.append(Finding("disks", facts.uuid, f"It is {vm_state} and has no disks here.",
                             f"Look into the quarantine: magnetar explain {facts.uuid}"))
    if task is not None:
        found.append(Finding("task", facts.uuid, f"Task {task} is set and no operation of ours "
                             "works on it.", "It is adopted when its message counts as lost."))
    running = facts.domain.value is not None and \
        facts.domain.value.power_state == states.RUNNING
    if task is None and vm_state == states.ACTIVE and not running:
        found.append(Finding("power", facts.uuid, "It is active and does not run.",
                             f"magnetar server reboot --hard {facts.uuid}"))
    if task is None and vm_state == states.STOPPED and running:
        found.append(Finding("power", facts.uuid, "It is stopped in the control plane and runs: "
                             "somebody started it behind our back.",
                             f"virsh shutdown {facts.uuid}, or magnetar server start"))
    if vm_state == states.ERROR and running and task is None:
        found.append(Finding("power", facts.uuid, "It is in error in the control plane and runs.",
                             f"magnetar server reboot --hard {facts.uuid}, or delete it"))
    return found
