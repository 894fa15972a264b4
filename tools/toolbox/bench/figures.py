"""One measured figure, and how all of them are shown."""

from __future__ import annotations

import json
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


def table(figures: list[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = ["| what | measured | goal | beside |", "| --- | --- | --- | --- |"]
    rows += [f"| {f.what} | {f.shown} | {f.goal} | {f.note} |" for f in figures]
    return "\n".join(rows)


def as_json(figures: list[Figure]) -> str:
    """The figures for machines."""
    return json.dumps([asdict(f) for f in figures], indent=1)
