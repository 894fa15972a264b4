"""One measured figure, and how all of them are shown."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """What was measured, its value and unit, the goal, and how or beside what."""

    what: str
    value: float
    unit: str
    goal: str = ""
    note: str = ""

    @property
    def shown(self) -> str:
        """The value as people read it."""
        digits = 0 if float(self.value).is_integer() else 1 if self.value >= 20 else 2
        return f"{self.value:.{digits}f} {self.unit}".strip()


@dataclass(frozen=True)
class Pair:
    """One thing done by Magnetar and by bare libvirt in the same run; seconds, medians.

    ``needs`` are the bare calls, ``nova`` what nova-compute took elsewhere, ``goal`` of the ratio.
    """

    what: str
    ours: float
    bare: float
    needs: str = ""
    nova: str = ""
    goal: str = ""
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        """Ours by bare; None when bare took nothing that could be measured."""
        return self.ours / self.bare if self.bare > 0 else None

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as people read it."""
        digits = 3 if self.unit == "s" else 0
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        values = [f"{value:.{digits}f} {self.unit}" for value in (self.ours, self.bare)]
        return (self.what, *values, ratio, self.goal, self.nova, self.needs)


def pairs_table(pairs: list[Pair]) -> str:
    """The pairs as a Markdown table."""
    rows = ["| what | Magnetar | bare libvirt | ratio | goal | nova-compute | bare calls |",
            "| --- | --- | --- | --- | --- | --- | --- |"]
    rows += [f"| {' | '.join(pair.cells)} |" for pair in pairs]
    return "\n".join(rows)


def table(figures: list[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = ["| what | measured | goal | beside |", "| --- | --- | --- | --- |"]
    rows += [f"| {f.what} | {f.shown} | {f.goal} | {f.note} |" for f in figures]
    return "\n".join(rows)


def as_json(figures: list[Figure], pairs: list[Pair] | None = None) -> str:
    """The figures for machines; pairs have their ratio too."""
    rows = [asdict(f) for f in figures]
    rows += [{**asdict(pair), "ratio": pair.ratio} for pair in pairs or ()]
    return json.dumps(rows, indent=1)


def say(text: str) -> None:
    """One line of progress."""
    print(f"  {time.strftime('%H:%M:%S', time.gmtime())}  {text}", file=sys.stderr, flush=True)
