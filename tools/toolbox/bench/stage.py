"""A lab to measure moves in: guests made through the control plane, and how long a verb took."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import libvirt

from tools.toolbox.bench.bare import BareGuest
from tools.toolbox.lab import Lab

# Fills 256 MiB of memory, then writes 4 MiB of it four times a second, other bytes each time.
LOAD = """#!/bin/sh
mkdir -p /run/load && mount -t tmpfs -o size=400m none /run/load && cd /run/load || exit
cat /bin/busybox /bin/busybox | head -c 4194304 >a
tail -c +2 a >b
i=0
while [ $i -lt 64 ]; do cat a; i=$((i + 1)); done >filled
echo GUEST-LOADED >/dev/ttyS0
while :; do
    for from in a b; do dd if=$from of=c bs=64k conv=notrunc 2>/dev/null; usleep 250000; done
done
"""
IDLE, LOADED = "", base64.b64encode(LOAD.encode()).decode()
FLAVORS = {
    "tiny": {"ram": 192, "disk": 1, "vcpus": 1},
    "bigger": {"ram": 224, "disk": 1, "vcpus": 1},
    "loaded": {"ram": 640, "disk": 1, "vcpus": 1},
}
Bare = TypeVar("Bare", bound=BareGuest)
READY, FILLED = "TICK 3", "GUEST-LOADED"
POLL_SECONDS = 0.25  # seldom: whoever asks takes CPU from what is measured
MOST_SECONDS = 300


class Stage:
    """Guests of one lab, by way of its control plane and its agents' journals."""

    def __init__(self, lab: Lab, image: Any):
        self.lab, self.client = lab, lab.client(timeout=120)
        self.agents = {host.name: host.client(timeout=120) for host in lab.hosts}
        self.until(lambda: all(h["state"] == "up" for h in self.client.call("host.list")), "hosts")
        with open(image, "rb") as file:
            self.client.upload("image.create", file, image.stat().st_size, lambda sent: None,
                               name="tiny", disk_format="qcow2")
        for name, sizes in FLAVORS.items():
            self.client.call("flavor.create", name=name, **sizes)

    def create(self, name: str, load: str = IDLE) -> str:
        """A guest with a config drive; returns its id at once."""
        return self.client.call(
            "server.create", name=name, image="tiny", flavor="loaded" if load else "tiny",
            networks="none", config_drive=True, user_data=load or None)["id"]

    def show(self, guest: str) -> dict[str, Any]:
        """The server as the control plane shows it."""
        return self.client.call("server.show", server=guest)

    def booted(self, guests: Sequence[str], mark: str = READY) -> None:
        """Wait until guests wrote a mark on their consoles."""
        self.until(lambda: all(
            mark in self.lab.host(self.show(guest)["host"] or "host1").console(guest)
            for guest in guests), f"guests that wrote {mark}")

    def until(self, check: Callable[[], Any], what: str) -> None:
        """Poll until a check is true; raises RuntimeError when it is not in time."""
        deadline = time.monotonic() + MOST_SECONDS
        while not check():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} not seen in {MOST_SECONDS} s")
            time.sleep(POLL_SECONDS)

    def settled(self, guest: str, state: str) -> None:
        """Wait until a guest is in a state and nobody does anything with it.

        :raises RuntimeError: it is in error, or it took too long.
        """
        def check() -> bool:
            now = self.show(guest)
            if now["vm_state"] == "error" and state != "error":
                raise RuntimeError(f"guest {now['name']} is in error: {now['fault']}")
            if now["vm_state"] == "stopped" and state == "active" and not now["task_state"]:
                raise RuntimeError(f"guest {now['name']} went off by itself")
            return now["vm_state"] == state and not now["task_state"] and \
                not any(agent.call("op.list", guest=guest) for agent in self.agents.values())

        self.until(check, f"guest that is {state}")

    def timed(self, method: str, guest: str, state: str, **args: Any) -> float:
        """Ask for a verb; seconds from the request to the end of its last operation on any host,
        as the journals have it."""
        began = time.time()
        self.client.call(method, server=guest, **args)
        self.settled(guest, state)
        ends = [one["updated_at"] for one in self.operations(guest, began)]
        if not ends:
            raise RuntimeError(f"{method} left no operation in any journal")
        return max(map(_seconds, ends)) - began

    def operations(self, guest: str, since: float) -> list[dict[str, Any]]:
        """What agents did with a guest from a time on (seconds since the epoch)."""
        found = []
        for agent in self.agents.values():
            found += [one for one in agent.call("op.list", guest=guest, all=True)
                      if _seconds(one["started_at"]) >= since - 0.001]
        return found

    def span(self, host: str, guest: str, verb: str, first: str, last: str) -> tuple[float, float]:
        """From the begin of one step to the end of another (seconds since the epoch) in the last
        operation of a verb that a host did with a guest."""
        agent = self.agents[host]
        found = [one for one in agent.call("op.list", guest=guest, all=True) if one["verb"] == verb]
        steps = {one["step"]: one for one in agent.call("op.show", op=found[-1]["id"])["steps"]}
        return (_seconds(steps[first]["started_at"]),
                _seconds(steps[last]["started_at"]) + steps[last]["seconds"])

    def pause_ms(self, host: str, uuid: str) -> int:
        """How long a guest stood still when it came to a host, as its libvirt tells."""
        connection = self.lab.host(host).libvirt()
        try:
            domain = connection.lookupByUUIDString(uuid)
            return int(domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)["downtime"])
        finally:
            connection.close()

    def story(self) -> str:
        """What the agents logged last, for whoever looks why something failed."""
        return "\n".join(f"{host.name}:\n{host.agent.tail()}" for host in self.lab.hosts)

    def delete(self, guests: Sequence[str]) -> None:
        """Delete guests and wait until they are gone."""
        for guest in guests:
            self.client.call("server.delete", server=guest, force=True)
        self.until(lambda: not {one["id"] for one in self.client.call("server.list")}
                   & set(guests), "guests that are gone")


@contextmanager
def two(on: Stage, load: str, kind: type[Bare]) -> Iterator[tuple[str, Bare]]:
    """A guest of Magnetar's, and one like it of bare libvirt, on the same host; both count."""
    guest = on.create("ours", load)
    on.settled(guest, "active")
    bare = kind(on.lab, on.show(guest)["host"], guest)
    try:
        mark = FILLED if load else READY
        on.booted([guest], mark)
        on.until(lambda: mark in bare.host.console("bare"), f"bare guest that wrote {mark}")
        yield guest, bare
    finally:
        bare.remove()
        on.delete([guest])


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
