"""decide: pure tables from facts to a verdict with its reason. Touches nothing.

Each row has a name, so that a test can walk all of them. An unknown fact never gives a destructive
verdict.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from compute.model import states
from compute.operations.reboot import is_reboot
from compute.recovery.observe import GuestFacts
from db.journal import OperationRow, rows

OFF = (states.SHUTDOWN, states.CRASHED)  # what a hypervisor is sure of; NOSTATE says nothing
MOST_RESTARTS = 3  # restarts at one step before an operation that can be undone is
TASK_VERBS = {states.DELETING: "delete", states.POWERING_OFF: "stop",
              states.POWERING_ON: "start"}
# Tasks of verbs that this version answers with "not implemented": their task is cleared.
UNSUPPORTED_TASKS = {
    "pausing": "pause_instance", "unpausing": "unpause_instance",
    "suspending": "suspend_instance", "resuming": "resume_instance",
    "rescuing": "rescue_instance", "unrescuing": "unrescue_instance",
    "soft-deleting": "soft_delete_instance", "restoring": "restore_instance",
    "image_snapshot_pending": "snapshot_instance", "shelving": "shelve_instance",
}
BUILD_TASKS = (states.NETWORKING, states.BLOCK_DEVICE_MAPPING, states.SPAWNING)


class Act(enum.Enum):
    """What reconcile does."""

    CONTINUE = "continue"  # the operation goes on where it was
    ROLLBACK = "roll back"  # the operation is undone
    WAIT = "wait"  # a fact is missing; nothing is done
    LEAVE = "leave"  # an operator has to decide; nothing is done
    ADOPT = "adopt"  # do what the control plane waits for: the message was lost
    FAIL = "fail"  # tell the control plane that the build is lost
    REAP = "reap"  # remove what the control plane says is deleted
    SYNC = "sync"  # correct the states in the control plane
    START = "start"  # power on again after a host boot
    REPORT = "report"  # tell people; touch nothing
    NOTHING = "nothing"  # all is as it should be


@dataclass(frozen=True)
class Verdict:
    """What to do about a guest or an operation, by which row of the table, and why."""

    act: Act
    row: str
    reason: str
    verb: str = ""


def of_operation(row: OperationRow, committed: bool, facts: GuestFacts) -> Verdict:
    """What to do with an operation that is in the journal and has no worker."""
    at = f"step {row.step}" if row.step else "its first step"
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


def of_guest(facts: GuestFacts, *, rebooted: bool, resume: bool, waited: bool) -> Verdict:
    """What to do with a guest that no operation is working on.

    :param rebooted: the host was booted since the last pass.
    :param resume: the option resume_guests_state_on_host_boot.
    :param waited: the control plane's task_state stands long enough to call its message lost.
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
    return _at_rest(facts, rebooted, resume)


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
    return Verdict(Act.REPORT, "unclaimed",
                   "It is on this host, and the control plane has no record of it here.")


def _with_task(facts: GuestFacts, task: str, waited: bool) -> Verdict:
    verb = TASK_VERBS.get(task) or ("reboot" if is_reboot(facts.fields) else "")
    if not waited:
        return Verdict(Act.WAIT, "fresh-task", f"Task {task} may have its message on the way.",
                       verb)
    if verb:
        return Verdict(Act.ADOPT, "lost-cast",
                       f"Task {task} is set and its message was lost: it is done now.", verb)
    if task in UNSUPPORTED_TASKS:
        return Verdict(Act.ADOPT, "unsupported-task",
                       f"Task {task} is set, which this version does not carry out: it is cleared.",
                       "unsupported")
    if facts.fields.get("vm_state") == states.BUILDING and task in BUILD_TASKS:
        return Verdict(Act.FAIL, "lost-build",
                       f"Task {task} is set, and the journal has no such build.")
    return Verdict(Act.REPORT, "foreign-task",
                   f"Task {task} is set, and this version does not carry it out.")


def _at_rest(facts: GuestFacts, rebooted: bool, resume: bool) -> Verdict:
    vm_state, domain = facts.fields.get("vm_state"), facts.domain.value
    recorded = facts.fields.get("power_state") or states.NOSTATE
    seen = domain.power_state if domain else states.NOSTATE
    off = domain is None or seen in OFF
    if vm_state == states.ACTIVE and off:
        if rebooted and resume and recorded == states.RUNNING and facts.disks.value:
            return Verdict(Act.START, "host-boot", "It ran before the host went down.", "start")
        if domain is None:
            return Verdict(Act.REPORT, "missing-domain",
                           "It should run, and the hypervisor does not know it. A hard reboot "
                           "defines and starts it again from its disks.")
        return Verdict(Act.SYNC, "stopped-itself",
                       f"It is {states.POWER_NAMES[seen]} ({domain.reason}): it becomes stopped.")
    if seen != recorded and domain is not None:
        return Verdict(Act.SYNC, "power-state",
                       f"Its power state is {states.POWER_NAMES.get(seen, seen)} "
                       f"({domain.reason}), recorded as "
                       f"{states.POWER_NAMES.get(recorded, recorded)}.")
    return Verdict(Act.NOTHING, "settled", "Nothing is going on, and all agrees.")


def power_changes(facts: GuestFacts) -> dict[str, Any]:
    """The states to save for a SYNC verdict."""
    domain = facts.domain.value
    changes: dict[str, Any] = {"power_state": domain.power_state}
    if facts.fields.get("vm_state") == states.ACTIVE and domain.power_state in OFF:
        changes["vm_state"] = states.STOPPED
    return changes
