"""Raw rows of Nova's cell database. Runs in Nova's virtual environment."""

import datetime

import sqlalchemy
from nova import context as nova_context
from nova.db.main import api as db_api

_BY_SERVER = {
    "instances": "uuid",
    "instance_extra": "instance_uuid",
    "instance_system_metadata": "instance_uuid",
    "instance_metadata": "instance_uuid",
    "instance_info_caches": "instance_uuid",
    "instance_actions": "instance_uuid",
    "instance_faults": "instance_uuid",
    "block_device_mapping": "instance_uuid",
    "virtual_interfaces": "instance_uuid",
    "migrations": "instance_uuid",
}
# A migration in one of these statuses is neither at its end nor waiting for a person.
_MOVING = ("accepted", "queued", "preparing", "running", "running (post-copy)", "pre-migrating",
           "migrating", "post-migrating", "confirming", "reverting")


def _select(sql, **values):
    context = nova_context.get_admin_context()
    with db_api.get_engine(context=context).connect() as connection:
        found = connection.execute(sqlalchemy.text(sql), values)
        return [{key: _plain(value) for key, value in row._mapping.items()} for row in found]


def _plain(value):
    if isinstance(value, datetime.datetime):
        return {"time": value.isoformat()}
    if isinstance(value, bytes):
        return value.decode()
    return value if value is None or isinstance(value, int | float | str) else str(value)


def of_server(uuid):
    """Return {table: [row]} of one server, the oldest row first."""
    tables = {
        table: _select(f"SELECT * FROM {table} WHERE {column} = :uuid ORDER BY id", uuid=uuid)
        for table, column in _BY_SERVER.items()
    }
    tables["instance_actions_events"] = _select(
        "SELECT e.*, a.action AS of_action FROM instance_actions_events e "
        "JOIN instance_actions a ON a.id = e.action_id WHERE a.instance_uuid = :uuid "
        "ORDER BY e.id", uuid=uuid)
    return tables


def of_host(host):
    """Return {table: [row]} of one compute host."""
    return {table: _select(f"SELECT * FROM {table} WHERE host = :host ORDER BY id", host=host)
            for table in ("services", "compute_nodes")}


def reports(host):
    """Return how many heartbeats of nova-compute on this host were recorded."""
    found = _select("SELECT report_count FROM services WHERE host = :host AND deleted = 0",
                    host=host)
    return found[0]["report_count"] if found else 0


def counted(host):
    """Return whether the host's node counts as many guests as the host has."""
    found = _select(
        "SELECT running_vms, (SELECT count(*) FROM instances WHERE host = :host AND deleted = 0) "
        "AS guests FROM compute_nodes WHERE host = :host AND deleted = 0", host=host)
    return bool(found) and found[0]["running_vms"] == found[0]["guests"]


def progress(uuid):
    """Return (what is still going on or None, the states of the server)."""
    found = _select("SELECT vm_state, task_state, power_state, deleted, host FROM instances "
                    "WHERE uuid = :uuid", uuid=uuid)
    if not found:
        return "absent", {}
    states = found[0]
    open_events = _select(
        "SELECT e.event FROM instance_actions_events e JOIN instance_actions a "
        "ON a.id = e.action_id WHERE a.instance_uuid = :uuid AND e.finish_time IS NULL",
        uuid=uuid)
    silent = _select(
        "SELECT a.action FROM instance_actions a LEFT JOIN instance_actions_events e "
        "ON a.id = e.action_id WHERE a.instance_uuid = :uuid AND e.id IS NULL", uuid=uuid)
    if states["task_state"] is not None and not states["deleted"]:
        return f"task_state {states['task_state']}", states
    if open_events:
        return f"event {open_events[0]['event']}", states
    moving = [row["status"] for row in _select(
        "SELECT status FROM migrations WHERE instance_uuid = :uuid", uuid=uuid)
        if row["status"] in _MOVING]
    if moving:
        return f"migration {moving[0]}", states
    # A server without a host is deleted by the API itself, which records no event.
    if silent and not (states["deleted"] and states["host"] is None):
        return f"action {silent[0]['action']} without an event", states
    return None, states
