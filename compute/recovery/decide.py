"""decide: pure tables from facts to a verdict with its reason. Touches nothing.

Each row has a name, so that a test can walk all of them. An unknown fact never gives a destructive
verdict.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compute.model import states
from compute.operations import OPERATIONS
from compute.recovery.observe import GuestFacts
from compute.rpc.primitives import data
from compute.steps.resize import holds_way_back
from db.journal import OperationRow, rows

OFF = (states.SHUTDOWN, states.CRASHED)  # what a hypervisor is sure of; NOSTATE says nothing
MOST_RESTARTS = 3  # restarts at one step before an operation that can be undone is
AWAKE = (states.RUNNING, states.POWER_PAUSED)  # its memory is in the hypervisor
# vm_states that need a domain
HERE = (states.ACTIVE, states.PAUSED, states.SUSPENDED, states.RESCUED)
CURABLE = ("ioerror",)  # why QEMU paused a guest that may go on when the cause is gone
THAWS, THAW_SECONDS, DAY = 10, 60.0, 86400.0
FROZEN = {
    "ioerror": "its storage failed or was full. Mend that, then: virsh resume {uuid}, or set "
               "resume_paused_guests.",
    "postcopy_failed": "its migration broke while it ran on both hosts. Do not resume it by hand: "
                       "part of its memory is at the other end.",
    "user": "somebody paused it with libvirt. virsh resume {uuid} lets it go on.",
}
BOOTED = "booted"  # kind of the claim on a guest that ran before a boot and was busy after it
BUILD_TASKS = (states.NETWORKING, states.BLOCK_DEVICE_MAPPING, states.SPAWNING)


class Act(enum.Enum):
    """What reconcile does."""

    CONTINUE = "continue"  # the operation goes on where it was
    ROLLBACK = "roll back"  # the operation is undone
    WAIT = "wait"  # a fact is missing; nothing is done
    GIVE_WAY = "give way"  # the operation ends where it is: the guest is another host's
    LEAVE = "leave"  # an operator has to decide; nothing is done
    ADOPT = "adopt"  # do what the control plane waits for: the message was lost
    FAIL = "fail"  # tell the control plane that the build is lost
    REAP = "reap"  # remove what the control plane says is deleted
    SYNC = "sync"  # correct the states in the control plane
    START = "start"  # power on again after a host boot
    THAW = "let run"  # let a guest go on that QEMU paused
    REPORT = "report"  # tell people; touch nothing
    NOTHING = "nothing"  # all is as it should be


@dataclass(frozen=True)
class Verdict:
    """What to do about a guest or an operation, by which row of the table, and why."""

    act: Act
    row: str
    reason: str
    verb: str = ""


def of_operation(row: OperationRow, committed: bool, facts: GuestFacts, *,
                 rebooted: bool = False) -> Verdict:
    """What to do with an operation that is in the journal and has no worker.

    :param rebooted: the host was booted since the last pass: it may have been taken for lost.
    """
    at = f"step {row.step}" if row.step else "its first step"
    if row.verb not in ("evacuate", "vacate"):
        if facts.fields.get("task_state") in states.EVACUATING \
                and not (row.verb == "rebuild" and _stays(facts)):
            return Verdict(Act.WAIT, "evacuating", "This host was taken for lost, and the guest is "
                           "being started on another one.")
        if _taken(facts):
            return Verdict(Act.GIVE_WAY, "evacuated", "This host was taken for lost, and the guest "
                           "was started on another one, to which it belongs.")
        if rebooted and not _heard(facts):
            return Verdict(Act.WAIT, "unheard", "This host was booted, and whether the guest was "
                           "started on another one meanwhile cannot be asked now.")
    if row.state == rows.NEEDS_OPERATOR:
        return Verdict(Act.LEAVE, "operator", f"It waits for an operator: {row.message}")
    if row.state in (rows.UNDOING, rows.CONCLUDING):
        return Verdict(Act.CONTINUE, "undoing", "It was being undone, which goes on.")
    if committed:
        return Verdict(Act.CONTINUE, "committed",
                       f"It is past its point of no return and goes on from {at}.")
    if not _seen(facts):
        return _blind(facts)
    if row.abort:
        return Verdict(Act.ROLLBACK, "aborted", f"It was told to stop: {row.abort}.")
    if facts.deleted.known and facts.deleted.value and row.verb not in ("delete", "reap"):
        return Verdict(Act.ROLLBACK, "deleted", "The guest was deleted meanwhile.")
    if row.restarts > MOST_RESTARTS:
        return Verdict(Act.ROLLBACK, "restarts",
                       f"The agent was restarted {row.restarts} times while it was at {at}.")
    return Verdict(Act.CONTINUE, "resume", f"It goes on from {at}.")


def _stays(facts: GuestFacts) -> bool:
    """Whether no evacuation from this host goes on, which has the same tasks as a rebuild."""
    return facts.evacuated.known and not facts.evacuated.value


def _taken(facts: GuestFacts) -> bool:
    """Whether the guest was evacuated from this host, and is another's by now."""
    return facts.record.known and facts.record.value is None and bool(facts.elsewhere.value) \
        and bool(facts.evacuated.value)


