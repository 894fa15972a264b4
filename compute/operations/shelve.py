"""shelve: a guest is stopped and kept as an image (shelve_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import states, wire
from compute.steps.domain import PowerOff
from compute.steps.rebuild import Quieted
from compute.steps.record import Event, Fault, Finish, Restore
from compute.steps.shelve import (
    SHELVE,
    Offloaded,
    OffloadedDisks,
    OffloadedDomain,
    OffloadedPorts,
    Shelvable,
    Shelved,
)
from compute.steps.snapshot import Copy, Reserved, Tidy, Unfilled, Upload


class Shelve(Operation):
    """Undone, there is no image, and the guest runs again if it ran. With shelved_offload_time = 0
    it leaves the host in the same go."""

    verb = "shelve"
    event = "compute_shelve_instance"
    pool = "moves"
    steps = (
        Reserved(),         # the image waits to be filled
        Shelvable(),        # it is still wanted, and an image keeps all of it
        Event(),            # the tenant sees that it began
        Quieted(),          # asked to shut down, and given time
        PowerOff(),         # forced, if it still runs
        Copy(SHELVE, None, states.SHELVING_IMAGE_PENDING_UPLOAD),
        Upload(SHELVE, states.SHELVING_IMAGE_UPLOADING),
        Shelved(),          # shelved, with the image's id
        Tidy(),             # the copy beside the disk is gone
        OffloadedDomain(),  # from here on only when it leaves at once
        OffloadedPorts(),
        OffloadedDisks(),
        Offloaded(),        # on no host
        Finish(),           # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Unfilled(), Fault(), Restore(SHELVE), Finish())
    silent = OVERTAKEN
    adopts = frozenset(filter(None, SHELVE))

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        if args.get("image_id") == "":
            raise wire.malformed("Argument 'image_id' has to be the id of an image.")

    def adopted(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        return {"image_id": None, "clean_shutdown": True}
