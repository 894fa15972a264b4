"""What one migration may take: its source's options, and what was asked for instead of them.

A request may name a strategy, a bandwidth and a longest pause; bandwidth and pause may be changed
while it goes on. What the source does not permit, and what flavor or image promise to the guest, no
request overrides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from compute.errors import Refused
from compute.migration import strategy
from compute.migration.policy import Limits
from compute.migration.strategy import MOST_MS, NOT_CHANGED, Permits
from compute.model.guest import Guest

MOST_BANDWIDTH = 1 << 30  # MiB/s
RANGES = {"bandwidth": ("bandwidth", 0, MOST_BANDWIDTH, "MiB/s, 0 for no limit"),
          "max_pause": ("longest pause", 1, MOST_MS, "milliseconds")}


@dataclass(frozen=True)
class Asked:
    """What was asked for of one migration; None: nothing. ``bandwidth`` in MiB/s, 0 without a
    limit; ``max_pause`` in ms."""

    strategy: str | None = None
    bandwidth: int | None = None
    max_pause: int | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any] | None) -> Asked:
        """What plain data asks for.

        :raises Refused: code ``bad_value``, ``strategy_unknown``.
        """
        given = {name: value for name, value in (plain or {}).items() if value is not None}
        for name, value in given.items():
            if name == "strategy":
                strategy.check_known(value)
            elif name not in RANGES:
                raise Refused(f"A migration has no option {name}.", now=NOT_CHANGED,
                              next=f"It has strategy, {', '.join(RANGES)}.", code="bad_value")
            else:
                _check_range(name, value)
        return cls(**given)

    def to_plain(self) -> dict[str, Any]:
        """As plain data: only what was asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def changed(self, later: Asked) -> Asked:
        """This, where nothing was asked for later."""
        return replace(self, **later.to_plain())


def _check_range(name: str, value: Any) -> None:
    words, least, most, unit = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(f"A migration's {words} cannot be {value!r}.", now=NOT_CHANGED,
                      next=f"Give a whole number from {least} to {most}, in {unit}.",
                      code="bad_value")


@dataclass(frozen=True)
class Terms:
    """What is in force for one migration. ``bandwidth`` in MiB/s, 0 without a limit; ``max_pause``
    in ms, and whether flavor or image ``promised`` one."""

    strategy: str
    bandwidth: int
    max_pause: int
    promised: bool

    @classmethod
    def of(cls, conf: Any, guest: Guest, asked: Asked) -> Terms:
        """By the options of this host, which is the source, and what was asked for.

        :raises Refused: code ``strategy_not_permitted``, ``pause_promised``,
            ``pause_unacceptable`` (see :func:`compute.migration.strategy.pause_budget`).
        """
        options = conf.libvirt
        budget, promised = strategy.pause_budget(guest, options.live_migration_downtime)
        if asked.strategy is not None:
            strategy.check_permitted(asked.strategy, Permits.of(conf))
        if asked.max_pause is not None:
            if promised:
                check_promise(asked.max_pause, budget)
            budget = asked.max_pause
        return cls(asked.strategy or options.live_migration_strategy,
                   options.live_migration_bandwidth if asked.bandwidth is None
                   else asked.bandwidth, budget, promised)


def check_promise(max_pause: int, promised: int) -> None:
    """Raise Refused(code='pause_promised') for a pause that is longer than promised, in ms."""
    if max_pause > promised:
        raise Refused(
            f"The guest's flavor or image promise it no longer pause than {promised} ms, and "
            f"{max_pause} ms were asked for.", now=NOT_CHANGED,
            next="Ask for less, or change the extra spec or image property.",
            code="pause_promised")


TUNED = "tuned"  # kind of the claim that holds what was asked for while a migration goes on


def tuned(limits: Limits, claims: Iterable[Any]) -> Limits:
    """The limits of a migration with what was asked for since it began.

    :param claims: the guest's, from the journal.
    """
    for claim in claims:
        if claim.kind == TUNED:
            later = Asked.of(claim.data)
            if later.bandwidth is not None:
                limits = replace(limits, bandwidth=later.bandwidth)
            if later.max_pause is not None:
                limits = replace(limits, budget_ms=later.max_pause)
    return limits
