"""snapshot: a guest's root disk becomes an image, while the guest goes on (snapshot_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish, Restore
from compute.steps.snapshot import SNAPSHOT, Copy, Reserved, Snapped, Tidy, Unfilled, Upload


class Snapshot(Operation):
    """The image is active once it is whole, and there is none when this is undone."""

    verb = "snapshot"
    event = "compute_snapshot_instance"
    pool = "moves"
    steps = (
        Reserved(),    # the image waits to be filled
        Admission(),   # the snapshot is still wanted
        Event(),       # the tenant sees that it began
        Copy(SNAPSHOT, states.IMAGE_SNAPSHOT, states.IMAGE_PENDING_UPLOAD),
        Upload(SNAPSHOT, states.IMAGE_UPLOADING),
        Snapped(SNAPSHOT),
        Tidy(),        # the copy beside the disk is gone
        Finish(),      # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Unfilled(), Fault(), Restore(SNAPSHOT), Finish())
    silent = OVERTAKEN
    adopts = frozenset(filter(None, SNAPSHOT))

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if args.get("image_id") == "":
            raise wire.malformed("Argument 'image_id' has to be the id of an image.")

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        return {"image_id": None}
