"""Values that look one way in a table and another way to a machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from cliff.columns import FormattableColumn

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Size(FormattableColumn[Any]):
    """A number of bytes; with its unit for people, the plain number for machines."""

    unit = 1

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        return size_text(self._value * self.unit)


class MiB(Size):
    """A number of MiB, as flavors and hosts give memory."""

    unit = 1 << 20


class GiB(Size):
    """A number of GiB, as flavors and hosts give disk space."""

    unit = 1 << 30


class Time(FormattableColumn[Any]):
    """A point in time in UTC as ISO text; whole seconds for people."""

    def human_readable(self) -> str:
        if not self._value:
            return ""
        moment = datetime.fromisoformat(self._value).astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Digest(FormattableColumn[Any]):
    """A checksum: its beginning for people, all of it for machines."""

    def human_readable(self) -> str:
        text = self._value or ""
        return f"{text[:16]}…" if len(text) > 16 else text


class Plain(FormattableColumn[Any]):
    """Lists and mappings: ``a=1, b=2`` for people, the data for machines; None is empty."""

    def human_readable(self) -> str:
        return plain_text(self._value)


class Addresses(FormattableColumn[Any]):
    """Addresses by network: ``net=10.0.0.2, 10.0.0.3; other=…`` for people."""

    def human_readable(self) -> str:
        return "; ".join(f"{net}={', '.join(ips)}" for net, ips in sorted(self._value.items()))


class Fault(FormattableColumn[Any]):
    """Why a server is in ERROR: the message for people, all of it for machines."""

    def human_readable(self) -> str:
        return (self._value or {}).get("message") or ""


def size_text(count: float) -> str:
    """Bytes with a unit: 512 MiB, 1.5 GiB."""
    size, unit = float(count), UNITS[0]
    for unit in UNITS:
        if abs(size) < 1024 or unit == UNITS[-1]:
            break
        size /= 1024
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"


def plain_text(value: Any) -> str:
    """A value on one line, as a person would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_nested(value[key])}" for key in sorted(value))
    if isinstance(value, list | tuple):
        return ", ".join(_nested(one) for one in value)
    return str(value)


def _nested(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else plain_text(value)
