"""Following migrations: what a person is shown of them, and how they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compute.errors import Failed, Unknown
from control.cli.client import Client
from control.cli.columns import size_text
from control.cli.wait import Progress, progress

Row = dict[str, Any]
FIRST_POLL, LAST_POLL = 0.2, 1.0  # seconds between two looks, growing
WAITS = ("finished",)  # a resize that waits to be confirmed: the transfer is over
GOOD = ("finished", "confirmed", "completed", "done", "confirming")
FIELDS = ("id", "server", "server_id", "type", "status", "source_compute", "dest_compute",
          "asked", "message", "created_at", "updated_at")


def over(migration: Row) -> bool:
    """Whether nothing more happens without somebody's word."""
    return bool(migration["ended"]) or migration["status"] in WAITS


def amounts(migration: Row) -> tuple[int, int]:
    """Bytes that are to go, and bytes in all, of memory and disks together; 0 of 0 if unknown."""
    told = migration.get("progress") or {}
    source = told if told.get("memory_total") or told.get("disk_total") else migration

    def both(which: str) -> int:
        return sum(source.get(f"{what}_{which}") or 0 for what in ("memory", "disk"))

    return both("remaining"), both("total")


def described(migration: Row) -> str:
    """Where a migration is, on one line: phase, remaining, dirty rate, bandwidth, iteration, time
    left, as far as they are known."""
    told = migration.get("progress") or {}
    remaining, total = amounts(migration)
    parts = [str(told.get("phase") or migration["status"])]
    if told.get("queue_position"):
        parts.append(f"number {told['queue_position']} in the queue")
    if total and not over(migration):
        parts.append(f"{size_text(remaining)} of {size_text(total)} left")
    if told.get("dirty_rate"):
        parts.append(f"dirty {size_text(told['dirty_rate'])}/s")
    if told.get("bandwidth"):
        parts.append(f"sent {size_text(told['bandwidth'])}/s")
    if told.get("iteration"):
        parts.append(f"pass {told['iteration']}")
    if told.get("throttle"):
        parts.append(f"CPU throttled by {told['throttle']} %")
    if limits := in_force(told):
        parts.append(limits)
    if told.get("seconds_left") is not None:
        parts.append(f"about {told['seconds_left']:.0f} s")
    where = f" to {migration['dest_compute']}" if migration["dest_compute"] else ""
    return f"{migration['type']}{where}: {', '.join(parts)}"


def in_force(told: Row) -> str:
    """The limits of a live migration, as far as they are known."""
    parts = []
    if told.get("bandwidth_limit") is not None:
        limit = told["bandwidth_limit"]
        parts.append(f"at most {limit} MiB/s" if limit else "no limit of bandwidth")
    if told.get("max_pause") is not None:
        parts.append(f"a pause of at most {told['max_pause']} ms")
    return ", ".join(parts)


def asked(migration: Row) -> str:
    """What was asked for of one migration, instead of its host's options."""
    told = migration.get("asked") or {}
    limits = {"bandwidth_limit": told.get("bandwidth"), "max_pause": told.get("max_pause")}
    return ", ".join(part for part in (told.get("strategy"), in_force(limits)) if part)


def plain(migration: Row) -> Row:
    """A migration for machines: the record, what its host tells, and the sums."""
    remaining, total = amounts(migration)
    return {**{name: migration.get(name) for name in FIELDS}, "remaining": remaining,
            "total": total, "progress": migration.get("progress"),
            "ended": bool(migration["ended"])}


def outcome(migration: Row) -> str:
    """How a migration ended, in a sentence."""
    name, kind, status = (migration[key] for key in ("server", "type", "status"))
    if status in WAITS:
        return (f"{name}: {kind} to {migration['dest_compute']} is done and waits. Keep it with "
                f"'magnetar server resize confirm {name}', or 'revert' it.")
    if status in GOOD:
        return f"{name}: {kind} to {migration['dest_compute']} is {status}."
    why = migration["message"] or ("it was aborted" if status == "cancelled"
                                   else "nothing was said why")
    return f"{name}: {kind} is {status}: {why}"


def failed(migration: Row) -> Failed:
    """The error for a migration that did not end well."""
    where = f" on {migration['source_compute']}" if migration["type"] == "live-migration" else ""
    return Failed(
        outcome(migration), now=f"The server is {migration['vm_state']}{where}.",
        next=f"See how it came to that with 'magnetar explain {migration['server_id']}'.",
        code="migration_failed")


def looks(client: Client, server: str, migration: int | None, timeout: float) -> Iterator[Row]:
    """A migration as it is again and again, until it is over.

    :raises Unknown: ``wait_timeout``; it goes on then.
    """
    deadline, pause = time.monotonic() + timeout, FIRST_POLL
    while True:
        now = client.call("server.migration_progress", server=server, migration=migration)
        migration = now["id"]
        yield now
        if over(now):
            return
        if time.monotonic() > deadline:
            raise Unknown(
                f"The {now['type']} of {now['server']} did not end within {timeout:.0f} seconds.",
                now=f"It is {now['status']}, and goes on.", code="wait_timeout",
                next=f"Follow it with 'magnetar migration watch {now['server']}'.")
        time.sleep(pause)
        pause = min(pause * 1.3, LAST_POLL)


def follow(client: Client, server: Row, timeout: float) -> Row:
    """Wait until a server's newest migration is over, showing how far it is on stderr.

    :raises Failed: with its message, when it did not end well.
    """
    with progress(server["name"]) as bar:
        now: Row = {}
        for now in looks(client, server["id"], None, timeout):
            show(bar, now)
    if now["status"] not in GOOD:
        raise failed(now)
    return now


def show(bar: Progress, migration: Row) -> None:
    """Bring a bar to where a migration is, in percent."""
    remaining, total = amounts(migration)
    remaining = 0 if over(migration) else remaining  # the record may not know the last of it
    bar.show(described(migration), 100 * (total - remaining) // total if total else 0,
             100 if total else 0)


class Lines:
    """One line on stdout for each change that a person would want to see."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Any, ...]] = {}
        self._begin = time.monotonic()

    def show(self, migration: Row) -> None:
        """Print it, unless nothing but numbers changed within a second."""
        told = migration.get("progress") or {}
        seconds = time.monotonic() - self._begin
        key = (migration["status"], told.get("phase"), told.get("iteration"), int(seconds))
        if self._last.get(migration["id"]) != key:
            self._last[migration["id"]] = key
            print(f"{seconds:6.1f}s  {migration['server']}: {described(migration)}", flush=True)


class Bars:
    """A bar for each migration, on a terminal."""

    def __init__(self, bars: Any):
        self._bars = bars
        self._tasks: dict[int, Any] = {}

    def show(self, migration: Row) -> None:
        """Bring its bar to where it is."""
        remaining, total = amounts(migration)
        if migration["id"] not in self._tasks:
            self._tasks[migration["id"]] = self._bars.add_task(migration["server"], total=None,
                                                               text="")
        self._bars.update(self._tasks[migration["id"]], text=described(migration),
                          completed=total - remaining, total=total or None)


@contextmanager
def screen() -> Iterator[Lines | Bars]:
    """Bars when stdout is a terminal, else lines."""
    if not sys.stdout.isatty():
        yield Lines()
        return
    from rich import progress as rich

    with rich.Progress(
        rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.BarColumn(bar_width=24),
        rich.TextColumn("{task.fields[text]}", markup=False), rich.TimeElapsedColumn(),
        transient=True,
    ) as bars:
        yield Bars(bars)
