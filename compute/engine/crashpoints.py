"""Named points in production code at which a test may end the process.

In production :func:`here` is one comparison with None. The kill matrix enumerates the names by
itself, from ``Operation.crash_points`` of each operation in the registry.
"""

from __future__ import annotations

from collections.abc import Callable

# Around the journal and the effect of a step, going forward.
FORWARD = ("before_intent", "after_intent", "after_effect", "after_record")
# A step that never completes gets as far as this.
BEGUN = FORWARD[:2]
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
