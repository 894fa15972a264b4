"""live_out: move a running guest to another host; the source's half (live_migration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import MagnetarError
from compute.model import states, wire
from compute.steps.admission import Admission
from compute.steps.claim import Release
from compute.steps.guest_volumes import VolumesLeft
from compute.steps.live_ends import (
    ConsoleLeft,
    DisksLeft,
    DomainLeft,
    MigrationEnd,
    PortsLeft,
    Switched,
)
from compute.steps.live_source import Destination, Queue, Strategy, Transfer, asked_of
from compute.steps.record import Event, Fault, Finish, Restore


class LiveOut(Operation):
    """Until ``transfer`` has happened it can be undone, and the guest never noticed; from there
    the guest is the destination's. What both ends show decides which it is."""

    verb = "live_out"
    event = "compute_live_migration"
    pool = "moves"
    steps = (
        Admission(),      # the migration is still wanted
        Event(),          # the tenant sees that it began
        Queue(),          # room for it among the migrations of this host and link
        Destination(),    # the other host has room, networks and disks for it: a lease
        Strategy(),       # how the memory shall go over
        Transfer(),       # it goes over
        Switched(),       # the other host makes it its own
        DomainLeft(),     # no definition stays here
        ConsoleLeft(),    # what it wrote to its console until it left goes after it
        VolumesLeft(),    # no volume is connected here any more
        PortsLeft(),      # no tap and no address stay here
        DisksLeft(),      # no copy stays here
        Release(),        # claims
        MigrationEnd("completed"),
        Finish(),         # the tenant sees that it ended
    )
    final = "switched"
    conclusion = (Fault(), Restore([states.MIGRATING]), MigrationEnd(), Finish())
    silent = OVERTAKEN
    opens = "finish"

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        wire.require(args, "migration", "Migration")
        if not isinstance(args.get("dest"), str) or not args["dest"]:
            raise wire.malformed("Argument 'dest' has to name a host.")
        asked_of(args)

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        fault, restore, migration, finish = self.conclusion
        if error.code in self.silent:
            return (migration,)
        return (restore, migration, finish) if error.code == "aborted" else self.conclusion
