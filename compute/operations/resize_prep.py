"""resize_prep: take room for a guest that changes its size or host (prep_resize, destination)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import MagnetarError
from compute.model import states, wire
from compute.rpc.primitives import data
from compute.steps.handover import HandOver
from compute.steps.migration_record import (
    FOR_EVER,
    Moving,
    NewMigrationEnds,
    migration_of,
    newest,
)
from compute.steps.record import Event, Fault, Finish
from compute.steps.resize import Returned, Room, new_flavor

# Trying another host would not help.
HOPELESS = {"aborted", "bad_request", "flavor_unacceptable", "image_unacceptable", "tpm_stays"}


def another_host(run: Run) -> bool:
    """Whether the scheduler offered a retry, has hosts left, and one could help."""
    args = run.request["args"]
    retry = (args.get("filter_properties") or {}).get("retry")
    return bool(retry) and args.get("host_list") != [] and \
        (run.row.error or {}).get("code") not in HOPELESS


class Elsewhere(Step):
    """handback: conductor tries the next host, under a new migration; or the guest stays what it
    is."""

    name = "handback"
    attempts = FOR_EVER
    stay = Returned([states.RESIZE_PREP], here=False)

    def do(self, run: Run) -> None:
        if not another_host(run):
            self.stay.do(run)
            return
        latest = newest(run, {})
        if latest is not None and data(latest)["id"] != migration_of(run)["id"]:
            return  # it was heard before
        args = run.request["args"]
        filters = dict(args["filter_properties"])
        filters["retry"] = {**filters["retry"], "exc_reason": [(run.row.error or {})["what"]]}
        run.world.conductor.migrate_server(
            run.context, instance=run.instance, scheduler_hint={"filter_properties": filters},
            live=False, rebuild=False, flavor=new_flavor(run), block_migration=None,
            disk_over_commit=None, reservations=None,
            clean_shutdown=args.get("clean_shutdown", True),
            request_spec=args.get("request_spec"), host_list=args.get("host_list"))


def for_the_source(run: Run) -> dict[str, Any]:
    """What resize_instance takes."""
    args = run.request["args"]
    return {"image": args.get("image"), "flavor": new_flavor(run),
            "clean_shutdown": args.get("clean_shutdown", True),
            "request_spec": args.get("request_spec")}


class ResizePrep(Operation):
    """The guest goes on running meanwhile; from ``handover`` on its host stops it."""

    verb = "resize_prep"
    event = "compute_prep_resize"
    steps = (
        Moving((states.RESIZE_PREP,), ("pre-migrating",), None, "source_compute"),
        Event(),   # the tenant sees that it began
        Room(),    # room for the new size; this host in the migration
        HandOver("resize_instance", "resize_out", "source_compute", for_the_source),
        Finish(),  # the tenant sees that it ended
    )
    final = "handover"
    conclusion = (Fault(), NewMigrationEnds("error"), Elsewhere(), Finish(success=another_host))
    silent = OVERTAKEN
    opens = "handover"
    pool = "moves"

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        wire.require(args, "migration", "Migration")
        wire.flavor(wire.require(args, "flavor", "Flavor"))

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        if error.code not in self.silent:
            return self.conclusion
        return self.conclusion[1:2]
