"""Why a tenant's verb cannot be had now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compute.errors import Refused
from control import common
from control.common import NOTHING

Row = dict[str, Any]
# Nova's words for what was asked, where they make no sentence.
WORDS = {"createImage": "make an image of", "createBackup": "make a backup of",
         "shelveOffload": "offload"}


def refusal(
    row: Row | None,
    seen: Row,
    verb: str,
    vm_states: Sequence[str],
    tasks: Sequence[str | None],
) -> Refused:
    """Why a verb cannot be had now: ``busy``, ``bad_state`` or ``not_ready``."""
    name, verb = seen["display_name"], WORDS.get(verb, verb)
    if row is None:
        return common.not_found("server", name)
    if row["task_state"] is not None and row["task_state"] not in tasks:
        return Refused(
            f"Cannot {verb} server {name}: it is busy with {row['task_state']}.",
            now=NOTHING, code="busy",
            next=f"Try again when that has ended; see 'magnetar explain {row['uuid']}'.",
        )
    if vm_states and row["vm_state"] not in vm_states:
        return Refused(
            f"Cannot {verb} server {name} while it is {row['vm_state']}.", now=NOTHING,
            next=f"This works for servers that are {' or '.join(vm_states)}.", code="bad_state",
        )
    return not_ready(row, verb)


def not_ready(row: Row, verb: str) -> Refused:
    """The refusal for a server that no host has."""
    return Refused(
        f"Cannot {verb} server {row['display_name']}: it was never started on a host.",
        now=NOTHING, code="not_ready",
        next="Wait until it is built; if that failed, delete it and create another one.",
    )
