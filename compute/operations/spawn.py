"""spawn: build a guest from an image and let it run (build_and_run_instance)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import Operation
from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import MagnetarError, Refused, Unknown
from compute.model import states, wire
from compute.rpc.primitives import data
from compute.steps.claim import Claim
from compute.steps.disks import Disks, Image
from compute.steps.domain import Domain, PowerOn
from compute.steps.guest_volumes import Volumes
from compute.steps.ports import DeviceNames, Ports
from compute.steps.record import Event, Fault, Finish, Record, utc

TASKS = [states.SCHEDULING, states.NETWORKING, states.BLOCK_DEVICE_MAPPING, states.SPAWNING, None]
# Trying another host would not help.
HOPELESS = {"image_unacceptable", "image_not_found", "flavor_unacceptable",
            "flavor_disk_too_small", "flavor_memory_too_small", "invalid_user_data",
            "invalid_files", "bad_request", "deadline", "aborted"}
# Nobody is waiting for a word of ours any more.
NOT_OURS = {"stale", "deleting", "guest_not_found"}


class Spawned(Record):
    """The guest is active, with its machine written down for life."""

    def __init__(self) -> None:
        super().__init__(states.ACTIVE, [states.SPAWNING])

    def more(self, run: Run) -> Mapping[str, Any]:
        machine = {f"image_{key}": value for key, value in (run.outcome("domain") or {}).items()}
        kept = data(run.instance).get("system_metadata") or {}
        return {"launched_at": utc(run), "system_metadata": {**kept, **machine}}


class Handback(Step):
    """handback: give the build back to be tried elsewhere, or put the guest in error.

    The message may have reached two hosts, or this word of ours may have been heard already: a
    guest that another host has, or that is no longer being built, is left alone.
    """

    name = "handback"
    attempts = 1_000_000

    def do(self, run: Run) -> None:
        fields = self.ours(run)
        if fields is None:
            return
        again = can_reschedule(run)
        changes = {
            "host": None, "node": None, "compute_id": None, "availability_zone": None,
            "launched_on": None, "system_metadata": {
                **(fields.get("system_metadata") or {}), "network_allocated": "False",
                "boot_roles": roles(run)},
            "vm_state": states.BUILDING if again else states.ERROR,
            "task_state": states.SCHEDULING if again else None,
        }
        try:
            run.save(changes, expected_task_state=[fields.get("task_state")],
                     expected_vm_state=[states.BUILDING])
        except Refused as error:
            raise Unknown(f"Guest {run.row.guest} changed while its build was handed back.",
                          next="It is looked at again.", code="changed") from error
        if again:
            run.world.conductor.build_instances(run.context, **reschedule_args(run))

    def ours(self, run: Run) -> Mapping[str, Any] | None:
        """The guest's record as it is now, None if it is not for us to change."""
        try:
            run.instance = run.world.conductor.instance(run.context, run.row.guest)
        except Refused as error:
            if error.code != "guest_not_found":
                raise
            return None
        fields = data(run.instance)
        building = fields.get("vm_state") == states.BUILDING and fields.get("task_state") in TASKS
        return fields if building and fields.get("host") in (None, run.world.host) else None


def roles(run: Run) -> str:
    """The caller's roles, as Nova keeps them with the guest."""
    return ",".join(run.context.get("roles") or ())


def can_reschedule(run: Run) -> bool:
    """Whether the scheduler offered a retry, and one could help."""
    retry = (run.request["args"].get("filter_properties") or {}).get("retry")
    return bool(retry) and (run.row.error or {}).get("code") not in HOPELESS


def reschedule_args(run: Run) -> dict[str, Any]:
    """What conductor's build_instances takes, from what build_and_run_instance brought."""
    args, secrets = run.request["args"], run.world.secrets.load(run.row.id, "guest")
    filters = dict(args.get("filter_properties") or {})
    filters["retry"] = {**filters["retry"], "exc_reason": [(run.row.error or {}).get("what", "")]}
    return {
        "instances": [run.instance], "image": args.get("image"), "filter_properties": filters,
        "admin_password": secrets.get("admin_pass"), "injected_files": secrets.get("files") or [],
        "requested_networks": args.get("requested_networks"),
        "security_groups": args.get("security_groups"),
        "block_device_mapping": args.get("block_device_mapping"),
        "request_spec": args.get("request_spec"), "host_lists": [args.get("host_list") or []],
        "legacy_bdm": False,
    }


class Spawn(Operation):
    """Until ``record`` everything can be undone; from there the guest is the tenant's."""

    verb = "spawn"
    event = "compute__do_build_and_run_instance"
    steps = (
        Event(),        # the tenant sees that it began
        Claim(),        # room on this host, and host and node in the control plane's record
        Ports(),        # addresses; networks present on this host
        DeviceNames(),  # block device mappings get their device names
        Volumes(),      # made if need be, connected to this host
        Image(),        # base in the cache, inspected
        Disks(),        # overlay and config drive
        Domain(),       # defined, not running
        PowerOn(),      # running
        Spawned(),      # active
        Finish(),       # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Handback(), Finish(success=can_reschedule))

    def seconds(self, conf: Any) -> float:
        return conf.timeouts.build

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        if not wire.instance_of(args).get("flavor"):
            raise wire.malformed("The Instance to build comes without its flavor.")
        try:
            wire.guest(args["instance"], args.get("image"))
            wire.network_requests(args.get("requested_networks"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise wire.malformed(f"The guest to build cannot be read: {error!r}.") from error

    def concludes(self, run: Run, error: MagnetarError) -> tuple[Step, ...]:
        fault, handback, finish = self.conclusion
        if error.code in NOT_OURS:
            return (finish,)
        return (handback, finish) if can_reschedule(run) else (fault, handback, finish)
