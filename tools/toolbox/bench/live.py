"""Live migrations of a guest under load, back and forth, in turn with bare libvirt's."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from dataclasses import dataclass, field

import libvirt

from tools.toolbox.bench.bare import BareGuest
from tools.toolbox.bench.figures import Figure, Pair, say
from tools.toolbox.bench.stage import LOADED, Stage, two
from tools.toolbox.lab.guest import broken
from tools.toolbox.ticks import Ticks

PAIRED = 20  # live migrations that are done by bare libvirt as well
TELL_EVERY = 10
CRASHED = [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED]
CALLS = "migrateToURI3, the same flags"


class Spoilt(Exception):
    """A guest's kernel panicked: QEMU 7.2's emulation loses writes of guests that it moves, also
    when nothing but libvirt takes part. Nothing can be told of this migration."""


@dataclass
class Lives:
    """What was seen of ``count`` live migrations; ``kind`` names them.

    A guest that emulation spoils is replaced by a new one, and that migration is not counted.
    """

    on: Stage
    kind: str
    count: int
    shared: bool
    ours: list[float] = field(default_factory=list)  # s, from the request
    agent: list[float] = field(default_factory=list)  # s, from the agent's message
    bare: list[float] = field(default_factory=list)  # s
    pauses: list[int] = field(default_factory=list)  # ms
    bare_pauses: list[int] = field(default_factory=list)  # ms
    followed: list[Ticks] = field(default_factory=list)  # one for each guest
    spoilt: list[str] = field(default_factory=list)  # whose guest it was

    def go(self) -> None:
        """Make them all.

        :raises RuntimeError: the guest is not where or as it should be.
        """
        while len(self.ours) < self.count:
            with two(self.on, LOADED, BareGuest) as (guest, bare):
                try:
                    self._with(guest, bare)
                except Spoilt as spoilt:
                    self.spoilt.append(str(spoilt))
                    say(f"{self.kind}: emulation spoilt {spoilt}; it is replaced")

    def _with(self, guest: str, bare: BareGuest) -> None:
        here = self.on.show(guest)["host"]
        [there] = {host.name for host in self.on.lab.hosts} - {here}
        # The first one there finds no image in the cache.
        for host in (there, here):
            self.on.timed("server.live_migrate", guest, "active", host=host)
        logs = {host.name: host.instances / guest / "console.log" for host in self.on.lab.hosts}
        to = here
        with Ticks(logs) as ticks:
            self.followed.append(ticks)
            while len(self.ours) < self.count:
                to = there if to == here else here
                if len(self.ours) % TELL_EVERY == 0:
                    self._tell()
                self._one(guest, bare, to, ticks)

    def _one(self, guest: str, bare: BareGuest, to: str, ticks: Ticks) -> None:
        """One migration, by bare libvirt before if it is among the first."""
        theirs = []
        if len(self.bare) < PAIRED:
            theirs = [(bare.live(to, self.shared), self.on.pause_ms(to, bare.uuid))]
        began = time.time()
        try:
            seconds = self.on.timed("server.live_migrate", guest, "active", host=to)
        except RuntimeError:
            self._sound(guest)
            raise
        told = [one["seconds"] for one in self.on.operations(guest, began)
                if one["verb"] == "live_out"]
        pause = self.on.pause_ms(to, guest)
        goes_on = ticks.wait(1, 60)
        self._sound(guest)
        if self.on.show(guest)["host"] != to or ticks.backwards or not goes_on:
            raise RuntimeError(f"{guest} is not as it should be on {to}: its counter "
                               f"{'went back' if ticks.backwards else 'stopped'} at {ticks.last}: "
                               f"{ticks.backwards}\n{self._seen(guest)}")
        self.ours.append(seconds)
        self.agent += told
        self.pauses.append(pause)
        self.bare += [one for one, _ in theirs]
        self.bare_pauses += [one for _, one in theirs]

    def _sound(self, guest: str) -> None:
        """Raises Spoilt when a guest's kernel panicked, or its emulated CPU gave up."""
        for host in self.on.lab.hosts:
            for name, uuid in (("Magnetar's guest", guest), ("bare libvirt's guest", "bare")):
                if broken(host.console(uuid)):
                    raise Spoilt(name)
            with closing(host.libvirt()) as connection:
                if any(domain.UUIDString() == guest and domain.state() == CRASHED
                       for domain in connection.listAllDomains()):
                    raise Spoilt("Magnetar's guest")

    def _seen(self, guest: str) -> str:
        """What libvirt and the guest's console say on each host."""
        told = []
        for host in self.on.lab.hosts:
            with closing(host.libvirt()) as connection:
                states = {one.name(): one.state() for one in connection.listAllDomains()}
            told.append(f"{host.name}: {states}\n{host.console(guest)[-2000:]}")
        return "\n".join(told)

    def _tell(self) -> None:
        so_far = ""
        if self.ours:
            so_far = (f"; median {statistics.median(self.ours):.2f} s, bare "
                      f"{statistics.median(self.bare):.2f} s")
        say(f"{self.kind}: {len(self.ours)} of {self.count}{so_far}")

    def pairs(self) -> list[Pair]:
        """Times beside bare libvirt's."""
        median, bare = statistics.median, statistics.median(self.bare)
        pause, theirs = max(self.pauses), max(self.bare_pauses)
        return [
            Pair(f"{self.kind}: request to all done", median(self.ours), bare, CALLS,
                 goal="at most 1.1"),
            Pair(f"{self.kind}: message to all done", median(self.agent), bare, CALLS),
            Pair(f"{self.kind}: pause", median(self.pauses), median(self.bare_pauses), CALLS,
                 goal="at most 1", unit="ms"),
            Pair(f"{self.kind}: longest pause", pause, theirs, CALLS, unit="ms"),
        ]

    def figures(self) -> list[Figure]:
        """How many there were, and what became of the counters."""
        numbers = sum(one.last - one.seen[0].number for one in self.followed if one.seen)
        skipped = sum(one.skipped() for one in self.followed)
        longest, usual = zip(*[one.gaps() for one in self.followed], strict=True)
        mine = sum(name.startswith("Magnetar") for name in self.spoilt)
        return [
            Figure(f"{self.kind}: migrations", len(self.ours), "", "",
                   f"each ended on the right host; {len(self.bare)} by bare libvirt in turn; "
                   f"request to all done at most {max(self.ours):.1f} s"),
            Figure(f"{self.kind}: counter that went back",
                   sum(len(one.backwards) for one in self.followed), "", "0",
                   f"{numbers} numbers, {skipped} never seen"),
            Figure(f"{self.kind}: longest time between two numbers", max(longest), "s", "",
                   f"usually {statistics.median(usual):.2f} s"),
            Figure(f"{self.kind}: guests spoilt by emulation", len(self.spoilt), "", "",
                   f"{mine} of Magnetar's, {len(self.spoilt) - mine} of bare libvirt's: their "
                   "kernels panicked, and new ones took their place"),
        ]


def live(on: Stage, count: int, shared: bool) -> Lives:
    """So many live migrations of a guest under load, back and forth."""
    made = Lives(on, f"live migration, {'shared disks' if shared else 'block copy'}", count, shared)
    made.go()
    return made