def _heard(facts: GuestFacts) -> bool:
    """Whether the control plane said whose guest it is."""
    if facts.record.value is not None:
        return True
    return facts.record.known and facts.elsewhere.known and facts.evacuated.known


def of_guest(facts: GuestFacts, *, rebooted: bool, resume: bool, waited: bool,
             thaw: bool = False) -> Verdict:
    """What to do with a guest that no operation is working on.

    :param rebooted: the host was booted since the last pass.
    :param resume: the option resume_guests_state_on_host_boot.
    :param waited: the control plane's task_state stands long enough to call its message lost.
    :param thaw: the option resume_paused_guests, when another try is due.
    """
    if not facts.record.known:
        return Verdict(Act.WAIT, "no-record",
                       f"The control plane cannot be asked: {facts.record.why}")
    if facts.record.value is None:
        return _without_record(facts)
    if not _seen(facts):
        return _blind(facts)
    task = facts.fields.get("task_state")
    if task is not None:
        return _with_task(facts, task, waited)
    return _at_rest(facts, rebooted, resume, thaw)


def _seen(facts: GuestFacts) -> bool:
    """Whether this host could be looked at; nothing is done on half a picture."""
    return facts.domain.known and facts.disks.known


def _blind(facts: GuestFacts) -> Verdict:
    fact = facts.disks if facts.domain.known else facts.domain
    return Verdict(Act.WAIT, "blind", f"The {fact.source} cannot be observed: {fact.why}")


def _without_record(facts: GuestFacts) -> Verdict:
    if not facts.deleted.known:
        return Verdict(Act.WAIT, "no-record", "Whether it was deleted cannot be asked now.")
    if not _seen(facts):
        return _blind(facts)
    if facts.deleted.value and (facts.domain.value is not None or facts.claims):
        return Verdict(Act.REAP, "deleted-behind-us",
                       "The control plane says it is deleted; it is still on this host.", "reap")
    if facts.deleted.value and facts.disks.value:
        return Verdict(Act.REAP, "deleted-disks",
                       "The control plane says it is deleted; its disks are still here.", "reap")
    if facts.elsewhere.known and facts.elsewhere.value:
        return _belongs_elsewhere(facts)
    return Verdict(Act.REPORT, "unclaimed",
                   "It is on this host, and the control plane has no record of it here.")


def _belongs_elsewhere(facts: GuestFacts) -> Verdict:
    fields = data(facts.elsewhere.value)
    where = f"The control plane has it on host {fields.get('host')}"
    if fields.get("task_state") is not None or fields.get("vm_state") == states.RESIZED \
            and holds_way_back(facts.claims):
        return Verdict(Act.NOTHING, "under-way", f"{where}, and it is still on its way: what is "
                       "here is kept.")
    if facts.domain.value is None and not facts.claims:
        return Verdict(Act.NOTHING, "seen-disks", f"{where}, and its disks are seen from here.")
    return Verdict(Act.REAP, "moved-behind-us", f"{where}: what is left of it here is cleared, as "
                   "soon as that host has proven that it has it.", "vacate")


def _with_task(facts: GuestFacts, task: str, waited: bool) -> Verdict:
    verb = next((name for name, operation in OPERATIONS.items() if task in operation.adopts
                 and operation.adopted(facts.fields) is not None), "")
    if not waited:
        return Verdict(Act.WAIT, "fresh-task", f"Task {task} may have its message on the way.",
                       verb)
    if verb:
        return Verdict(Act.ADOPT, "lost-cast",
                       f"Task {task} is set and its message was lost: it is done now.", verb)
    if task in states.EVACUATING:
        if not _stays(facts):
            return Verdict(Act.WAIT, "taken", "This host was taken for lost, and the guest may be "
                           "started on another one.")
        return Verdict(Act.FAIL, "lost-rebuild", f"Task {task} is set, and the journal has no such "
                       "rebuild: its message was lost. Its disks are as they were.")
    if facts.fields.get("vm_state") == states.BUILDING and task in BUILD_TASKS:
        return Verdict(Act.FAIL, "lost-build",
                       f"Task {task} is set, and the journal has no such build.")
    return Verdict(Act.REPORT, "foreign-task",
                   f"Task {task} is set, and this version does not carry it out.")


