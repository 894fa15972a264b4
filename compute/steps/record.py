"""record, event, finish, fault: what the control plane and the tenant are told.

Publishing is a step like any other: retried until it is done. All saves compare and swap, so that a
tenant's delete is never trampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model import states
from compute.rpc.primitives import data
from compute.steps.admission import gone

FOR_EVER = 1_000_000


def publish(run: Run, changes: Mapping[str, Any], expected: list[str | None]) -> bool:
    """Save states if the guest's task_state is still one of ``expected``.

    After a lost answer the record may already say it: then it is left. A guest that is being
    deleted, or was, is left to the delete. A task_state of None (an operator's reset) counts as
    expected. Returns whether the record says what we wanted.
    """
    try:
        run.save(dict(changes), expected_task_state=expected)
        return True
    except Refused as error:
        if error.code in ("deleting", "guest_not_found"):
            return False
        if error.code != "stale":
            raise
    fresh = run.world.conductor.instance(run.context, run.row.guest)
    run.instance = fresh
    fields = data(fresh)
    if all(fields.get(key) == changes[key] for key in ("vm_state", "task_state")
           if key in changes):
        return True
    if fields.get("task_state") is None:
        return publish(run, changes, [None]) if None not in expected else False
    return False


def reread(run: Run) -> bool:
    """Read the Instance anew into ``run.instance``; False when the guest was deleted."""
    try:
        run.instance = run.world.conductor.instance(run.context, run.row.guest)
    except Refused as error:
        if error.code != "guest_not_found":
            raise
        return False
    return True


class Event(Step):
    """Begin the InstanceActionEvent that 'server event list' shows."""

    name = "event"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        run.world.conductor.event_start(run.context, run.row.guest,
                                        run.operation.event_name(run.request))


class Finish(Step):
    """End the InstanceActionEvent: Success, or Error with what went wrong.

    :param success: says whether an undone operation still counts as a success for the tenant, as a
        build that another host goes on with does.
    """

    name = "finish"
    attempts = FOR_EVER

    def __init__(self, success: Callable[[Run], bool] = lambda run: False):
        self.success = success

    def do(self, run: Run) -> None:
        error = run.row.error if run.undoing else None
        run.world.conductor.event_finish(
            run.context, run.row.guest, run.operation.event_name(run.request),
            dict(error) if error and not self.success(run) else None)


class Fault(Step):
    """Write the InstanceFault that 'server show' displays."""

    name = "fault"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        try:
            run.world.conductor.fault(run.context, run.row.guest, dict(run.row.error or {}))
        except Refused as error:
            if error.code != "guest_not_found":
                raise


class Record(Step):
    """Publish the new states.

    :param vm_state: what the guest is now.
    :param expected: task_states that this operation runs under.
    """

    name = "record"
    attempts = FOR_EVER

    def __init__(self, vm_state: str, expected: list[str | None]):
        self.vm_state, self.expected = vm_state, expected

    def do(self, run: Run) -> Any:
        found = run.world.driver.state(run.row.guest)
        changes = {
            "vm_state": self.vm_state, "task_state": None,
            "power_state": found.power_state if found else states.NOSTATE,
        }
        changes.update(self.more(run))
        return {"published": publish(run, changes, self.expected)}

    def more(self, run: Run) -> Mapping[str, Any]:
        """Further fields to save along."""
        return {}


class Restore(Step):
    """After a failure: no task any more; the guest stays what it was, or is in error.

    :param expected: task_states that the operation ran under.
    :param error_unless_running: vm_state becomes error when the guest does not run.
    """

    name = "restore"
    attempts = FOR_EVER

    def __init__(self, expected: list[str | None], error_unless_running: bool = False):
        self.expected, self.error_unless_running = expected, error_unless_running

    def do(self, run: Run) -> None:
        found = run.world.driver.state(run.row.guest)
        power = found.power_state if found else states.NOSTATE
        changes: dict[str, Any] = {"task_state": None, "power_state": power}
        if self.error_unless_running and power != states.RUNNING:
            changes["vm_state"] = states.ERROR
        publish(run, changes, self.expected)


class Gone(Step):
    """Publish that the guest is deleted: first its states, then the row."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        if gone(run):
            return
        cache = data(run.instance).get("info_cache")
        changes: dict[str, Any] = {
            "vm_state": states.DELETED, "task_state": None, "power_state": states.NOSTATE,
            "terminated_at": utc(run),
        }
        if cache:
            changes["info_cache"] = empty_cache(cache)
        try:
            run.save(changes)
            run.world.conductor.destroy_instance(run.context, run.instance)
        except Refused as error:
            if error.code != "guest_not_found":
                raise


def empty_cache(cache: Mapping[str, Any]) -> dict[str, Any]:
    """An InstanceInfoCache without addresses, named as changed."""
    return changed_cache(cache, "[]")


def changed_cache(cache: Mapping[str, Any], network_info: str) -> dict[str, Any]:
    """An InstanceInfoCache with new network_info, named as changed."""
    return {**cache, "nova_object.data": {**cache["nova_object.data"],
                                          "network_info": network_info},
            "nova_object.changes": ["network_info"]}


def utc(run: Run) -> str:
    """The operation's clock as a datetime field."""
    return datetime.fromtimestamp(run.world.clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
