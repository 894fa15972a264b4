"""One transaction after another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from sqlalchemy.engine import Connection, Engine


class Store:
    """The control plane's database.

    SQLite has one writer, and waits for it inside C code, as other databases' clients do for
    locked rows. Under green threads that would stop the very thread that holds the transaction,
    so they queue here, in Python, instead.

    :param green: whether threads are green ones.
    """

    def __init__(self, engine: Engine, green: bool = True):
        self.engine = engine
        serial = green or engine.dialect.name == "sqlite"
        self._turn: contextlib.AbstractContextManager = (
            threading.Lock() if serial else contextlib.nullcontext()
        )

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on any error."""
        with self._turn, self.engine.begin() as connection:
            yield connection
