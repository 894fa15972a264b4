"""The kill matrix of moves: both agents, killed at every crash point of both halves.

The ways are in :mod:`tests.crash.ways`. Each is prepared once in this warmed process; a case forks
from it, plays it with one agent killed, or both, and goes on until all is at rest.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pathlib
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compute.engine import crashpoints
from compute.errors import Failed
from tests import fakes
from tests.crash.hosts import HOSTS, Hook, Hosts, unheard
from tests.crash.matrix import MEMORY, child, room
from tests.crash.ways import WAYS, Way

DELAYS = (0.1, 3.0, 45.0)  # seconds until a killed agent is there again


# -- preparing ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Prepared:
    """Two hosts at rest: what is on their disks, and their journals."""

    root: pathlib.Path
    journals: Mapping[str, sqlite3.Connection]
    time: float


@functools.cache
def prepared(name: str | None, shared: bool) -> Prepared | None:
    """Two hosts after a way, made once; cases fork from it."""
    if name is None:
        return None
    way = WAYS[name]
    root = pathlib.Path(tempfile.mkdtemp(prefix="magnetar-moves-", dir=MEMORY))
    atexit.register(_remove, root, os.getpid())
    hosts = begin(way, root, shared)
    way.ask(hosts)
    hosts.converge()
    wrong = hosts.problems(way.ends[0])
    if wrong:
        raise AssertionError(f"{name} without any kill: {wrong}")
    kept = {}
    for host, engine in hosts.journals.items():
        kept[host] = sqlite3.connect(":memory:", check_same_thread=False)
        connection = engine.raw_connection()
        connection.driver_connection.backup(kept[host])
        connection.close()
    return Prepared(root, kept, hosts.hub.clock.time)


def _remove(path: pathlib.Path, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(path, ignore_errors=True)


def begin(way: Way, root: pathlib.Path, shared: bool, tap: Hook = unheard) -> Hosts:
    """Hosts in ``root`` for a way, with their agents."""
    before = prepared(way.after, shared)
    hosts = Hosts(root, shared, tap, options=way.options)
    if before is not None:
        shutil.copytree(before.root, root, dirs_exist_ok=True)
        hosts.hub.clock.time = before.time
        for host, kept in before.journals.items():
            connection = hosts.journals[host].raw_connection()
            kept.backup(connection.driver_connection)
            connection.close()
    hosts.fabric.set(**way.fault)
    for host in HOSTS:
        if way.away is None or host != way.away[0]:
            hosts.start(host)
            while host not in hosts.exchange.agents:
                hosts.hub.step()
    if way.away is not None:
        host, seconds = way.away
        fakes.power_cut(hosts.world(host).driver)
        hosts.hub.spawn("machine", functools.partial(hosts.start, host), seconds)
    return hosts


# -- cases ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """One kill on a way, at ``point``: of the agent that is there, or of ``both``; ``again`` is
    where the next kill is."""

    way: str
    point: str
    both: bool = False
    again: str | None = None

    @property
    def id(self) -> str:
        """The case as a test's name."""
        words = [self.way, self.point, "both" if self.both else "",
                 f"again-{self.again}" if self.again else ""]
        return "_".join(w for w in words if w).replace(".", "_").replace("-", "_")


def play(case: Case | None, way: Way, hosts: Hosts,
         accepted: Callable[[Hosts], None] = lambda hosts: None) -> list[str]:
    """Let a way be gone with a case's kills, to the rest. Returns the points that were passed.

    :param accepted: called when the first request is in a journal.
    """
    chance = random.Random(case.id if case else way.name)
    left = [point for point in (case.point, case.again) if point] if case else []
    failing = [way.fail_at] if way.fail_at else []
    passed = []

    def hook(point: str) -> None:
        if not passed:
            accepted(hosts)
        passed.append(point)
        if point in failing:
            failing.remove(point)
            raise Failed("This step was made to fail.", code="made_to_fail")
        if left and point == left[0]:
            left.pop(0)
            here = hosts.hub.current.owner
            if case.both:
                for other in set(hosts.agents) - {here}:
                    hosts.kill(other, chance.choice(DELAYS))
            hosts.kill(here, chance.choice(DELAYS))

    crashpoints.arm(hook)
    try:
        way.ask(hosts)
        for seconds, what in way.later:
            hosts.hub.spawn("machine", functools.partial(what, hosts), seconds)
        hosts.converge()
    finally:
        crashpoints.arm(None)
    return passed


def run(case: Case) -> list[str]:
    """Play one case in a forked process. Returns all that is not as it must be."""
    way = WAYS[case.way]
    prepared(way.after, way.shared)  # here, so that it is there for the next case

    def work(root: pathlib.Path) -> list[str]:
        hosts = begin(way, root, way.shared)
        passed = play(case, way, hosts)
        if case.point not in passed:
            return [f"{case.point} was not visited: the point does not exist"]
        return verdict(hosts, way)

    return forked(work)


def forked(work: Callable[[pathlib.Path], list[str]]) -> list[str]:
    """Do something in a forked process and a directory of its own; returns what it returns."""
    with room() as root:
        answer = root / "answer.json"
        status = child(lambda: answer.write_text(json.dumps(work(root / "hosts"))))
        if status != 0:
            return [f"the process ended with {status}; see its traceback above"]
        return json.loads(answer.read_text())


def verdict(hosts: Hosts, way: Way) -> list[str]:
    """What is wrong with how it ended, by the ending that fits best."""
    return min((hosts.problems(end) for end in way.ends), key=len)


@functools.cache
def points(way_name: str) -> list[str]:
    """The crash points of a way's verbs that it passes, as a run without a kill shows."""
    way = WAYS[way_name]
    prepared(way.after, way.shared)

    def work(root: pathlib.Path) -> list[str]:
        hosts = begin(way, root, way.shared)
        passed = play(None, way, hosts)
        wrong = hosts.problems(way.ends[0])
        if wrong:
            raise AssertionError(f"{way.name} without any kill: {wrong}")
        return passed

    return list(dict.fromkeys(forked(work)))
