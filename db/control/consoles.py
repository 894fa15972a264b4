"""console_auth_tokens: who may open which console, and until when."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch_one, insert
from db.control.tables import console_auth_tokens

Row = dict[str, Any]
C = console_auth_tokens.c


def _hash(token: str) -> str:
    """Tokens themselves are not kept."""
    return hashlib.sha256(token.encode()).hexdigest()


def authorize(connection: Connection, token: str, values: Mapping[str, Any], ttl: int) -> Row:
    """Write down that a token opens a console for ``ttl`` seconds; expired ones go."""
    now = int(time.time())
    connection.execute(console_auth_tokens.delete().where(C.expires <= now))
    return insert(connection, console_auth_tokens,
                  {**values, "token_hash": _hash(token), "expires": now + ttl})


def find(connection: Connection, token: str) -> Row | None:
    """The console that a token opens now, None if it opens none."""
    return fetch_one(connection, sa.select(console_auth_tokens).where(
        C.token_hash == _hash(token), C.expires > int(time.time())))


def clean(connection: Connection, instance_uuid: str) -> None:
    """Let nobody in any more with the tokens of an instance."""
    connection.execute(console_auth_tokens.delete().where(C.instance_uuid == instance_uuid))
