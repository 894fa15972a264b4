"""How each of Nova's objects answers the conductor's methods, one module for a family of them.

``CLASS_METHODS['Service.get_minimum_version']`` takes (call, *args, **kwargs) and gives the
result; ``METHODS['Service.save']`` takes (call, objinst, *args, **kwargs) and gives
(updates, result).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from compute.rpc.serializer import Context


@dataclass(frozen=True)
class Call:
    """What a method works with: an open transaction, and who asks."""

    connection: Connection
    context: Context

    @property
    def sees_deleted(self) -> bool:
        """Whether the caller wants deleted rows too."""
        return self.context.extra.get("read_deleted") in ("yes", "only")


CLASS_METHODS: dict[str, Callable[..., Any]] = {}
METHODS: dict[str, Callable[..., tuple[dict[str, Any], Any]]] = {}


def class_method(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a method of the class, as ``Name.method``."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        CLASS_METHODS.update(dict.fromkeys(names, function))
        return function

    return register


def method(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a method of an object, as ``Name.method``."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        METHODS.update(dict.fromkeys(names, function))
        return function

    return register
