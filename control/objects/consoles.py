"""ConsoleAuthToken: made for agents, read by proxies."""

from __future__ import annotations

import uuid
from typing import Any

from control import wire
from control.objects import Call, class_method, method
from control.wire import failure
from db.control import consoles

Primitive = dict[str, Any]
NAME = "ConsoleAuthToken"


def _fields(row: dict[str, Any], token: str) -> dict[str, Any]:
    wanted = ("id", "console_type", "host", "port", "internal_access_path", "instance_uuid",
              "access_url_base", "created_at", "updated_at")
    return {**{name: row[name] for name in wanted}, "token": token}


@method(f"{NAME}.authorize")
def authorize(call: Call, objinst: Primitive, ttl: int) -> tuple[dict[str, Any], str]:
    token = str(uuid.uuid4())
    row = consoles.authorize(call.connection, token, wire.changed(objinst), int(ttl))
    return wire.updates(objinst, _fields(row, token)), token


@class_method(f"{NAME}.validate")
def validate(call: Call, token: str) -> Primitive:
    row = consoles.find(call.connection, token)
    if row is None:
        raise failure("InvalidToken", "The provided token is invalid or has expired.")
    return wire.make(NAME, _fields(row, token))


@class_method(f"{NAME}.clean_console_auths_for_instance")
def clean(call: Call, instance_uuid: str) -> None:
    consoles.clean(call.connection, instance_uuid)
