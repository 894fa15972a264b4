"""Samples of made-up and recorded transfers, and the policy's way through them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from compute.migration import policy
from compute.migration.policy import Action, Limits, State
from compute.model import move
from compute.model.move import JobSample

TRACES = pathlib.Path(__file__).with_name("migration_traces")
MIB = 1 << 20
TOTAL = 1024 * MIB


def sample(at: float = 0.0, phase: str = move.PRECOPY, **fields) -> JobSample:
    """A sample ``at`` seconds; sizes in MiB and rates in MiB/s."""
    sizes = {name: int(value * MIB) if name not in ("iteration", "downtime_ms", "throttle")
             else value for name, value in fields.items()}
    if phase == move.PRECOPY:
        sizes = {"memory_total": TOTAL, "bandwidth": 100 * MIB, "iteration": 1, **sizes}
    return JobSample(phase, time=at, elapsed=at, **sizes)


def passes(*left: float, bandwidth: float = 100, dirty_rate: float = 0, each: float = 1.0,
           **fields) -> list[JobSample]:
    """Two samples of each pass over memory, which begins with so many MiB left."""
    found = []
    for number, rest in enumerate(left):
        for part in (0, 1):
            found.append(sample(
                (number + part / 2) * each, iteration=number + 1, bandwidth=bandwidth,
                memory_remaining=rest / (part + 1),
                dirty_rate=dirty_rate if number else 0, **fields))
    return found


def play(samples: Sequence[JobSample], limits: Limits, state: State,
         asked: Sequence[tuple[int, str]] = ()) -> list[tuple[int, Action]]:
    """What the policy does after each sample, when all of it is carried out at once.

    :param asked: what people ask for (``abort``, ``force``), and after which sample.
    """
    done = []
    for count in range(1, len(samples) + 1):
        for index, what in asked:
            if index == count - 1 and what in ("abort", "force"):
                state = replace(state, **{what: "a person wants it."})
        action = policy.decide(samples[:count], limits, state)
        if action.kind != policy.NOTHING:
            done.append((count - 1, action))
            state = state.after(action, samples[:count])
    return done


class Trace:
    """One file of migration_traces/."""

    def __init__(self, path: pathlib.Path):
        plain = json.loads(path.read_text())
        self.name, self.recorded, self.ended = path.stem, plain["recorded"], plain["ended"]
        self.limits = Limits(**plain["limits"])
        self.state = State(**plain["state"])
        self.asked = [(index, what) for index, what in plain["asked"]]
        self.done = [(index, kind, value) for index, kind, value in plain["done"]]
        self.samples = [JobSample(**fields) for fields in plain["samples"]]

    def play(self, change: Callable[[JobSample], JobSample] = lambda one: one,
             every: int = 1, **limits) -> list[tuple[int, Action]]:
        """The policy's way through it, with samples changed or left out, and other limits."""
        kept = range(0, len(self.samples), every)
        asked = [(index // every, what) for index, what in self.asked]
        return play([change(self.samples[index]) for index in kept],
                    replace(self.limits, **limits), self.state, asked)

    def kinds(self, *args, **kwargs) -> list[str]:
        """The kinds of what :meth:`play` gives."""
        return [action.kind for _, action in self.play(*args, **kwargs)]


def traces() -> dict[str, Trace]:
    """All recorded traces by name."""
    return {path.stem: Trace(path) for path in sorted(TRACES.glob("*.json"))}
