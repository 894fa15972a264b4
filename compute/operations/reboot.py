"""reboot: soft with a fallback, or hard, the universal repair (reboot_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.disks import DisksPresent
from compute.steps.domain import Domain, PowerOff, PowerOn, Shutdown
from compute.steps.ports import Plug
from compute.steps.record import Event, Fault, Finish, Record, Restore, publish
from compute.steps.rescue import RescueDisksGone
from compute.steps.sleep import Discard

SOFT = [states.REBOOTING, states.REBOOT_PENDING, states.REBOOT_STARTED]
HARD = [states.REBOOTING_HARD, states.REBOOT_PENDING_HARD, states.REBOOT_STARTED_HARD]
TASKS: list[str | None] = [*SOFT, *HARD]


class Started(Step):
    """started: the control plane sees that the reboot is under way."""

    name = "started"
    attempts = 1_000_000

    def do(self, run: Run) -> None:
        hard = run.request["args"]["reboot_type"] == "HARD"
        task = states.REBOOT_STARTED_HARD if hard else states.REBOOT_STARTED
        if not publish(run, {"task_state": task}, TASKS):
            raise Refused(f"Guest {run.row.guest} is no longer to be rebooted: its task changed.",
                          now="Nothing was done to the guest.", code="deleting")


class Reboot(Operation):
    """A soft reboot that takes too long goes on as a hard one; both define the domain anew."""

    verb = "reboot"
    event = "compute_reboot_instance"
    steps = (
        Admission(),              # the reboot is still wanted
        Event(),                  # the tenant sees that it began
        DisksPresent(),           # its disks are here
        Started(),                # reboot_started, or reboot_started_hard
        Shutdown("soft_reboot"),  # soft only: asked, and given time
        PowerOff(),               # forced, if it still runs
        Plug(),                   # its networks are here
        Domain(keep=True),        # defined anew
        Discard(),                # no saved memory: it boots
        PowerOn(),                # running
        Record(states.ACTIVE, TASKS),
        RescueDisksGone(),        # what a rescue left that came to no end
        Finish(),                 # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore(TASKS, error_unless_running=True), Finish())
    silent = OVERTAKEN
    adopts = frozenset(task for task in TASKS if task)

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if args.get("reboot_type") not in ("SOFT", "HARD"):
            raise wire.malformed("Argument 'reboot_type' has to be SOFT or HARD.")

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"reboot_type": "SOFT" if fields.get("task_state") in SOFT else "HARD"}
