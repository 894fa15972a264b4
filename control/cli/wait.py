"""Waiting for a server, and showing how far it is: a bar on a terminal, else a line per change."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from compute.errors import Failed, MagnetarError, NeedsOperator, Unknown
from control.cli.client import Client

FIRST_POLL, LAST_POLL = 0.1, 1.0  # seconds between two looks, growing
ENDED = ("done", "undone")  # states of an operation after which nothing more happens


class Progress(Protocol):
    """Shows where a wait is."""

    def show(self, text: str, done: int, total: int) -> None:
        """Say what is going on, and how many of how many steps are done (0 of 0: not known)."""


class Lines:
    """For logs and pipes: one line for each change, with the seconds since the beginning."""

    def __init__(self, label: str):
        self.label, self._last, self._begin = label, "", time.monotonic()

    def show(self, text: str, done: int, total: int) -> None:
        """See :class:`Progress`."""
        steps = f" ({done}/{total})" if total else ""
        line = f"{self.label}: {text}{steps}"
        if line != self._last:
            self._last = line
            print(f"{time.monotonic() - self._begin:6.1f}s  {line}", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, bar: Any, label: str):
        self._bar = bar
        self._task = bar.add_task(label, total=None, text="")

    def show(self, text: str, done: int, total: int) -> None:
        self._bar.update(self._task, text=text, completed=done, total=total or None)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A bar that goes away at the end when stderr is a terminal, else lines that stay."""
    if not sys.stderr.isatty():
        yield Lines(label)
        return
    from rich import console, progress

    with progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),
        progress.TextColumn("{task.fields[text]}", markup=False),
        progress.TimeElapsedColumn(),
        console=console.Console(stderr=True),
        transient=True,
    ) as bar:
        yield _Bar(bar, label)


@contextmanager
def upload_bar(label: str, size: int | None) -> Iterator[Callable[[int], object]]:
    """A function to call with each number of bytes sent; draws only when stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich import console, progress

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=size)
        yield lambda count: bar.advance(task, count)


def wait_for(client: Client, server: dict[str, Any], wanted: str | tuple[str, ...],
             timeout: float) -> dict | None:
    """Wait until nothing more happens to a server.

    :param server: as ``server.show`` gives it; id and name are used.
    :param wanted: the vm_states that mean success; ``deleted`` also when the server is gone.
    :param timeout: seconds; what goes on goes on after it.
    :returns: the server as it is then, None when it is gone.
    :raises Failed: with the server's fault, when it ends in another state.
    :raises Unknown: ``wait_timeout``.
    """
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    deadline, pause = time.monotonic() + timeout, FIRST_POLL
    name, guest = server["name"], server["id"]
    with progress(name) as bar:
        try:
            while True:
                now = _look(client, guest, wanted)
                if now is None or (not now.get("task_state") and now["vm_state"] != "building"):
                    break
                bar.show(*_position(client, now))
                if time.monotonic() > deadline:
                    raise _timed_out(name, now, timeout)
                time.sleep(pause)
                pause = min(pause * 1.3, LAST_POLL)
        except KeyboardInterrupt:
            print(
                f"No longer waiting for {name}; what was asked for goes on. "
                f"Follow it with 'magnetar explain {guest}'.",
                file=sys.stderr,
            )
            raise
    if now is not None and now["vm_state"] not in wanted:
        raise _fault(client, name, guest, now, " or ".join(wanted))
    return now


def wait_for_image(client: Client, server: dict[str, Any], image: dict[str, Any],
                   timeout: float) -> dict[str, Any]:
    """Wait until a server's host has stored an image of it, and return the image.

    :raises Failed: with what went wrong, when there is none in the end.
    :raises Unknown: ``wait_timeout``.
    """
    wait_for(client, server, server["vm_state"], timeout)
    found = [one for one in client.call("image.list") if one["id"] == image["id"]]
    if not found or found[0]["status"] != "active":
        raise Failed(
            f"No image was made of {server['name']}: "
            f"{_last_error(client, server['id']) or 'no fault was recorded'}",
            now="The server is as it was.",
            next=f"See how it came to that with 'magnetar explain {server['id']}'.",
            code="wait_failed",
        )
    return found[0]


def _look(client: Client, guest: str, wanted: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        now = client.call("server.show", server=guest)
    except MagnetarError as error:
        if "deleted" in wanted and error.code.endswith("not_found"):
            return None
        raise
    return None if "deleted" in wanted and now["vm_state"] == "deleted" else now


def _position(client: Client, server: dict[str, Any]) -> tuple[str, int, int]:
    """What is going on with the server, in words, and steps done of steps in all."""
    state = server.get("task_state") or server["vm_state"]
    try:
        found = client.call("op.list", guest=server["id"])
    except MagnetarError:
        return state, 0, 0  # its host is not this one, or it is not known there yet
    running = [op for op in found if op["state"] not in ENDED]
    if not running:
        return state, 0, 0
    op = running[-1]
    if op["state"] == "needs_operator":
        raise NeedsOperator(
            f"The {op['verb']} of {server['name']} cannot go on by itself: {op.get('message')}",
            now=f"It rests at step {op.get('step')}; the server is {state}.",
            next=f"See what to do with 'magnetar explain {server['id']}'.",
            code="needs_operator",
        )
    text = " ".join(str(op[key]) for key in ("verb", "step") if op.get(key))
    message = f": {op['message']}" if op.get("message") else ""
    return f"{text}{message}", op.get("steps_done") or 0, op.get("steps_total") or 0


def _timed_out(name: str, now: dict[str, Any], timeout: float) -> Unknown:
    state = now.get("task_state") or now["vm_state"]
    return Unknown(
        f"{name} was not ready within {timeout:.0f} seconds.",
        now=f"It is still {state}; what was asked for goes on.",
        next=f"See why with 'magnetar explain {now['id']}'.",
        code="wait_timeout",
    )


def _fault(client: Client, name: str, guest: str, now: dict[str, Any], wanted: str) -> Failed:
    fault = now.get("fault")
    if isinstance(fault, dict):
        fault = fault.get("message") or fault.get("what")
    fault = fault or _last_error(client, guest)
    return Failed(
        f"{name} did not become {wanted}: {fault or 'no fault was recorded'}",
        now=f"It is {now['vm_state']}.",
        next=f"See how it came to that with 'magnetar explain {guest}'.",
        code="wait_failed",
    )


def _last_error(client: Client, guest: str) -> str | None:
    """What the newest action failed with: a verb may fail without the server being in error."""
    actions = client.call("server.actions", server=guest) or [{"events": []}]
    return next((event["details"] for event in reversed(actions[-1]["events"])
                 if event.get("details")), None)
