"""rescue: boot another system beside the guest's own disks, so that they can be mended
(rescue_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.disks import DisksPresent
from compute.steps.domain import PowerOff, PowerOn
from compute.steps.ports import Plug
from compute.steps.record import Event, Fault, Finish
from compute.steps.rescue import (
    AsBefore,
    Rescued,
    RescueDisks,
    RescueDomain,
    RescueImage,
    ShutdownForNow,
)
from compute.steps.sleep import Discard


class Rescue(Operation):
    """Undone, the guest runs its own system again, if it ran before."""

    verb = "rescue"
    event = "compute_rescue_instance"
    steps = (
        Admission(),        # the rescue is still wanted
        Event(),            # the tenant sees that it began
        DisksPresent(),     # what shall be mended is here
        RescueImage(),      # the rescue system's image is in the cache
        RescueDisks(),      # and a disk of it beside the guest's own
        ShutdownForNow(),   # asked, and given time
        PowerOff(),         # forced, if it still runs
        Plug(),             # its networks are here
        RescueDomain(),     # defined to boot the rescue system
        Discard(),          # no saved memory: it boots
        PowerOn(),          # the rescue system runs
        Rescued(),          # rescued, and since when
        Finish(),           # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), AsBefore([states.RESCUING]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.RESCUING})

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if not isinstance(args.get("clean_shutdown", True), bool):
            raise wire.malformed("Argument 'clean_shutdown' has to be true or false.")

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The record does not tell image and password: the request is ended."""
        return {"lost": True}
