"""What all parts of the tenants' API share: names or ids, and checks of what is given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Refused
from compute.rpc.serializer import Context, admin_context

Row = dict[str, Any]
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
NOTHING = "Nothing was done."
PROJECT = "admin"  # the embedded control plane has one project and one user


def context_for(request_id: str | None = None) -> Context:
    """A context for a tenant's request; a new request id unless one is given.

    :raises Refused: the request id is malformed.
    """
    if request_id is not None and not REQUEST_ID.fullmatch(request_id):
        raise Refused(
            f"The request id {request_id!r} is malformed.", now=NOTHING, code="bad_request",
            next="Use up to 64 letters, digits and the characters _ . : -",
        )
    return admin_context(request_id, user_id=PROJECT, project_id=PROJECT, user_name=PROJECT,
                         project_name=PROJECT)


def one(kind: str, key: str, rows: Iterable[Row], ids: Iterable[str] = ("uuid",)) -> Row:
    """The one row that a name or id means.

    :param ids: columns that are ids; a hit there wins over a hit by name.
    :raises Refused: codes ``<kind>_not_found`` and ``ambiguous``.
    """
    rows = list(rows)
    by_id = [row for row in rows if any(row[column] == key for column in ids)]
    rows = by_id or rows
    if not rows:
        raise not_found(kind, key)
    if len(rows) > 1:
        found = ", ".join(sorted(str(row[next(iter(ids))]) for row in rows))
        raise Refused(
            f"{len(rows)} {kind}s are called {key}: {found}.", now=NOTHING, code="ambiguous",
            next="Name the one you mean by its id.",
        )
    return rows[0]


def not_found(kind: str, key: str) -> Refused:
    """The refusal for a thing that is not there."""
    return Refused(f"There is no {kind} {key}.", now=NOTHING,
                   next=f"See 'magnetar {kind.replace('_', ' ')} list'.",
                   code=f"{kind.replace(' ', '_')}_not_found")


def checked_name(kind: str, name: Any) -> str:
    """A name that people can use: some text of at most 255 characters on one line.

    :raises Refused: code ``bad_name``.
    """
    text = name.strip() if isinstance(name, str) else ""
    if not text or len(text) > 255 or not text.isprintable():
        raise Refused(
            f"{name!r} cannot be the name of a {kind}.", now=NOTHING, code="bad_name",
            next="Use 1 to 255 printable characters.",
        )
    return text


def checked_number(what: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """A whole number within limits. Raises Refused(code='bad_value')."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(
            f"{what} cannot be {value!r}.", now=NOTHING, code="bad_value",
            next=f"Use a whole number from {least} to {most}.",
        )
    return value


def checked_properties(what: str, values: Mapping[str, Any] | None) -> dict[str, str]:
    """Properties as text, names and values of at most 255 characters.

    :raises Refused: code ``bad_value``.
    """
    found = {str(name): str(value) for name, value in (values or {}).items()}
    for name, value in found.items():
        if not name or len(name) > 255 or len(value) > 255:
            raise Refused(
                f"The {what} {name[:60]!r} is empty or too long.", now=NOTHING, code="bad_value",
                next="Use 1 to 255 characters for the name and at most 255 for the value.",
            )
    return found


def taken(kind: str, name: str) -> Refused:
    """The refusal of a second thing of one name."""
    return Refused(f"There is a {kind} called {name} already.", now=NOTHING,
                   next="Choose another name, or use the one that is there.",
                   code=f"{kind.replace(' ', '_')}_exists")
