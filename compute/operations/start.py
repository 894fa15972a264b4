"""start: power a stopped guest on (start_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.disks import DisksPresent
from compute.steps.domain import Domain, PowerOn
from compute.steps.ports import Plug
from compute.steps.record import Event, Fault, Finish, Restore
from compute.steps.shelve import ShelvedImageGone, Started
from compute.steps.sleep import Discard


class Start(Operation):
    """The domain is defined anew, so that the guest starts as configured now."""

    verb = "start"
    event = "compute_start_instance"
    steps = (
        Admission(),         # the start is still wanted
        Event(),             # the tenant sees that it began
        DisksPresent(),      # its disks are here
        Plug(),              # its networks are here
        Domain(keep=True),   # defined anew
        Discard(),           # no saved memory: it boots
        PowerOn(),           # running
        Started(),           # active, and shelved no more
        ShelvedImageGone(),  # the image that a shelved guest was kept as is not needed
        Finish(),            # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore([states.POWERING_ON]), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.POWERING_ON})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
