"""Column types."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

WIRE_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class WireTime(sa.types.TypeDecorator):
    """A UTC time with whole seconds: DATETIME in the database, text as on the wire in Python."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return parse_time(value) if isinstance(value, str) else value

    def process_result_value(self, value, dialect):
        return None if value is None else value.strftime(WIRE_FORMAT)


def parse_time(text: str) -> datetime:
    """A time as on the wire, as a naive UTC datetime."""
    value = datetime.fromisoformat(text)
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return value.replace(microsecond=0)


def utcnow() -> datetime:
    """The present time as the columns hold it."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)
