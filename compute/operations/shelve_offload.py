"""shelve_offload: a shelved guest gives its disks and its room back (shelve_offload_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.domain import PowerOff
from compute.steps.record import Event, Fault, Finish, Restore
from compute.steps.shelve import (
    OFFLOAD,
    Kept,
    Offloaded,
    OffloadedDisks,
    OffloadedDomain,
    OffloadedPorts,
)


class ShelveOffload(Operation):
    """Nothing is removed unless its image is active; from then on it only goes forward."""

    verb = "shelve_offload"
    event = "compute_shelve_offload_instance"
    steps = (
        Admission(),        # it is still wanted
        Event(),            # the tenant sees that it began
        Kept(),             # its image is there
        PowerOff(),         # stopped, should somebody have started it
        OffloadedDomain(),
        OffloadedPorts(),
        OffloadedDisks(),
        Offloaded(),        # on no host
        Finish(),           # the tenant sees that it ended
    )
    final = "domain"
    opens = "offloaded"
    conclusion = (Fault(), Restore(OFFLOAD), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.SHELVING_OFFLOADING})

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
