"""Counting test results: from the subunit stream of a run to rows of a table."""

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PASSED = ("success", "xfail")
SKIPPED = ("skip",)
# Details of this name tell that a test was run again, and why: see tests/integration/repeats.py.
REPEATED = "repeated"
SLOW, SLOW_SECONDS = 20, 10


@dataclass
class Row:
    """Results of one layer in one mode; `seconds` is the sum over its tests."""

    layer: str
    mode: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def cells(self) -> tuple[str, ...]:
        """The fields as a table shows them."""
        counts = (str(self.passed), str(self.failed), str(self.skipped))
        return (self.layer, self.mode, *counts, f"{self.seconds:.1f}")


@dataclass
class Results:
    """All rows of a run of tools/test, in the order in which they came."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    reasons: collections.Counter = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    repeats: collections.Counter = field(default_factory=collections.Counter)
    times: list[tuple[float, str]] = field(default_factory=list)

    def row(self, layer: str, mode: str) -> Row:
        """The row to count into, made when it is not there yet."""
        return self.rows.setdefault((layer, mode), Row(layer, mode))

    def test(self, layer: str, mode: str, test: dict) -> str:
        """Count one finished test, as testtools' StreamToDict gives it; returns its outcome.

        A test that began and never ended counts as failed.
        """
        row = self.row(layer, mode)
        begin, end = (test["timestamps"] + [None, None])[:2]
        if begin and end:
            seconds = (end - begin).total_seconds()
            row.seconds += seconds
            self.times.append((seconds, f"{test['id']} ({mode})"))
        for name in test["details"]:
            if name.startswith(REPEATED):
                self.repeats[f"{layer} ({mode}) {test['id']}: {_text(test, [name])}"] += 1
        if test["status"] in PASSED:
            row.passed += 1
            return "passed"
        if test["status"] in SKIPPED:
            row.skipped += 1
            self.reasons[_text(test, ["reason"]) or "no reason given"] += 1
            return "skipped"
        self.fail(layer, mode, test["id"], counted=True)
        return "failed"

    def check(self, layer: str, mode: str, passed: bool, seconds: float) -> None:
        """Count one check that is not a test, as of the style run."""
        row = self.row(layer, mode)
        row.seconds += seconds
        if passed:
            row.passed += 1
        else:
            self.fail(layer, mode, "", counted=True)

    def fail(self, layer: str, mode: str, what: str, counted: bool = True) -> None:
        """Note a failure by name; `counted` adds one to the row's failed tests."""
        self.row(layer, mode).failed += 1 if counted else 0
        self.failures.append(f"{layer} ({mode}) {what}".strip())

    def skip(self, layer: str, mode: str, reason: str) -> None:
        """Count one thing that cannot run here."""
        self.row(layer, mode).skipped += 1
        self.reasons[reason] += 1

    @property
    def totals(self) -> tuple[int, int, int]:
        """Passed, failed and skipped, over all rows."""
        rows = self.rows.values()
        return (
            sum(row.passed for row in rows),
            sum(row.failed for row in rows),
            sum(row.skipped for row in rows),
        )

    def lists(self) -> str:
        """What failed, was skipped or run again, each with its reason, and what took long."""
        slow = [one for one in sorted(self.times, reverse=True)[:SLOW] if one[0] > SLOW_SECONDS]
        lists = {
            "Failed": self.failures,
            "Skipped": [f"{number} x {why}" for why, number in self.reasons.most_common()],
            "Run again, and judged by the last time": [
                f"{number} x {why}" for why, number in self.repeats.items()
            ],
            "Slowest, in seconds": [f"{seconds:5.0f} {test}" for seconds, test in slow],
        }
        return "".join(
            f"\n{heading}:\n" + "".join(f"  {line}\n" for line in lines)
            for heading, lines in lists.items() if lines
        )  # fmt: skip

    def table(self) -> str:
        """The rows, aligned, with a heading; a layer's modes follow each other."""
        layers = list(dict.fromkeys(row.layer for row in self.rows.values()))
        rows = sorted(self.rows.values(), key=lambda row: layers.index(row.layer))
        heading = ("layer", "mode", "passed", "failed", "skipped", "seconds")
        return aligned([heading, *(row.cells() for row in rows)], left=2)


def details(test: dict) -> str:
    """What a failed test said: its traceback and everything that it attached."""
    return _text(test, sorted(test["details"], key=lambda name: name != "traceback"))


def aligned(cells: Sequence[tuple[str, ...]], left: int) -> str:
    """Columns padded to their widest cell; the first `left` ones to the left."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def _text(test: dict, names: Iterable[str]) -> str:
    parts = []
    for name in names:
        content = test["details"].get(name)
        if content is None or not content.content_type.type.startswith("text"):
            continue
        text = content.as_text().strip()
        if text:
            parts.append(text)
    return "\n".join(parts)
