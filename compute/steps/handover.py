"""handover: the agent of another host goes on with a move.

A cast may be lost, so it is sent until the other agent's journal shows the operation. Sent twice it
has one effect, since that agent knows the request by its id. From the first cast on nothing can be
taken back: it may have been heard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.engine.world import Context
from compute.errors import Refused, Unknown
from compute.model import states
from compute.rpc.primitives import data
from compute.steps.migration_record import FOR_EVER, fresh, migration_of

SEEN_SECONDS = 5.0  # how long a cast may take to show in the other agent's journal

Arguments = Callable[[Run], Mapping[str, Any]]


class HandOver(Step):
    """Send a message to the other end, and see that it arrived.

    :param method: of the compute RPC API.
    :param verb: the operation that it becomes there.
    :param end: the field of the Migration that names the host.
    :param arguments: gives the method's arguments besides instance and migration.
    """

    name = "handover"
    attempts = FOR_EVER

    def __init__(self, method: str, verb: str, end: str, arguments: Arguments):
        self.method, self.verb, self.end, self.arguments = method, verb, end, arguments

    def do(self, run: Run) -> Any:
        if (run.outcome("leave") or {}).get("published") is False:
            return {"seen": False}  # the guest is being deleted: nobody has to go on
        if unwanted(run):
            return {"seen": False}
        hand_over(run, migration_of(run)[self.end] or data(fresh(run))[self.end], self.method,
                  self.verb, self.arguments)
        return {"seen": True}


def unwanted(run: Run) -> bool:
    """Whether nobody has to go on: the guest is deleted, or is being deleted by a request that
    waits for this operation; or the other end was given up as lost, and the guest is started
    elsewhere."""
    try:
        fields = data(run.world.conductor.instance(run.context, run.row.guest))
    except Refused as error:
        if error.code != "guest_not_found":
            raise
        return True
    ends = migration_of(run)
    hosts = (run.world.host, ends.get("source_compute"), ends.get("dest_compute"))
    return fields.get("task_state") in (states.DELETING, *states.EVACUATING) \
        or fields.get("host") not in hosts


def hand_over(run: Run, host: str, method: str, verb: str, arguments: Arguments) -> None:
    """Cast a method to a host unless its agent has the operation already, and see it there.

    :raises Unknown: code ``not_seen``; it is sent again then.
    """
    context = named(run)
    before = seen(run, host, verb)
    if before:
        return
    run.world.peers.cast(context, host, method, instance=run.instance, migration=fresh(run),
                         **arguments(run))
    if before is None or run.wait(lambda: bool(seen(run, host, verb)), SEEN_SECONDS):
        return
    raise Unknown(f"Host {host} did not take up {method} for guest {run.row.guest} within "
                  f"{SEEN_SECONDS:g} s.", next="It is sent again until it does.",
                  code="not_seen")


def named(run: Run) -> Context:
    """The caller's context, with a request id even if the message had none: the other agent tells
    a message that comes twice by it."""
    return {**run.context, "request_id": run.context.get("request_id") or run.row.request_id}


def seen(run: Run, host: str, verb: str) -> bool | None:
    """Whether the host's agent has this request in its journal; None when the agent there is none
    of ours and cannot be asked: then a message that was sent counts as heard."""
    try:
        view = run.world.peers.look(host, run.row.guest)
    except Refused as error:
        if error.code != "no_peer":
            raise
        return None
    wanted = named(run)["request_id"]
    return any(row["verb"] == verb and row["request_id"] == wanted for row in view.operations)
