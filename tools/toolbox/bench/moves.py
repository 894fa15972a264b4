"""tools/bench moves: how long guests take to sleep, to change their size and their host, beside
bare libvirt in the same run; and a host that is drained. Shows progress on stderr."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import libvirt

from tools.toolbox.bench.bare import BareGuest
from tools.toolbox.bench.figures import Figure, Pair, as_json, pairs_table, say, table
from tools.toolbox.bench.life import BareLife, network, round_of_life
from tools.toolbox.bench.live import live
from tools.toolbox.bench.stage import FLAVORS, IDLE, Stage, two
from tools.toolbox.lab import Lab, LabHost
from tools.toolbox.lab.lab import missing, sweep
from tools.toolbox.lab.place import TOP
from tools.toolbox.processes import Process

PARTS = ("verbs", "life", "block", "drain", "shared")
IMAGE = TOP / ".cache/guest.qcow2"
AT_ONCE = 2  # live migrations that a host of the drain sends at once
NOVA = {"pause": "0.09", "unpause": "0.09", "suspend": "1.85", "resume": "0.73",
        "resize on the same host": "5.2", "confirm": "0.57", "snapshot": "1.04 (16 MiB)",
        "rebuild": "4.1", "rescue": "3.9", "unrescue": "2.25", "shelve": "3.6", "unshelve": "3.4"}


@contextmanager
def stage(shared: bool = False) -> Iterator[Stage]:
    """Two hosts with image and flavors; all of it goes at the end, or by the next run's sweep."""
    sweep()
    lab = Lab(f"bench-{os.getpid()}-{uuid.uuid4().hex[:4]}")
    limits = ("", "_per_link")
    options = {"DEFAULT": {**{f"max_concurrent_live_migrations{w}": AT_ONCE for w in limits},
                           "max_concurrent_incoming_live_migrations": AT_ONCE,
                           "cpu_allocation_ratio": 16, "reclaim_instance_interval": 3600},
               "control": {"max_drain_moves": 2 * AT_ONCE, "max_io_ops": 100}}
    try:
        lab.up(2, shared, options=options, owner=Process.of(os.getpid(), "bench"))
        on = Stage(lab, IMAGE)
        try:
            yield on
        except Exception:
            print(on.story(), file=sys.stderr)  # the logs go with the lab
            raise
    finally:
        lab.down()


# -- each verb by itself ---------------------------------------------------------------------------

class Verbs:
    """Each verb in turn on a guest without load, some rounds of all of them."""

    def __init__(self, on: Stage, guest: str, bare: BareGuest):
        self.on, self.guest, self.bare = on, guest, bare
        self.ours: dict[str, list[float]] = {}
        self.theirs: dict[str, list[float]] = {}
        self.needs: dict[str, str] = {}

    def both(self, verb: str, ours: Callable[[], float], theirs: Callable[[], float],
             needs: str) -> None:
        """Do a verb by Magnetar, then by bare libvirt."""
        time.sleep(1)  # what the verb before left to do is not part of this one
        self.ours.setdefault(verb, []).append(ours())
        self.theirs.setdefault(verb, []).append(theirs())
        self.needs[verb] = needs

    def _do(self, method: str, state: str, **args: Any) -> Callable[[], float]:
        return lambda: self.on.timed(f"server.{method}", self.guest, state, **args)

    def round(self) -> None:
        """Everything once; the guests are on the first host afterwards, as before."""
        bare, do, both = self.bare, self._do, self.both
        both("pause", do("pause", "paused"), bare.pause, "suspend")
        both("unpause", do("unpause", "active"), bare.unpause, "resume")
        both("suspend", do("suspend", "suspended"), bare.suspend, "managedSave")
        both("resume", do("resume", "active"), bare.resume, "create")
        self._sizes()
        self._hosts()

    def _sizes(self) -> None:
        bare, do, both = self.bare, self._do, self.both
        other = next(h.name for h in self.on.lab.hosts if h.name != bare.host.name)
        self.on.client.call("host.disable", host=other, reason="measuring resize on one host")
        again = "shutdown, copy of the disk, defineXML, create"
        both("resize on the same host", do("resize", "resized", flavor="bigger"),
             lambda: bare.resize(FLAVORS["bigger"]["ram"]), again)
        self.awake()
        both("revert", do("resize_revert", "active"), bare.revert,
             "destroy, rename of the disk, defineXML, create")
        self.awake()
        self.on.timed("server.resize", self.guest, "resized", flavor="bigger")
        bare.resize(FLAVORS["bigger"]["ram"])
        self.awake()
        both("confirm", do("resize_confirm", "active"), bare.confirm, "none: files are removed")
        self.on.client.call("host.enable", host=other)
        self.on.timed("server.resize", self.guest, "resized", flavor="tiny")
        self.on.timed("server.resize_confirm", self.guest, "active")
        self.awake()

    def _hosts(self) -> None:
        """Cold to the other host and back, so that the guests end where they began."""
        while True:
            here = self.on.show(self.guest)["host"]
            other = next(h.name for h in self.on.lab.hosts if h.name != here)
            theirs = next(h.name for h in self.on.lab.hosts if h.name != self.bare.host.name)
            self.both("cold migration", self._do("migrate", "resized", host=other),
                      partial(self.bare.cold, theirs),
                      "shutdown, copy of the disk, defineXML and create there, undefine")
            self.on.timed("server.resize_confirm", self.guest, "active")
            self.awake()
            if self.bare.host.name == self.on.lab.hosts[0].name:
                return

    def awake(self) -> None:
        """Wait until both guests are up far enough to hear that they are to shut down."""
        hosts = [(self.on.show(self.guest)["host"], self.guest), (self.bare.host.name, "bare")]
        for host, name in hosts:
            lab_host = self.on.lab.host(host)
            seen = lab_host.console(name).count("TICK")
            self.on.until(partial(self._counts, lab_host, name, seen + 2), f"{name} that counts")

    def _counts(self, host: LabHost, name: str, beyond: int) -> bool:
        return host.console(name).count("TICK") > beyond

    def pairs(self) -> list[Pair]:
        """Medians."""
        return [Pair(verb, statistics.median(times), statistics.median(self.theirs[verb]),
                     self.needs[verb], NOVA.get(verb, "")) for verb, times in self.ours.items()]


