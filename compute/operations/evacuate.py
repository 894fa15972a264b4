"""evacuate: make a guest again whose host is gone (rebuild_instance with recreate)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.evacuation import (
    TASKS,
    Evacuated,
    EvacuatedDisks,
    EvacuatedDomain,
    EvacuatedPower,
    EvacuatedRecord,
    EvacuationClaim,
    Former,
    WayBackGone,
)
from compute.steps.live_destination import PortsHere
from compute.steps.live_ends import MigrationEnd
from compute.steps.live_volumes import VolumesEvacuated, VolumesMapped
from compute.steps.record import Event, Fault, Finish, Restore


class Evacuate(Operation):
    """Until ``record`` everything here can be undone, and the guest still belongs to its host."""

    verb = "evacuate"
    event = "compute_rebuild_instance"
    pool = "moves"
    steps = (
        Evacuated(),        # it is still wanted, and its host is another
        Event(),            # the tenant sees that it began
        Former(),           # what an earlier stay left here is not taken for its newest
        EvacuationClaim(),  # room on this host
        PortsHere(),        # its networks are here
        VolumesEvacuated(),  # its volumes are connected to this host besides
        EvacuatedDisks(),   # shared ones, or new ones from its image
        EvacuatedDomain(),  # defined, a newer incarnation
        EvacuatedPower(),   # running, unless it was stopped
        EvacuatedRecord(),  # it belongs to this host
        VolumesMapped(),    # and so do its volumes
        WayBackGone(),      # of a resize that the loss of its host broke off
        MigrationEnd("done"),
        Finish(),           # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Restore(TASKS), MigrationEnd("failed"), Finish())
    silent = OVERTAKEN
    opens = "finish"

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if not args.get("recreate"):
            raise wire.malformed("Argument 'recreate' has to be true for an evacuation.")

    def seconds(self, conf: Any) -> float:
        return conf.timeouts.build


