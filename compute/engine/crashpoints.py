"""Named points in production code at which a test may end the process.

In production :func:`here` is one comparison with None. The kill matrix enumerates the names by
itself: for each operation in the registry, each of its steps, each of :data:`POINTS` that applies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

# Around the journal and the effect of a step, going forward.
FORWARD = ("before_intent", "after_intent", "after_effect", "after_record")
# The same, going back.
BACKWARD = ("before_undo", "after_undo_effect", "after_undo_record")
# Around the whole operation.
BORDERS = ("accepted", "before_end", "after_end")

_hook: Callable[[str], None] | None = None


def arm(hook: Callable[[str], None] | None) -> None:
    """Call ``hook(name)`` at each point that is reached; None disarms. For tests."""
    global _hook
    _hook = hook


def here(verb: str, step: str, point: str) -> None:
    """Mark a crash point; does nothing outside tests."""
    if _hook is not None:
        _hook(f"{verb}.{step}.{point}")


def names(verb: str, steps: list[str], undoable: list[str], conclusion: list[str]) -> Iterator[str]:
    """All crash points of one operation.

    :param steps: its steps, in order.
    :param undoable: those before the point of no return.
    :param conclusion: the steps that publish a failure.
    """
    for border in BORDERS:
        yield f"{verb}.operation.{border}"
    for step in steps:
        for point in FORWARD:
            yield f"{verb}.{step}.{point}"
    for step in undoable:
        for point in BACKWARD:
            yield f"{verb}.{step}.{point}"
    for step in conclusion:
        for point in FORWARD:
            yield f"{verb}.conclude-{step}.{point}"