def verbs(on: Stage, rounds: int) -> list[Pair]:
    """Latency of each verb, from the request to the end of its last operation."""
    with two(on, IDLE, BareGuest) as (guest, bare):
        measured = Verbs(on, guest, bare)
        for number in range(rounds):
            say(f"all verbs, round {number + 1} of {rounds}")
            measured.round()
    return measured.pairs()


def life(on: Stage, rounds: int) -> list[Pair]:
    """Latency of the verbs of a guest that stays on its host."""
    network(on)
    with two(on, IDLE, BareLife) as (guest, bare):
        measured = Verbs(on, guest, bare)
        for number in range(rounds):
            say(f"the life of a guest, round {number + 1} of {rounds}")
            round_of_life(on, guest, bare, measured.both, measured.awake)
    return measured.pairs()


# -- a host that is emptied ------------------------------------------------------------------------

class Witness:
    """Counts, by libvirt's word, how many migrations leave a host at once."""

    def __init__(self, connection: libvirt.virConnect):
        self.peak, self._connection, self._over = 0, connection, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, sum(map(_leaves, self._connection.listAllDomains())))


def _leaves(domain: libvirt.virDomain) -> bool:
    try:
        found = domain.jobStats()
    except libvirt.libvirtError:
        return False  # it left this moment
    return bool(found.get("type")) and \
        found.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT


def drain(on: Stage, count: int) -> list[Figure]:
    """Guests that all leave a host at once, live, with the limits kept."""
    say(f"{count} guests are made on host1")
    on.client.call("host.disable", host="host2", reason="guests are to be on host1")
    guests = [on.create(f"drained-{number}") for number in range(count)]
    for guest in guests:
        on.settled(guest, "active")
    on.client.call("host.enable", host="host2")
    on.booted(guests)
    say(f"host1 is drained of {count} guests")
    with Witness(on.lab.host("host1").libvirt()) as witness:
        began = time.monotonic()
        on.client.call("host.drain", host="host1")
        on.until(lambda: on.client.call("host.drain_show", host="host1")["status"] != "running",
                 "drain that ended")
        seconds = time.monotonic() - began
    ended = on.client.call("host.drain_show", host="host1")
    for guest in guests:
        on.settled(guest, "active")
    spans = [on.span("host1", guest, "live_out", "destination", "transfer") for guest in guests]
    there = [guest for guest in guests if on.show(guest)["host"] == "host2"]
    on.delete(guests)
    on.client.call("host.enable", host="host1")
    return [
        Figure(f"drain of {count} guests", seconds, "s", "",
               f"{ended['status']}: {ended['moved']} moved live, {len(there)} on the other host"),
        Figure("drain: migrations at once by libvirt, most seen", witness.peak, "",
               f"at most {AT_ONCE}", f"max_concurrent_live_migrations and _per_link = {AT_ONCE}"),
        Figure("drain: migrations at once by the journal, most", overlap(spans), "",
               f"at most {AT_ONCE}", "from the end of step queue to the end of step transfer"),
    ]


def overlap(spans: Sequence[tuple[float, float]]) -> int:
    """How many of these (begin, end) overlap at most; one that begins as another ends does not."""
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    going = most = 0
    for _, change in edges:
        going += change
        most = max(most, going)
    return most


def measure(parts: Sequence[str], migrations: int, rounds: int, guests: int, pairs: list[Pair],
            figures: list[Figure]) -> None:
    """All of PARTS that are named: all verbs ``rounds`` times, so many live migrations of each
    kind, a drain. Each result is added as soon as it is there."""
    def lives(on: Stage, shared: bool) -> None:
        made = live(on, migrations, shared)
        pairs.extend(made.pairs())
        figures.extend(made.figures())

    if {"verbs", "life", "block", "drain"} & set(parts):
        say("two hosts with local disks")
        with stage() as on:
            if "verbs" in parts:
                pairs += verbs(on, rounds)
            if "life" in parts:
                pairs += life(on, rounds)
            if "block" in parts:
                lives(on, shared=False)
            if "drain" in parts:
                figures += drain(on, guests)
    if "shared" in parts:
        say("two hosts that share their disks")
        with stage(shared=True) as on:
            lives(on, shared=True)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="tools/bench moves", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--migrations", type=int, metavar="N",
                        help="live migrations of each kind (default 10)")
    parser.add_argument("--only", choices=PARTS, action="append", metavar="PART",
                        help=f"one of {', '.join(PARTS)}; may be repeated (default all)")
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")
    words = parser.parse_args()
    if words.migrations is not None and words.migrations < 2:
        parser.error("--migrations is at least 2: there and back")
    reason = missing(shared=True)
    if reason:
        print(f"tools/bench moves: {reason}. Nothing was measured.", file=sys.stderr)
        return 1
    few = words.quick
    pairs: list[Pair] = []
    figures: list[Figure] = []
    try:
        measure(words.only or PARTS, words.migrations or (4 if few else 10), 1 if few else 3,
                4 if few else 10, pairs, figures)
    finally:  # what was measured in an hour is not lost to what fails afterwards
        if words.format == "json":
            print(as_json(figures, pairs))
        else:
            print(f"{pairs_table(pairs)}\n\n{table(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
