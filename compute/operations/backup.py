"""backup: a snapshot, of which older ones make way for the new one (backup_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.record import Event, Fault, Finish, Restore
from compute.steps.snapshot import BACKUP, Copy, Reserved, Rotate, Snapped, Tidy, Unfilled, Upload


class Backup(Operation):
    """No older backup is removed before the new one is active."""

    verb = "backup"
    event = "compute_backup_instance"
    pool = "moves"
    steps = (
        Reserved(),    # the image waits to be filled
        Admission(),   # the backup is still wanted
        Event(),       # the tenant sees that it began
        Copy(BACKUP, None, states.IMAGE_PENDING_UPLOAD),
        Upload(BACKUP, states.IMAGE_UPLOADING),
        Rotate(),      # older ones beyond their number are removed
        Snapped(BACKUP),
        Tidy(),        # the copy beside the disk is gone
        Finish(),      # the tenant sees that it ended
    )
    final = "rotation"
    conclusion = (Unfilled(), Fault(), Restore(BACKUP), Finish())
    silent = OVERTAKEN
    adopts = frozenset({states.IMAGE_BACKUP})

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        rotation = args.get("rotation")
        if args.get("image_id") == "" or rotation is not None and rotation < 0:
            raise wire.malformed("A backup needs the id of an image in 'image_id', and a number "
                                 "from 0 in 'rotation'.")

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """How many to keep is lost with the message: then all are kept."""
        return {"image_id": None, "backup_type": "", "rotation": None}
