"""Which strategy a guest's migration takes and why, and the limits that come with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compute.errors import Refused
from compute.migration import estimate
from compute.migration.estimate import AUTO_CONVERGE, MULTIFD, POSTCOPY, PRECOPY
from compute.migration.policy import Limits
from compute.migration.trend import MIB, rate
from compute.model.guest import Guest
from compute.model.move import MovePlan

AUTO = "auto"
STRATEGIES = (AUTO, PRECOPY, AUTO_CONVERGE, MULTIFD, POSTCOPY)
EXTRA_SPEC, IMAGE_PROPERTY = "magnetar:max_pause_ms", "magnetar_max_pause_ms"
MOST_MS = 2_000_000  # QEMU's limit
FIRST_MS = 200  # the pause that is allowed at first, if the budget is not smaller: one pass less
NOT_CHANGED = "Nothing was changed; the guest runs on where it is."


@dataclass(frozen=True)
class Facts:
    """What the choice depends on. Bytes and bytes/s; ``dirty_rate`` None when it could not be
    measured, ``bandwidth`` 0 when it is not known."""

    memory: int
    dirty_rate: int | None = None
    bandwidth: int = 0
    disks: int = 0
    paused: bool = False
    budget_ms: int = 500


@dataclass(frozen=True)
class Permits:
    """What the options allow: post-copy, auto-converge, and how many connections."""

    postcopy: bool = False
    auto_converge: bool = False
    channels: int = 1

    @classmethod
    def of(cls, conf: Any) -> Permits:
        """As [libvirt] of the configuration says."""
        options = conf.libvirt
        return cls(options.live_migration_permit_post_copy,
                   options.live_migration_permit_auto_converge,
                   options.live_migration_parallel_connections)


@dataclass(frozen=True)
class Choice:
    """A strategy, why it, and what of MovePlan it needs. ``eager``: post-copy after one pass."""

    strategy: str
    reason: str
    postcopy: bool = False
    auto_converge: bool = False
    channels: int = 1

    @property
    def eager(self) -> bool:
        return self.strategy == POSTCOPY

    def flags(self) -> dict[str, Any]:
        """``postcopy``, ``auto_converge`` and ``channels`` of :class:`MovePlan`."""
        return {"postcopy": self.postcopy, "auto_converge": self.auto_converge,
                "channels": self.channels}


def choose_strategy(wanted: str, facts: Facts, permits: Permits) -> Choice:
    """The strategy for one guest.

    :param wanted: one of STRATEGIES, from the request or live_migration_strategy.
    :raises Refused: code ``strategy_unknown``; ``strategy_not_permitted`` when the options do not
        allow what was named.
    """
    check_permitted(wanted, permits)
    if facts.paused:
        return Choice(PRECOPY, "The guest is paused and writes nothing: one pass is enough.")
    if wanted == PRECOPY:
        return Choice(PRECOPY, "Pre-copy was asked for.")
    if wanted == POSTCOPY:
        return Choice(POSTCOPY, "Post-copy was asked for.", postcopy=True)
    if wanted == MULTIFD:
        return _with_help(MULTIFD, f"{permits.channels} connections were asked for.", permits)
    if wanted == AUTO_CONVERGE:
        return Choice(AUTO_CONVERGE, "Auto-converge was asked for.", auto_converge=True)
    return _by_measure(facts, permits)


def check_known(wanted: str) -> None:
    """Raise Refused(code='strategy_unknown') for none of STRATEGIES."""
    if wanted not in STRATEGIES:
        raise Refused(f"{wanted} is no strategy of live migration.", now=NOT_CHANGED,
                      next=f"Use one of {', '.join(STRATEGIES)}.", code="strategy_unknown")


def check_permitted(wanted: str, permits: Permits) -> None:
    """Raise Refused, code ``strategy_unknown`` or ``strategy_not_permitted``."""
    check_known(wanted)
    needs = {POSTCOPY: (permits.postcopy, "live_migration_permit_post_copy = true"),
             AUTO_CONVERGE: (permits.auto_converge, "live_migration_permit_auto_converge = true"),
             MULTIFD: (permits.channels > 1, "live_migration_parallel_connections above 1")}
    allowed, option = needs.get(wanted, (True, ""))
    if not allowed:
        raise Refused(
            f"The strategy {wanted} is not permitted on this host.", now=NOT_CHANGED,
            next=f"Choose another one, or set [libvirt] {option} on the source and start its "
            "agent again.", code="strategy_not_permitted")


def _by_measure(facts: Facts, permits: Permits) -> Choice:
    plain = MULTIFD if permits.channels > 1 and not permits.postcopy else PRECOPY
    if facts.dirty_rate is None or not facts.bandwidth:
        missing = "the dirty rate" if facts.dirty_rate is None else "the bandwidth"
        return _with_help(plain, f"Without {missing} it begins by pre-copy, and goes by what is "
                          "seen on the way.", permits)
    compared = f"It writes {rate(facts.dirty_rate)} and {rate(facts.bandwidth)} go over"
    if _estimate(PRECOPY, facts).converges:
        return _with_help(plain, f"{compared}: pre-copy converges.", permits)
    compared += f": pre-copy would not converge within {facts.budget_ms} ms"
    if permits.postcopy:
        return Choice(POSTCOPY, f"{compared}, and post-copy is permitted.", postcopy=True)
    if permits.auto_converge:
        slowed = "slowed enough" if _estimate(AUTO_CONVERGE, facts).converges \
            else "slowed, which may not be enough"
        return Choice(AUTO_CONVERGE, f"{compared}; its CPUs are {slowed}.", auto_converge=True)
    return _with_help(plain, f"{compared}, and neither post-copy nor auto-converge is permitted: "
                      "it will have to be completed by force.", permits)


def _estimate(strategy: str, facts: Facts) -> estimate.Estimate:
    return estimate.predict(strategy, memory=facts.memory, bandwidth=facts.bandwidth,
                            dirty_rate=facts.dirty_rate, disks=facts.disks,
                            budget_ms=facts.budget_ms)


def _with_help(strategy: str, reason: str, permits: Permits) -> Choice:
    """Pre-copy with what is permitted in case that it does not converge. Never post-copy over
    several connections: QEMU 7.2 takes both, and loses the guest when post-copy begins. Slowing a
    guest that can go over at any time would be for nothing."""
    if strategy == MULTIFD:
        return Choice(MULTIFD, reason, auto_converge=permits.auto_converge,
                      channels=permits.channels)
    return Choice(strategy, reason, postcopy=permits.postcopy,
                  auto_converge=permits.auto_converge and not permits.postcopy)


def pause_budget(guest: Guest, default_ms: int) -> tuple[int, bool]:
    """The longest pause of a guest in ms, and whether its flavor or image promise it.

    The smaller one of the extra spec ``magnetar:max_pause_ms`` and the image property
    ``magnetar_max_pause_ms`` counts; without either, ``default_ms`` (live_migration_downtime).

    :raises Refused: code ``pause_unacceptable`` for anything but 1 to 2,000,000.
    """
    told = [_milliseconds(place, name, value) for place, name, value in (
        ("The flavor's extra spec", EXTRA_SPEC, guest.flavor.extra_specs.get(EXTRA_SPEC)),
        ("The image property", IMAGE_PROPERTY, guest.prop(IMAGE_PROPERTY))) if value is not None]
    return (min(told), True) if told else (default_ms, False)


def _milliseconds(place: str, name: str, value: str) -> int:
    text = str(value).strip()
    if text.isascii() and text.isdigit() and 0 < int(text) <= MOST_MS:
        return int(text)
    raise Refused(f"{place} {name}={value} is no pause.", now=NOT_CHANGED,
                  next=f"Set it to a whole number of milliseconds from 1 to {MOST_MS}, or remove "
                  "it.", code="pause_unacceptable")


def first_pause(budget_ms: int) -> int:
    """The pause in ms to begin with: QEMU switches over as soon as the rest fits into it."""
    return min(budget_ms, FIRST_MS)


def limits(guest: Guest, conf: Any, choice: Choice, plan: MovePlan, *, paused: bool,
           disks: Sequence[int] = (), max_pause: int | None = None) -> Limits:
    """What the policy may do about one migration.

    :param plan: as it was begun with, which says whether post-copy and auto-converge are prepared.
    :param paused: whether the guest was paused when it began.
    :param disks: sizes in bytes of the disks that are copied.
    :param max_pause: what was asked for instead of the budget, in ms.
    :raises Refused: see :func:`pause_budget`.
    """
    options = conf.libvirt
    budget, promised = pause_budget(guest, options.live_migration_downtime)
    return Limits(
        budget_ms=budget if max_pause is None else max_pause, promised=promised,
        completion_seconds=estimate.completion_seconds(
            options.live_migration_completion_timeout, guest.flavor.memory_mb, disks),
        timeout_action=options.live_migration_timeout_action,
        bandwidth=plan.bandwidth, postcopy=plan.postcopy, eager=choice.eager,
        auto_converge=plan.auto_converge, guest_paused=paused)


def link_bandwidth(measured: int, limit_mib: int) -> int:
    """Bytes/s to reckon with: what the link was seen to carry, and no more than the limit in
    MiB/s; 0 when neither is known."""
    known = [count for count in (measured, limit_mib * MIB) if count > 0]
    return min(known, default=0)
