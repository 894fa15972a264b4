"""rebuild: a guest gets new disks from an image, and stays what it is (rebuild_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.disks import Image
from compute.steps.domain import PowerOff
from compute.steps.ports import Plug
from compute.steps.rebuild import (
    AsBefore,
    FormerAside,
    FormerGone,
    NewDisks,
    NewDomain,
    NewPower,
    Quieted,
    Rebuilt,
    Wanted,
)
from compute.steps.record import Event, Fault, Finish
from compute.steps.sleep import Discard


class Rebuild(Operation):
    """Name, addresses, MAC addresses and metadata stay. Until ``record`` its former disks are kept,
    and undone it runs on them again."""

    verb = "rebuild"
    event = "compute_rebuild_instance"
    steps = (
        Wanted(),       # it is still wanted, here
        Event(),               # the tenant sees that it began
        Image(),               # the image in the cache, inspected, and it fits the flavor
        Quieted(),      # asked to shut down, and given time
        PowerOff(),            # forced, if it still runs
        FormerAside(),         # the former disks, renamed
        NewDisks(),            # new ones, and a new config drive
        Plug(),                # its networks are here
        NewDomain(),           # defined for the new image
        Discard(),      # a saved memory belongs to the former disks
        NewPower(),            # running, unless it was stopped
        Rebuilt(),      # active or stopped
        FormerGone(),          # the former disks are deleted
        Finish(),       # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), AsBefore(), Finish())
    silent = OVERTAKEN

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if args.get("recreate"):
            raise wire.malformed("Argument 'recreate' has to be false for a rebuild in place.")

    def seconds(self, conf: Any) -> float:
        return conf.timeouts.build
