"""Ways through moves: what the control plane asks for, and what becomes of it by itself."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compute.errors import MagnetarError
from compute.model import states
from tests import fakes
from tests.crash import volumes
from tests.crash.hosts import GUEST, HOSTS, Hosts

BIG = 2  # GiB of the new flavor's disk
SENT = "nova_object.data"


@dataclass(frozen=True)
class Way:
    """One way through a move.

    :param ask: prepares the guest and sends what the control plane sends.
    :param verbs: whose crash points lie on it.
    :param ends: endings that are right; see Hosts.problems. The first is that of a run without
        a kill.
    :param fault: what goes wrong in the fabric by itself, and ``later``: (seconds, what is done)
        after the request.
    :param fail_at: a crash point at which the step fails once.
    :param after: another way that happens before it.
    :param away: a host whose agent is gone, and how long.
    """

    name: str
    ask: Callable[[Hosts], None]
    verbs: tuple[str, ...]
    ends: tuple[Mapping[str, Any], ...]
    fault: Mapping[str, Any] = field(default_factory=dict)
    fail_at: str | None = None
    after: str | None = None
    shared: bool = False
    away: tuple[str, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    later: tuple[tuple[float, Callable[[Hosts], None]], ...] = ()


# -- what the control plane does ------------------------------------------------------------------
def instance(hosts: Hosts, **values: Any) -> dict:
    """The Instance with fields set, as it is sent."""
    return hosts.conductor.set(GUEST, **values)


def migration(hosts: Hosts, status: str, dest: str | None, kind: str) -> dict:
    """A new Migration."""
    made = fakes.migration(GUEST, "host1", dest, status=status, migration_type=kind, id=7)
    hosts.conductor.add_migration(made)
    return made


def present(hosts: Hosts, status: str) -> dict:
    """The Migration, carried forward by the API."""
    prim = hosts.conductor.migration({}, 7)
    return hosts.conductor.save({}, prim, {"status": status})


def spawn(hosts: Hosts) -> None:
    prim = fakes.instance(uuid=GUEST)
    hosts.conductor.add(prim)
    hosts.cast("host1", "build_and_run_instance", **volumes.with_blank(
        hosts.conductor, fakes.build_args(prim)))


def live(hosts: Hosts) -> None:
    prim = instance(hosts, task_state=states.MIGRATING)
    moving = migration(hosts, "accepted", "host2", "live-migration")
    handlers, _ = hosts.exchange.agents["host2"]
    asked = {"instance": prim, "block_migration": None, "disk_over_commit": None,
             "migration": moving, "limits": None}
    checked = hosts.hub.carry("host2", lambda: handlers.check_can_live_migrate_destination(
        {"request_id": "req-2"}, asked), 60)
    hosts.cast("host1", "live_migration", dest="host2", instance=prim, block_migration=None,
               migration=moving, migrate_data=checked)


def resize(hosts: Hosts, dest: str = "host2") -> None:
    prim = instance(hosts, task_state=states.RESIZE_PREP,
                    old_flavor=fakes.flavor(), new_flavor=None)
    moving = migration(hosts, "pre-migrating", None, "resize")
    hosts.cast(dest, "prep_resize", image={"id": fakes.IMAGE_ID}, instance=prim,
               flavor=fakes.flavor(id=2, flavorid="2", name="big", root_gb=BIG),
               request_spec={}, filter_properties={}, node=dest, clean_shutdown=True,
               migration=moving, host_list=[])


def resize_late(hosts: Hosts) -> None:
    """Its message comes when the guest has no task any more."""
    resize(hosts)
    instance(hosts, task_state=None)


def resize_here(hosts: Hosts) -> None:
    resize(hosts, "host1")


def confirm(hosts: Hosts) -> None:
    moving = present(hosts, "confirming")
    hosts.cast("host1", "confirm_resize", instance=instance(hosts), migration=moving)


def revert(hosts: Hosts) -> None:
    prim = instance(hosts, task_state=states.RESIZE_REVERTING)
    moving = present(hosts, "reverting")
    hosts.cast(prim[SENT]["host"], "revert_resize", instance=prim, migration=moving,
               request_spec={})


def evacuate(hosts: Hosts) -> None:
    prim = instance(hosts, task_state=states.REBUILDING)
    moving = migration(hosts, "accepted", None, "evacuation")
    hosts.cast("host2", "rebuild_instance", instance=prim, new_pass="", injected_files=[],
               image_ref=fakes.IMAGE_ID, orig_image_ref=fakes.IMAGE_ID, orig_sys_metadata={},
               bdms={}, recreate=True, on_shared_storage=None, preserve_ephemeral=False,
               migration=moving, scheduled_node="host2", limits={}, request_spec={})


def evacuate_again(hosts: Hosts) -> None:
    """To a host that still has what an earlier stay of the guest left there."""
    here, there = (hosts.world(host).driver for host in ("host1", "host2"))
    shutil.copytree(here._dir(GUEST), there._dir(GUEST))
    there._write(GUEST, {**here._read(GUEST), "generation": 0, "power_state": states.SHUTDOWN})
    evacuate(hosts)


def stopped(hosts: Hosts) -> None:
    hosts.cast("host1", "stop_instance", instance=instance(hosts, task_state=states.POWERING_OFF),
               clean_shutdown=True)


def paused(hosts: Hosts) -> None:
    hosts.cast("host1", "pause_instance", instance=instance(hosts, task_state=states.PAUSING))


def abort(hosts: Hosts) -> None:
    hosts.cast("host1", "live_migration_abort", instance=instance(hosts), migration_id=7)


def force(hosts: Hosts) -> None:
    hosts.cast("host1", "live_migration_force_complete", instance=instance(hosts))


def tune(hosts: Hosts) -> None:
    """Somebody changes it, if the agent is there to be told."""
    if "host1" in hosts.exchange.agents:
        _, verbs = hosts.exchange.agents["host1"]
        with contextlib.suppress(MagnetarError):
            hosts.hub.carry("host1", lambda: verbs["migration_set"](
                guest=GUEST, bandwidth=7, max_pause=60), 60)


def fault(**what: Any) -> Callable[[Hosts], None]:
    """Something goes wrong in the fabric, or does no more."""
    return lambda hosts: hosts.fabric.set(**what)


def losses(hosts: Hosts) -> None:
    """The first of all casts between agents is lost, and every third."""
    number = itertools.count()
    hosts.exchange.loses = lambda host, method: next(number) % 3 == 0


def silence(hosts: Hosts) -> None:
    hosts.exchange.cut.add(frozenset(HOSTS))


def speech(hosts: Hosts) -> None:
    hosts.exchange.cut.clear()


# -- what may come of it --------------------------------------------------------------------------
MOVED = {"host": "host2", "vm_state": states.ACTIVE, "status": "completed", "root_gb": 1}
STAYED = {"host": "host1", "vm_state": states.ACTIVE, "root_gb": 1}
NOT_MOVED = {**STAYED, "status": "failed"}
RESIZED = {"host": "host2", "vm_state": states.RESIZED, "status": "finished", "root_gb": BIG,
           "aside": "host1", "moving": ("host1",)}
NOT_RESIZED = {**STAYED, "status": "error"}
RESIZED_HERE = {**RESIZED, "host": "host1"}
CONFIRMED = {"host": "host2", "vm_state": states.ACTIVE, "status": "confirmed", "root_gb": BIG}
REVERTED = {**STAYED, "status": "reverted"}
EVACUATED = {**MOVED, "status": "completed"}
NOT_EVACUATED = {"host": "host1", "vm_state": states.STOPPED, "status": "failed", "root_gb": 1}

STOPPED = {"vm_state": states.STOPPED}
PAUSED = {"vm_state": states.PAUSED}
CANCELLED = {**STAYED, "status": "cancelled"}
POSTCOPY = {"live_migration_strategy": "postcopy", "live_migration_permit_post_copy": True}

SLOW = {"samples": 150}
ENDLESS = {"samples": 40, "converges": False}
LIVE = ("live_out", "live_in")
RESIZE = ("resize_prep", "resize_out", "resize_in")
WAYS = {way.name: way for way in (
    Way("built", spawn, (), ({"host": "host1", "vm_state": states.ACTIVE},)),
    Way("live", live, LIVE, (MOVED, NOT_MOVED), after="built"),
    Way("live_fails", live, LIVE, (NOT_MOVED,), {"fail_at": "precopy"},
        after="built"),
    Way("live_shared", live, LIVE, (MOVED, NOT_MOVED), after="built",
        shared=True),
    Way("live_slow", live, LIVE, (MOVED, NOT_MOVED), SLOW, after="built"),
    Way("live_postcopy", live, LIVE, (MOVED, NOT_MOVED), ENDLESS, after="built",
        options=POSTCOPY, later=((1, force),)),
    Way("live_postcopy_cut", live, LIVE, (MOVED, NOT_MOVED), ENDLESS, after="built",
        options=POSTCOPY, later=((1, force), (3, fault(cut=True)), (40, fault(cut=False)))),
    Way("live_parted", live, LIVE, (MOVED, NOT_MOVED), {"parted": True}, after="built"),
    Way("live_parted_silent", live, LIVE, (MOVED, NOT_MOVED), {"parted": True, **SLOW},
        after="built", later=((1, silence), (60, speech))),
    Way("live_source_away", live, LIVE, (NOT_MOVED, MOVED), SLOW, after="built",
        later=((2, fault(down=["host1"])), (40, fault(down=[])))),
    Way("live_destination_away", live, LIVE, (NOT_MOVED, MOVED), SLOW, after="built",
        later=((2, fault(down=["host2"])), (40, fault(down=[])))),
    Way("live_silence", live, LIVE, (MOVED, NOT_MOVED), SLOW, after="built",
        later=((1, silence), (60, speech))),
    Way("live_abort", live, LIVE, (CANCELLED, MOVED, NOT_MOVED), {"samples": 300}, after="built",
        later=((2, abort),)),
    Way("live_tuned", live, LIVE, (MOVED, NOT_MOVED), {"samples": 60}, after="built",
        later=((0.5, tune), (2, tune))),
    Way("live_force", live, LIVE, (MOVED, NOT_MOVED, CANCELLED), ENDLESS,
        after="built", later=((2, force),)),
    Way("paused", paused, (), ({**STAYED, **PAUSED},), after="built"),
    Way("live_of_a_paused", live, LIVE, ({**MOVED, **PAUSED}, {**NOT_MOVED, **PAUSED}),
        after="paused"),
    Way("resize", resize, RESIZE, (RESIZED, NOT_RESIZED), after="built"),
    Way("resize_lossy", resize, RESIZE, (RESIZED, NOT_RESIZED), after="built",
        later=((0, losses),)),
    Way("revert_lossy", revert, ("resize_revert", "resize_back"), (REVERTED, RESIZED),
        after="resize", later=((0, losses),)),
    Way("live_lossy", live, LIVE, (NOT_MOVED,), {"fail_at": "precopy"}, after="built",
        later=((0, losses),)),
    Way("stopped", stopped, (), ({**STAYED, **STOPPED},), after="built"),
    Way("resize_of_a_stopped", resize, RESIZE, ({**RESIZED, "off": True}, {
        **NOT_RESIZED, **STOPPED}), after="stopped"),
    Way("confirm_of_a_stopped", confirm, ("resize_confirm",), ({**CONFIRMED, **STOPPED},),
        after="resize_of_a_stopped"),
    Way("revert_of_a_stopped", revert, ("resize_revert", "resize_back"), (
        {**REVERTED, **STOPPED}, {**RESIZED, "off": True}), after="resize_of_a_stopped"),
    Way("resize_prep_fails", resize, ("resize_prep",), (NOT_RESIZED,), after="built",
        fail_at="resize_prep.claim.after_effect"),
    Way("resize_out_fails", resize, ("resize_out",), (NOT_RESIZED,), after="built",
        fail_at="resize_out.leave.after_intent"),
    Way("resize_late", resize_late, ("resize_prep",), (NOT_RESIZED,), after="built"),
    Way("resize_in_fails", resize, ("resize_in", "resize_back"), (NOT_RESIZED,), after="built",
        fail_at="resize_in.power.after_effect"),
    Way("resize_here", resize_here, RESIZE, (RESIZED_HERE, NOT_RESIZED), after="built"),
    Way("confirm", confirm, ("resize_confirm",), (CONFIRMED,), after="resize"),
    Way("confirm_fails", confirm, ("resize_confirm",), (CONFIRMED,), after="resize",
        fail_at="resize_confirm.event.after_effect"),
    Way("confirm_here", confirm, ("resize_confirm",), ({**CONFIRMED, "host": "host1"},),
        after="resize_here"),
    Way("revert", revert, ("resize_revert", "resize_back"), (REVERTED, RESIZED), after="resize"),
    Way("revert_fails", revert, ("resize_revert",), (RESIZED,), after="resize",
        fail_at="resize_revert.shutdown.after_effect"),
    Way("back_fails", revert, ("resize_back",), (REVERTED,), after="resize",
        fail_at="resize_back.event.after_effect"),
    Way("revert_here", revert, ("resize_revert", "resize_back"), (REVERTED, RESIZED_HERE),
        after="resize_here"),
    Way("evacuate", evacuate, ("evacuate", "vacate"), (EVACUATED, NOT_EVACUATED), after="built",
        shared=True, away=("host1", 120.0)),
    Way("evacuate_again", evacuate_again, ("evacuate",), (
        {**EVACUATED, "anew": True}, {**NOT_EVACUATED, "anew": True}), after="built",
        away=("host1", 120.0)),
    Way("vacate_fails", evacuate, ("vacate",), (EVACUATED,), after="built", shared=True,
        away=("host1", 120.0), fail_at="vacate.proof.after_effect"),
    Way("evacuate_fails", evacuate, ("evacuate",), (NOT_EVACUATED,), after="built", shared=True,
        away=("host1", 120.0), fail_at="evacuate.power.after_effect"),
)}
