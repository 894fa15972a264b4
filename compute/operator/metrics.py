"""What GET /metrics tells, in Prometheus' text format.

Counters begin at the start of the process. What is told of now is looked at when it is asked for; a
part that cannot be looked at is left out, and ``magnetar_reachable`` says so.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from compute.engine.world import World
from compute.errors import MagnetarError
from compute.model import states
from compute.resources.tracker import Tracker
from db.journal import OperationRow

BUCKETS = (0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)  # seconds
MOVES = frozenset({"live_out", "live_in", "resize_prep", "resize_out", "resize_in", "evacuate",
                   "resize_back", "resize_confirm", "resize_revert"})
Labels = Mapping[str, str]


@dataclass
class Histogram:
    """Durations, counted below each of BUCKETS."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        for number, limit in enumerate(BUCKETS):
            self.counts[number] += seconds <= limit


def line(name: str, labels: Labels, value: float) -> str:
    """One sample."""
    told = ",".join(f'{key}="{escaped(str(text))}"' for key, text in labels.items())
    return f"{name}{{{told}}} {number(value)}" if told else f"{name} {number(value)}"


def number(value: float) -> str:
    """As short as it is exact."""
    return str(int(value)) if value == int(value) else repr(float(value))


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    """The figures of one agent.

    :param tracker: knows what the host has and what is claimed of it.
    :param reachable: what the agent depends on, each by a look that raises when it is not there.
    """

    def __init__(self, world: World, tracker: Tracker,
                 reachable: Mapping[str, Callable[[], Any]]):
        self._world, self._tracker, self._reachable = world, tracker, reachable
        self._guard = threading.Lock()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._took: dict[str, Histogram] = {}
        self._steps: dict[tuple[str, str], Histogram] = {}

    def ended(self, row: OperationRow) -> None:
        """Count an operation that ended, and of a move the time of each of its steps."""
        steps = self._world.journal.steps(row.id) if row.verb in MOVES else ()
        with self._guard:
            self._ended[row.verb, row.state] += 1
            self._took.setdefault(row.verb, Histogram()).add(row.updated - row.created)
            for step in steps:
                if step.finished is not None:
                    found = self._steps.setdefault((row.verb, step.name), Histogram())
                    found.add(step.finished - step.started)

    def text(self) -> str:
        """All of it."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        there = yield from self._reach()
        with self._guard:
            ended = dict(self._ended)
            took = {verb: (list(h.counts), h.count, h.seconds) for verb, h in self._took.items()}
            steps = {key: (list(h.counts), h.count, h.seconds)
                     for key, h in self._steps.items()}
        yield from family("magnetar_operations_ended_total", "counter",
                          "Operations that ended, by verb and how they ended.",
                          (({"verb": verb, "state": state}, count)
                           for (verb, state), count in sorted(ended.items())))
        yield from histograms("magnetar_operation_seconds", "How long operations took.",
                              (({"verb": verb}, found) for verb, found in sorted(took.items())))
        yield from histograms(
            "magnetar_move_phase_seconds", "How long each phase of a move took on this host.",
            (({"verb": verb, "phase": name}, found)
             for (verb, name), found in sorted(steps.items())))
        yield from self._journal()
        if there.get("hypervisor"):
            yield from self._guests()
        yield from self._calls()

    def _reach(self) -> Generator[str, None, dict[str, bool]]:
        there: dict[str, bool] = {}
        for name, look in self._reachable.items():
            try:
                look()
                there[name] = True
            except MagnetarError:
                there[name] = False
        yield from family("magnetar_reachable", "gauge", "Whether what the agent needs answers.",
                          (({"part": name}, int(ok)) for name, ok in there.items()))
        return there

    def _journal(self) -> Iterator[str]:
        journal = self._world.journal
        active = Counter((row.verb, row.state) for row in journal.find(active=True))
        yield from family("magnetar_operations_active", "gauge",
                          "Operations that go on or need an operator, by verb and state.",
                          (({"verb": verb, "state": state}, count)
                           for (verb, state), count in sorted(active.items())))
        yield from family("magnetar_journal_bytes", "gauge", "Size of the journal's files.",
                          [({}, journal.size())])

    def _guests(self) -> Iterator[str]:
        world = self._world
        found = [one for one in world.driver.states().values() if one.ours]
        power = Counter(states.POWER_NAMES.get(one.power_state, "?") for one in found)
        yield from family("magnetar_guests", "gauge", "Guests of this host, by power state.",
                          (({"power_state": name}, count) for name, count in sorted(power.items())))
        facts, used = self._tracker.facts(), self._tracker.used()
        amounts = {"vcpus": (facts.vcpus, used["vcpus"] + used.get("pcpus", 0)),
                   "memory_mb": (facts.memory_mb, used["memory_mb"]),
                   "disk_gb": (facts.disk_gb, used["disk_gb"])}
        for number, word in enumerate(("total", "used")):
            yield from family(
                f"magnetar_resource_{word}", "gauge",
                "What the host has." if word == "total" else "What its guests have claimed.",
                (({"resource": name}, both[number]) for name, both in amounts.items()))
        if world.conf.metrics.guests:
            yield from usage_lines(world.driver.usage())

    def _calls(self) -> Iterator[str]:
        snapshot = getattr(getattr(self._world.driver, "calls", None), "snapshot", None)
        figures = snapshot() if snapshot is not None else {}
        for name, help_, read in (
                ("calls", "Calls of libvirt.", lambda one: one.calls),
                ("errors", "Calls of libvirt that failed.", lambda one: one.errors),
                ("timeouts", "Calls of libvirt that were given up.", lambda one: one.timeouts),
                ("seconds", "Time in calls of libvirt.", lambda one: one.seconds)):
            yield from family(f"magnetar_libvirt_{name}_total", "counter", help_,
                              (({"call": call}, read(one))
                               for call, one in sorted(figures.items())))


def family(name: str, kind: str, help_: str, samples: Iterable[tuple[Labels, float]],
           ) -> Iterator[str]:
    """One metric with its samples."""
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield line(name, labels, value)


def histograms(
    name: str, help_: str, samples: Iterable[tuple[Labels, tuple[list[int], int, float]]],
) -> Iterator[str]:
    """One histogram for each set of labels."""
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} histogram"
    for labels, (counts, count, seconds) in samples:
        for limit, below in zip(BUCKETS, counts, strict=True):
            yield line(f"{name}_bucket", {**labels, "le": f"{limit:g}"}, below)
        yield line(f"{name}_bucket", {**labels, "le": "+Inf"}, count)
        yield line(f"{name}_sum", labels, seconds)
        yield line(f"{name}_count", labels, count)


USAGE = (
    ("cpu_seconds_total", "counter", "CPU time of a guest.", lambda use: use.cpu_ns / 1e9),
    ("memory_bytes", "gauge", "Memory that a guest has.", lambda use: use.memory << 10),
    ("memory_resident_bytes", "gauge", "Memory of the host that a guest takes.",
     lambda use: use.resident << 10),
    ("disk_allocated_bytes", "gauge", "Space of the host that a guest's disks take.",
     lambda use: use.disk_bytes),
    ("disk_read_bytes_total", "counter", "Read from a guest's disks.", lambda use: use.read_bytes),
    ("disk_written_bytes_total", "counter", "Written to a guest's disks.",
     lambda use: use.write_bytes),
    ("net_received_bytes_total", "counter", "Received by a guest.", lambda use: use.rx_bytes),
    ("net_sent_bytes_total", "counter", "Sent by a guest.", lambda use: use.tx_bytes),
)


def usage_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What each guest uses."""
    for name, kind, help_, read in USAGE:
        yield from family(f"magnetar_guest_{name}", kind, help_,
                          (({"guest": uuid}, read(use)) for uuid, use in sorted(found.items())))
