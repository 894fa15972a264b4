"""Every call that the two agents of a move make of the outside, meeting every fate.

As in :mod:`tests.crash.calls`, but on two hosts: a run without trouble is recorded first, then one
call of one host meets its fate, once, and all goes on to the rest.
"""

from __future__ import annotations

import functools
import pathlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from compute.operator.verbs import OperatorVerbs
from db.journal import rows
from tests.crash import moves
from tests.crash.calls import NOT_AN_AGENTS, Fate
from tests.crash.hosts import Hosts
from tests.crash.moves import DELAYS, WAYS, Way

# How often the same call of a host is tried; what polls calls the same again and again.
MOST = 3


@dataclass(frozen=True)
class CallCase:
    """The ``number``-th call of ``call`` (port.method) by a host on a way meets its fate."""

    way: str
    host: str
    call: str
    number: int
    fate: Fate

    @property
    def id(self) -> str:
        """The case as a test's name."""
        return (f"{self.way}_{self.host}_{self.call}_{self.number}_{self.fate.value}"
                .replace(".", "_").replace(" ", "_"))


class Tap:
    """Counts the calls of both hosts once it is open, and lets one of them meet its fate."""

    def __init__(self, case: CallCase | None = None):
        self.case, self.hosts = case, None
        self.counts: Counter[tuple[str, str]] = Counter()
        self.met = False

    def open(self, hosts: Hosts) -> None:
        """From now on."""
        self.hosts = hosts

    def __call__(self, host: str, call: str, when: str) -> None:
        if self.hosts is None or call.split(".")[1] in NOT_AN_AGENTS or when == "during":
            return
        if when == "before":
            self.counts[host, call] += 1
        case = self.case
        if case is None or self.met or (host, call, when) != (case.host, case.call, case.fate.when):
            return
        if self.counts[host, call] != case.number:
            return
        self.met = True
        if case.fate.kills:
            self.hosts.kill(host, random.Random(case.id).choice(DELAYS))
        raise case.fate.error()


def play(way: Way, root: pathlib.Path, tap: Tap) -> Hosts:
    """Go a way with a tap on all that happens once the request was accepted."""
    hosts = moves.begin(way, root, way.shared, tap)
    moves.play(None, way, hosts, tap.open)
    return hosts


@functools.cache
def recorded(name: str) -> list[str]:
    """Lines (host, call, how often) of a run without trouble."""
    way = WAYS[name]
    moves.prepared(way.after, way.shared)

    def work(root: pathlib.Path) -> list[str]:
        tap = Tap()
        play(way, root, tap)
        return [f"{host} {call} {n}" for (host, call), n in sorted(tap.counts.items())]

    return moves.forked(work)


def cases(way: Way) -> Iterator[CallCase]:
    """One for each call, :data:`MOST` times at most, and each fate."""
    for line in recorded(way.name):
        host, call, count = line.split()
        for number in range(1, min(int(count), MOST) + 1):
            for fate in Fate:
                yield CallCase(way.name, host, call, number, fate)


def run(case: CallCase) -> list[str]:
    """Play one case in a forked process. Returns all that is not as it must be."""
    way = WAYS[case.way]
    moves.prepared(way.after, way.shared)

    def work(root: pathlib.Path) -> list[str]:
        tap = Tap(case)
        hosts = play(way, root, tap)
        told = obey(hosts)
        if not tap.met:
            return [f"{case.call} was not called {case.number} times by {case.host}"]
        wrong = [f"no command: {line}" for line in told if "magnetar op resolve" not in line]
        return wrong + moves.verdict(hosts, way)

    return moves.forked(work)


def obey(hosts: Hosts) -> list[str]:
    """Run the command that each operation in need of an operator states; returns the commands."""
    told = []
    for host, row in hosts.active():
        if row.state == rows.NEEDS_OPERATOR:
            told.append((row.error or {}).get("next", ""))
            OperatorVerbs(hosts.agents[host].reconciler, {}).op_resolve(row.id, "retry")
    if told:
        hosts.converge()
    return told