def _at_rest(facts: GuestFacts, rebooted: bool, resume: bool, thaw: bool) -> Verdict:
    vm_state, domain = facts.fields.get("vm_state"), facts.domain.value
    recorded = facts.fields.get("power_state") or states.NOSTATE
    seen = domain.power_state if domain else states.NOSTATE
    if domain is not None and domain.job == "save":
        return Verdict(Act.WAIT, "saving", "The hypervisor writes its memory to disk.")
    if rebooted and resume and facts.disks.value and (ran_before(facts) or _is_off(facts) and any(
            claim.kind == BOOTED for claim in facts.claims)):
        asleep = domain is not None and domain.saved
        return Verdict(Act.START, "host-boot", "It ran before the host went down.",
                       "resume" if asleep else "start")
    if domain is None:
        return _without_domain(vm_state)
    if vm_state in (states.ACTIVE, states.PAUSED) and seen in OFF:
        if domain.saved:
            return Verdict(Act.SYNC, "saved-outside",
                           "It is off with its memory saved, which nobody here asked for: it "
                           "becomes suspended, so that a resume continues it.")
        return Verdict(Act.SYNC, "stopped-itself",
                       f"It is {states.POWER_NAMES[seen]} ({domain.reason}): it becomes stopped.")
    if vm_state == states.ACTIVE and seen == states.POWER_PAUSED and thaw \
            and domain.reason in CURABLE:
        return Verdict(Act.THAW, "thaw", "QEMU paused it because its storage failed: it is let "
                       "run, to see whether that is over.", "unpause")
    if seen != recorded:
        return Verdict(Act.SYNC, "power-state",
                       f"Its power state is {states.POWER_NAMES.get(seen, seen)} "
                       f"({domain.reason}), recorded as "
                       f"{states.POWER_NAMES.get(recorded, recorded)}.")
    return _agreed(facts, vm_state, seen)


def _is_off(facts: GuestFacts) -> bool:
    domain = facts.domain.value
    return facts.fields.get("vm_state") == states.ACTIVE and (
        domain is None or domain.power_state in OFF)


def ran_before(facts: GuestFacts) -> bool:
    """Whether a guest that is off is recorded as running, as after a boot of its host."""
    return facts.domain.known and _is_off(facts) \
        and facts.fields.get("power_state") == states.RUNNING


def _without_domain(vm_state: str | None) -> Verdict:
    if vm_state in HERE:
        return Verdict(Act.REPORT, "missing-domain",
                       f"It should be {vm_state} here, and the hypervisor does not know it. "
                       f"{'An unrescue' if vm_state == states.RESCUED else 'A hard reboot'} "
                       "defines and starts it again from its disks.")
    return Verdict(Act.NOTHING, "settled", "Nothing is going on, and all agrees.")


def _agreed(facts: GuestFacts, vm_state: str | None, seen: int) -> Verdict:
    """The power state is as recorded; is it what the guest's vm_state means?"""
    domain = facts.domain.value
    if vm_state == states.ACTIVE and seen == states.POWER_PAUSED:
        return Verdict(Act.REPORT, "frozen", "It is active, and stands still: " + frozen(domain))
    if vm_state == states.SUSPENDED and seen in OFF and not domain.saved:
        return Verdict(Act.REPORT, "memory-missing",
                       "It is suspended, and its saved memory is not on this host. A hard reboot "
                       "boots it from its disks.")
    if seen in AWAKE and any(claim.kind == "unplugged" for claim in facts.claims):
        return Verdict(Act.REPORT, "devices-out",
                       "It runs without devices that were unplugged when it was suspended, since "
                       "they could not be put back. A hard reboot gives it all of them.")
    return Verdict(Act.NOTHING, "settled", "Nothing is going on, and all agrees.")


def frozen(domain: Any) -> str:
    """Why the hypervisor paused a guest, and what to do, for people."""
    hint = FROZEN.get(domain.reason, "the hypervisor paused it ({reason}). Look at its log under "
                      "/var/log/libvirt/qemu; virsh resume {uuid} lets it go on.")
    return hint.format(uuid=domain.uuid, reason=domain.reason or "it gives no reason")


def thaw_due(tries: Sequence[float], now: float) -> bool:
    """Whether a guest that QEMU paused may be let run once more: at once, then after pauses that
    double from a minute on, a bounded number of times within a day.

    :param tries: when it was let run before, seconds since the epoch.
    """
    lately = [at for at in tries if now - at < DAY]
    if not lately:
        return True
    return len(lately) < THAWS and now - max(lately) >= THAW_SECONDS * 2 ** (len(lately) - 1)


def power_changes(facts: GuestFacts) -> dict[str, Any]:
    """The states to save for a SYNC verdict."""
    domain, vm_state = facts.domain.value, facts.fields.get("vm_state")
    changes: dict[str, Any] = {"power_state": domain.power_state}
    if vm_state not in (states.ACTIVE, states.PAUSED) or domain.power_state not in OFF:
        return changes
    changes["vm_state"] = states.SUSPENDED if domain.saved else states.STOPPED
    kept = facts.fields.get("system_metadata")
    if domain.saved and kept is not None:  # for its resume
        changes["system_metadata"] = {**kept, "old_vm_state": vm_state}
    return changes
