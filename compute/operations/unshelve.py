"""unshelve: an offloaded guest gets disks from its image on this host (unshelve_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.disks import Image
from compute.steps.domain import PowerOn
from compute.steps.evacuation import EvacuatedDomain
from compute.steps.guest_volumes import VolumesHere
from compute.steps.live_destination import PortsHere
from compute.steps.record import Event, Fault, Finish
from compute.steps.shelve import (
    OwnDisks,
    ShelvedImageGone,
    StillOffloaded,
    UnshelveClaim,
    Unshelved,
    WantedHere,
)


class Unshelve(Operation):
    """Undone, it is offloaded as before, and its image is kept."""

    verb = "unshelve"
    event = "compute_unshelve_instance"
    steps = (
        WantedHere(),        # it is still wanted, and no other host has it
        Event(),             # the tenant sees that it began
        UnshelveClaim(),     # room on this host, and its record names it
        PortsHere(),         # its networks are here
        VolumesHere(),       # its volumes are connected to this host
        Image(),             # its image in the cache, inspected
        OwnDisks(),          # disks of its own, and a new config drive
        EvacuatedDomain(),   # defined, a newer incarnation
        PowerOn(),           # running
        Unshelved(),         # active
        ShelvedImageGone(),  # its image is not needed any more
        Finish(),            # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), StillOffloaded(), Finish())
    silent = OVERTAKEN

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if wire.image(args.get("image")) is None:
            raise wire.malformed("Argument 'image' has to describe the image of a shelved guest.")

    def seconds(self, conf: Any) -> float:
        return conf.timeouts.build
