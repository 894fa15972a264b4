"""Plans one live migration: strategy, limits and flags, from what both ends told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compute.engine.world import World
from compute.migration import strategy
from compute.migration.policy import Limits
from compute.migration.strategy import AUTO, Choice, Facts, Permits
from compute.migration.terms import Asked, Terms
from compute.model import states
from compute.model.guest import Guest
from compute.model.move import MovePlan

MEASURE_SECONDS = 1
NOTHING = Asked()
# Below this many MiB of memory a transfer is over before a measurement would have paid.
WORTH_MEASURING_MB = 2048


@dataclass(frozen=True)
class Decided:
    """How a guest shall move: what the hypervisor is told, what may be done on the way, why."""

    plan: MovePlan
    limits: Limits
    strategy: str
    reason: str


def link_to(host: str) -> str:
    """The journal's fact that says how many bytes/s an earlier migration to a host got."""
    return f"bandwidth:{host}"


def choose(world: World, guest: Guest, host: str, disks: int, terms: Terms, *, paused: bool,
           measure: bool) -> tuple[Choice, Facts]:
    """The strategy for a guest, and the facts that it was chosen on.

    :param disks: bytes of disks that are copied.
    :param measure: find out how fast the guest writes memory; takes MEASURE_SECONDS.
    :raises Refused: the options do not permit what they ask for.
    """
    rate = 0 if paused else None
    if measure and not paused:
        rate = world.driver.measure_dirty_rate(guest.uuid, MEASURE_SECONDS)
    seen = world.journal.fact(link_to(host)) or 0
    facts = Facts(memory=guest.flavor.memory_mb << 20, dirty_rate=rate, disks=disks,
                  bandwidth=strategy.link_bandwidth(seen, terms.bandwidth),
                  paused=paused, budget_ms=terms.max_pause)
    return strategy.choose_strategy(terms.strategy, facts, Permits.of(world.conf)), facts


def decide_plan(world: World, guest: Guest, host: str, prepared: Mapping[str, Any],
                generation: int, operation: str, asked: Asked = NOTHING) -> Decided:
    """The plan for a guest that the destination is prepared for.

    :param prepared: what Driver.prepare_incoming answered at the destination.
    :param asked: instead of this host's options.
    :raises Refused: it is not permitted.
    """
    options, uuid = world.conf.libvirt, guest.uuid
    terms = Terms.of(world.conf, guest, asked)
    state = world.driver.state(uuid)
    paused = state is not None and state.power_state == states.POWER_PAUSED
    outgoing = world.driver.outgoing(uuid)
    copies = tuple(prepared.get("copy_disks") or ())
    sizes = [int(disk["size"]) for disk in outgoing["disks"] if disk["target"] in copies]
    choice, _ = choose(world, guest, host, sum(sizes), terms, paused=paused,
                       measure=worth(options, terms, guest))
    plan = MovePlan(
        uri=prepared["uri"], migrate_uri=prepared.get("migrate_uri"),
        listen=prepared.get("listen"), copy_disks=copies,
        incremental=bool(prepared.get("incremental", True)),
        tls=bool(options.live_migration_with_native_tls and prepared.get("tls")
                 and outgoing.get("tls")),
        bandwidth=terms.bandwidth, generation=generation, operation=operation,
        rewrite=dict(prepared.get("rewrite") or {}),
        downtime_ms=strategy.first_pause(terms.max_pause), **choice.flags())
    limits = strategy.limits(guest, world.conf, choice, plan, paused=paused, disks=sizes,
                             max_pause=terms.max_pause)
    return Decided(plan, limits, choice.strategy, choice.reason)


def worth(options: Any, terms: Terms, guest: Guest) -> bool:
    """Whether the choice depends on the dirty rate, and the transfer is long enough."""
    permits = (options.live_migration_permit_post_copy
               or options.live_migration_permit_auto_converge)
    return bool(terms.strategy == AUTO and permits
                and guest.flavor.memory_mb >= WORTH_MEASURING_MB)
