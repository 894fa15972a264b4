"""live_in: receive a running guest from another host; the destination's half.

Begun by pre_live_migration. It ends when the guest is seen here, which
post_live_migration_at_destination only hastens, or when it will not come any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.live_destination import (
    Arrival,
    Arrived,
    DisksHere,
    Expected,
    Lease,
    MigrationDone,
    PortsHere,
    RecordHere,
)
from compute.steps.live_volumes import VolumesArrive, VolumesMapped
from compute.steps.record import Event, Finish


class LiveIn(Operation):
    """Until the guest is here everything is a lease, which ends by itself."""

    verb = "live_in"
    event = "compute_pre_live_migration"
    pool = "moves"
    steps = (
        Expected(),       # it is still to come
        Event(),          # the tenant sees that it began
        Lease(),          # room on this host
        PortsHere(),      # its networks are here
        VolumesArrive(),  # its volumes are connected here besides
        DisksHere(),      # base in the cache, disks for libvirt to fill
        Arrival(),        # it comes, or will not come
        Arrived(),        # its definition and disks are ours
        VolumesMapped(),  # its volumes are attached to this host
        RecordHere(),     # and so says the control plane
        MigrationDone(),
        Finish(),         # the tenant sees that it ended
    )
    final = "domain"
    conclusion = (Finish(),)
    silent = OVERTAKEN

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        try:
            told = json.loads(args["disk"])
            told["outgoing"]["disks"], told["generation"], told["migration"]
        except (KeyError, TypeError, ValueError) as error:
            raise wire.malformed("Argument 'disk' does not hold what a source of ours tells: "
                                 f"{error!r}.") from error
