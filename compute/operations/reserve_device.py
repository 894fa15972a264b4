"""reserve_device: a name in a guest for a volume that is to come (reserve_block_device_name)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.record import Fault
from compute.steps.reserving import Reserved


class ReserveDevice(Operation):
    """Nova has no event for it. What is reserved and never attached goes after a while."""

    verb = "reserve_device"
    steps = (
        Admission(),  # the guest is still here, and nothing else was asked of it
        Reserved(),   # a block device mapping, with a name that is free
    )
    conclusion = (Fault(),)
    silent = OVERTAKEN
    opens = "mapping"

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if not isinstance(args.get("volume_id"), str) or not args["volume_id"]:
            raise wire.malformed("Argument 'volume_id' has to be a volume's id.")
        for name in ("device", "disk_bus", "device_type", "tag"):
            if not isinstance(args.get(name), str | None):
                raise wire.malformed(f"Argument '{name}' has to be text or null.")
