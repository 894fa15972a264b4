"""admission: does the control plane still want this?

A cast can arrive late. Whatever asked for it set a task_state first, and that state came along with
the message; if the record says something else by now, the message is stale and nothing is done.
"""

from __future__ import annotations

from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.rpc.primitives import data


class Admission(Step):
    """Re-read the Instance and compare it with the message.

    :param if_gone: go on when the control plane has no such guest any more (for a delete).
    """

    name = "admission"
    attempts = 1_000_000  # a conductor that is away delays, it does not fail anything

    def __init__(self, if_gone: bool = False):
        self.if_gone = if_gone

    def do(self, run: Run) -> Any:
        sent = data(run.request["args"]["instance"])
        try:
            run.instance = run.world.conductor.instance(run.context, run.row.guest)
        except Refused as error:
            if error.code != "guest_not_found":
                raise
            if self.if_gone:
                run.instance = run.request["args"]["instance"]
                return {"gone": True}
            raise _deleted(run.row.guest) from error
        fresh = data(run.instance)
        if fresh.get("deleted"):
            if self.if_gone:
                return {"gone": True}
            raise _deleted(run.row.guest)
        if fresh.get("task_state") != sent.get("task_state"):
            raise Refused(
                f"The request to {run.row.verb} guest {run.row.guest} is stale: it was sent while "
                f"the task state was {sent.get('task_state')}, which is now "
                f"{fresh.get('task_state')}.",
                now="Nothing was done.", next="Ask again if it is still wanted.", code="stale")
        if fresh.get("host") not in (None, run.world.host):
            raise Refused(
                f"Guest {run.row.guest} belongs to host {fresh.get('host')}, not to this one.",
                now="Nothing was done.", next="Ask again; the control plane knows the host.",
                code="stale")
        return {"gone": False, "vm_state": fresh.get("vm_state")}


def _deleted(guest: str) -> Refused:
    return Refused(f"Guest {guest} is deleted, or was never there, as the control plane says.",
                   now="Nothing was done.", code="guest_not_found",
                   next=f"What is left of it on this host: 'magnetar explain {guest}'.")


def gone(run: Run) -> bool:
    """Whether the control plane had no such guest when the operation began."""
    return bool((run.outcome("admission") or {}).get("gone"))
