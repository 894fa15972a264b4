"""What two agents' rows in Nova's database have in common: ids, times and names are taken out.

`of_server` and `of_host` turn raw rows into a comparable form; `differences` says in words where
two such forms differ.
"""

import json
import re
import typing

Tables = dict[str, list[dict[str, typing.Any]]]
Names = typing.Mapping[str, str]  # what hosts and servers are called -> who they are

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DROPPED = {"id", "uuid", "instance_uuid", "action_id", "request_id", "reservation_id",
            "instance_type_id", "internal_id", "service_id", "of_request"}
# Which bus a disk hangs on is the hypervisor driver's choice, and the device's name follows.
_DRIVERS_CHOICE = {"disk_bus"}
# Ours tells of the host's cells; the driver of Nova's agent in these tests has none to tell of.
_HOSTS_CHOICE = {"numa_topology"}
# Nova's libvirt driver, too, writes down which machine a guest got; its fake driver has none. Only
# our agent counts the incarnations of a guest.
_AGENTS_KEYS = {"image_hw_machine_type", "magnetar_generation"}
# How much was copied; Nova's fake driver copies nothing.
_COPIED = {f"{kind}_{what}" for kind in ("memory", "disk")
           for what in ("total", "processed", "remaining")}
_DEVICE = re.compile(r"^/dev/[sv]da$")
# A flavor that was just made is stored with its (no) projects, a loaded one without.
_NOT_STORED_ALWAYS = {"id", "migration_id", "created_at", "updated_at", "nova_object.changes",
                      "projects"}
_PRESENCE = {"traceback", "details", "compute_id", "exc_tb", "dest_compute_id", "dest_host"}
# What a fault says is the agent's to word; that there is one, with which code, is not.
_WORDED = {("instance_faults", "message")}
# Nova's agent may send the extras along with a save that does not change them.
_REWRITTEN = {("instance_extra", "updated_at")}
_HISTORY = ("instance_actions", "instance_actions_events", "instance_faults")
# Of a host only the kind of most values can be compared: two machines differ.
_HOST_EXACT = {"host", "binary", "topic", "version", "disabled", "disabled_reason", "deleted",
               "forced_down", "running_vms", "current_workload", "vcpus_used", "mapped"}


def of_server(raw: Tables, names: Names) -> Tables:
    """Return the comparable form of the rows of one server."""
    tables = {table: [_row(table, row, names) for row in rows]
              for table, rows in raw.items()}
    for pairs in ("instance_system_metadata", "instance_metadata"):
        tables[pairs] = sorted((row for row in tables[pairs] if row["key"] not in _AGENTS_KEYS),
                               key=lambda row: row["key"])
    return tables


def of_host(raw: Tables, names: Names) -> Tables:
    """Return the comparable form of the rows of one compute host."""
    return {
        table: [{column: _plain(value, names) if column in _HOST_EXACT else _kind(column, value)
                 for column, value in row.items() if column not in _DROPPED | _HOSTS_CHOICE}
                for row in rows]
        for table, rows in raw.items()
    }


def since(before: Tables | None, after: Tables) -> Tables:
    """Return `after` with only those actions, events and faults that `before` had not."""
    if before is None:
        return after
    return {table: rows[len(before[table]):] if table in _HISTORY else rows
            for table, rows in after.items()}


def differences(wanted: Tables, found: Tables) -> list[str]:
    """Return one sentence for each column or row in which `found` is not as `wanted`."""
    problems = []
    for table, rows in wanted.items():
        others = found.get(table, [])
        if len(rows) != len(others):
            extra = [row for row in others if row not in rows]
            lacking = [row for row in rows if row not in others]
            problems.append(f"{table}: {len(rows)} rows wanted, {len(others)} found; "
                            f"too many: {extra}; missing: {lacking}")
            continue
        for number, (row, other) in enumerate(zip(rows, others, strict=True)):
            problems += [
                f"{table}[{number}].{column}: wanted {row.get(column)!r}, "
                f"found {other.get(column)!r}"
                for column in sorted(row.keys() | other.keys())
                if row.get(column) != other.get(column) and (table, column) not in _REWRITTEN
            ]
    return problems


def _row(table: str, row: dict[str, typing.Any], names: Names) -> dict[str, typing.Any]:
    changed = {}
    for column, value in row.items():
        if column in _DROPPED | _DRIVERS_CHOICE | _COPIED:
            continue
        if column in _PRESENCE or (table, column) in _WORDED:
            changed[column] = None if value is None else "present"
        elif column == "deleted":
            changed[column] = bool(value)
        else:
            changed[column] = _plain(value, names)
    return changed


def _plain(value: typing.Any, names: Names) -> typing.Any:
    if isinstance(value, dict) and set(value) == {"time"}:
        return "a time"
    if isinstance(value, str):
        if _DEVICE.match(value):
            return "the first disk"
        if value.startswith(("{", "[")):
            return _strip(json.loads(value))
        value = _UUID.sub("a uuid", value)
        for name in sorted(names, key=len, reverse=True):
            value = value.replace(name, names[name])
    return value


def _strip(value: typing.Any) -> typing.Any:
    """Take ids and times out of a stored object."""
    if isinstance(value, dict):
        return {key: _strip(item) for key, item in sorted(value.items())
                if key not in _NOT_STORED_ALWAYS}
    if isinstance(value, list):
        return [_strip(item) for item in value]
    return _UUID.sub("a uuid", value) if isinstance(value, str) else value


def _kind(column: str, value: typing.Any) -> typing.Any:
    """Return what kind of thing a column holds; of the statistics, those that count guests."""
    if value is None:
        return None
    if column == "stats":
        # Absent counts as zero for the scheduler. When Nova's agent tells of failed builds is a
        # matter of luck: with its next audit.
        return {"num_instances": int(json.loads(value).get("num_instances", 0))}
    if isinstance(value, str) and value.startswith(("{", "[")):
        return type(json.loads(value)).__name__
    return "a time" if isinstance(value, dict) else type(value).__name__
