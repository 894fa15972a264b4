"""Boots, deletes, start and memory of a real agent, beside bare libvirt in the same run."""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from tests.integration.agent import RealAgent
from tools.toolbox.bench.figures import Figure
from tools.toolbox.bench.raw import Raw

Say = Callable[[str], None]


def memory(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process in MiB (VmRSS, Pss of smaps_rollup)."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    value = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return value["Rss"] / 1024, value["Pss"] / 1024


def create(agent: RealAgent, name: str, wait: bool = True) -> str:
    """Ask for a guest with a config drive; returns its id."""
    made = agent.call(
        "server.create", name=name, image="tiny", flavor="tiny", networks="none", config_drive=True
    )
    if wait:
        settled(agent, [made["id"]])
    return made["id"]


def settled(agent: RealAgent, guests: list[str], seconds: float = 300) -> None:
    """Wait until guests are active and no operation goes on."""

    def check() -> bool:
        states = {s["id"]: s for s in agent.call("server.list")}
        if any(states[g]["status"] == "ERROR" for g in guests):
            raise RuntimeError(f"a guest is in error:\n{agent.log()}")
        return all(states[g]["status"] == "ACTIVE" for g in guests) and not agent.call("op.list")

    agent.until(check, "guests active", seconds)


def gone(agent: RealAgent, guests: list[str]) -> None:
    """Delete guests and wait until nothing is left of them."""
    for guest in guests:
        agent.call("server.delete", server=guest)
    agent.until(
        lambda: (
            not {s["id"] for s in agent.call("server.list")} & set(guests)
            and not agent.call("op.list")
        ),
        "guests gone",
    )


def operation(agent: RealAgent, guest: str, verb: str) -> dict[str, Any]:
    """The last operation of a kind on a guest, with its steps."""
    found = [o for o in agent.call("op.list", guest=guest, all=True) if o["verb"] == verb]
    return agent.call("op.show", op=found[-1]["id"])


def until_step(shown: dict[str, Any], step: str) -> float:
    """Seconds from acceptance to the end of a step."""
    began = datetime.fromisoformat(shown["started_at"])
    at = next(s for s in shown["steps"] if s["step"] == step)
    return (datetime.fromisoformat(at["started_at"]) - began).total_seconds() + at["seconds"]


def start_and_memory(agent: RealAgent) -> list[Figure]:
    """Time from fork to serving, and memory when idle. The database exists already."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        agent.start()
        times.append(time.monotonic() - began)
        agent.terminate()
    agent.start()
    time.sleep(3)
    rss, pss = memory(agent.pid)
    return [
        Figure(
            "start to serving",
            statistics.median(times),
            "s",
            "below 1.5 s",
            "nova-compute: 2 s to its first audit, 7 s to up",
        ),
        Figure(
            "resident memory, idle",
            rss,
            "MiB",
            "below 90 MiB",
            "agent and control plane in one process; nova-compute alone: 160 to 170",
        ),
        Figure("proportional memory, idle", pss, "MiB", "", "nova-compute: 129 to 139"),
    ]


def counted(agent: RealAgent, work: Callable[[], Any]) -> tuple[Any, int]:
    """Do something when the agent is at rest; returns its result and how many calls to the
    conductor it made, the report of the inventory after it included."""
    time.sleep(3)  # the pass that follows an event is not part of what comes next
    before = agent.client.health()["calls"]["conductor"]
    result = work()
    time.sleep(0.3)
    return result, agent.client.health()["calls"]["conductor"] - before


def one_by_one(agent: RealAgent, raw: Raw, count: int, say: Say) -> list[Figure]:
    """Boots and deletes after each other, Magnetar and bare libvirt in turn."""
    ours, bare, calls, deletes, delete_calls = [], [], [], [], []
    gone(agent, [create(agent, "warm-up")])
    for number in range(count):
        say(f"boot {number + 1} of {count}")
        guest, used = counted(agent, partial(create, agent, f"one-{number}"))
        calls.append(used)
        ours.append(until_step(operation(agent, guest, "spawn"), "power"))
        twin = raw.twin(f"raw-{number}", agent.call("server.show", server=guest)["instance_name"])
        _, used = counted(agent, partial(gone, agent, [guest]))
        delete_calls.append(used)
        deletes.append(operation(agent, guest, "delete")["seconds"])
        bare.append(raw.boot(twin))  # alone, as ours was: a guest that boots takes a whole CPU
        raw.remove([twin])
    median, base = statistics.median(ours), statistics.median(bare)
    return [
        Figure(
            "boot: message to running domain",
            median,
            "s",
            "",
            f"image cached, config drive; median of {count}; nova-compute: 0.61",
        ),
        Figure("boot: bare libvirt define and start", base, "s", "", "the same XML"),
        Figure("boot: ratio to bare libvirt", median / base, "times", ""),
        Figure(
            "boot: our share",
            (median - base) * 1000,
            "ms",
            "below 100 ms",
            "disk and config drive included; nova-compute: 300 and more",
        ),
        Figure(
            "delete: message to deleted",
            statistics.median(deletes),
            "s",
            "",
            "QEMU needs 1.4 to 2 s of it to exit; nova-compute: 2.2",
        ),
        Figure(
            "conductor calls in one build",
            max(calls),
            "",
            "at most 10",
            "inventory report included; nova-compute: 24",
        ),
        Figure(
            "conductor calls in one delete",
            max(delete_calls),
            "",
            "at most 6",
            "inventory report included; nova-compute: 13",
        ),
    ]


def together(agent: RealAgent, raw: Raw, count: int, say: Say) -> list[Figure]:
    """Boots at once."""
    say(f"{count} boots at once")
    began = time.monotonic()
    guests = [create(agent, f"all-{count}-{n}", wait=False) for n in range(count)]
    settled(agent, guests)
    ours = time.monotonic() - began
    rss, _ = memory(agent.pid)
    name = agent.call("server.show", server=guests[0])["instance_name"]
    twins = [raw.twin(f"raw-{count}-{n}", name) for n in range(count)]
    gone(agent, guests)
    say(f"{count} boots at once, bare libvirt")
    bare = raw.boot_together(twins)
    raw.remove(twins)
    known = {10: "7.2 s against 1.9 s raw", 20: "12.6 s against 3.7 s raw"}.get(count, "")
    return [
        Figure(
            f"{count} boots at once, request to all active",
            ours,
            "s",
            "",
            f"nova-compute: {known}" if known else "",
        ),
        Figure(f"{count} boots at once, bare libvirt", bare, "s", ""),
        Figure(f"{count} boots at once, ratio", ours / bare, "times", ""),
        Figure(f"resident memory after {count} boots", rss, "MiB", "", "nova-compute: 174"),
    ]
