"""Opening databases: SQLite for the journal, SQLite, PostgreSQL or MariaDB for the control plane.

Migrations are alembic's, one chain for each database under ``db/alembic/<name>/``. Since alembic
costs tens of megabytes and a quarter of a second to import, it is imported only when the database
is not at the newest revision.
"""

from __future__ import annotations

import logging
import os
import pathlib

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine

LOG = logging.getLogger(__name__)
MIGRATIONS = pathlib.Path(__file__).parent / "alembic"


def open_engine(url: str, *, durable: bool = False) -> Engine:
    """Open a database.

    :param url: SQLAlchemy URL.
    :param durable: for SQLite: synchronous=FULL, so that a committed row survives power loss.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, pool_size=5, max_overflow=10)
    if parsed.database and parsed.database != ":memory:":
        pathlib.Path(parsed.database).parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        engine = sa.create_engine(parsed, connect_args={"timeout": 30, "check_same_thread": False})
    else:
        engine = sa.create_engine(
            parsed, poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False}
        )
    synchronous = "FULL" if durable else "NORMAL"

    @event.listens_for(engine, "connect")
    def _connect(connection, _record):
        connection.isolation_level = None  # SQLAlchemy's BEGIN below, not sqlite3's own
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection):
        # A write transaction from the start: no upgrade of a read lock can deadlock. Whoever only
        # reads, one statement (execution option ``reads``), waits for no writer, and needs none.
        if not connection.get_execution_options().get("reads"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def newest(chain: str) -> str:
    """Newest revision of a chain: migration files are named ``NNNN_what.py``."""
    return max(p.name for p in (MIGRATIONS / chain).glob("[0-9]*.py")).split("_", 1)[0]


def current(engine: Engine, chain: str) -> str | None:
    """The revision a database is at, None if it is new."""
    with engine.execution_options(reads=True).connect() as connection:
        if not sa.inspect(connection).has_table(f"alembic_{chain}"):
            return None
        return connection.execute(
            sa.text(f"SELECT version_num FROM alembic_{chain}")  # noqa: S608 - our own name
        ).scalar()


def migrate(engine: Engine, chain: str) -> None:
    """Bring a database to the newest revision of ``chain`` (``journal`` or ``control``).

    Safe to call from several processes and after a crash: each revision is one transaction.
    """
    if current(engine, chain) == newest(chain):
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", os.fspath(MIGRATIONS))
    config.set_main_option("version_locations", os.fspath(MIGRATIONS / chain))
    with engine.begin() as connection:
        config.attributes.update(connection=connection, chain=chain)
        command.upgrade(config, "head")
    LOG.info("Database %s is now at revision %s.", chain, newest(chain))
