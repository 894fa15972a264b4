"""Whether messages to the conductor are such as Nova's own agent sends.

A message is legal when the captures have one of the same object and method, called with the same
kinds of arguments; when it saves no field of an Instance that Nova's agent does not save in the
same scenario, or saves it as another type; and when each change of task_state is a
compare-and-swap.
"""

import functools
import typing

from tests.contract import wire

STATES = ("vm_state", "task_state", "power_state")
# Requests of ours that the captures happen not to have; each exists in the conductor's objects.
ALSO_KNOWN = {
    "Instance.destroy": ("args", "kwargs"),
    "InstanceFault.create": ("args", "kwargs"),
    "InstanceList.get_by_filters": ("filters",),
    "MigrationList.get_in_progress_by_host_and_node": ("host", "node"),
}
# Fields that any verb may save: what the hypervisor says, and what a verb always may clear.
ALWAYS = {"power_state", "task_state", "vm_state", "info_cache", "progress"}


@functools.cache
def _vocabulary() -> dict[str, list[wire.Message]]:
    known: dict[str, list[wire.Message]] = {}
    for name in wire.names():
        for message in wire.load(name).calls():
            known.setdefault(message.what, []).append(message)
    return known


@functools.cache
def _versions() -> dict[str, str]:
    return {
        m.args["objinst"]["nova_object.name"]: m.args["objinst"]["nova_object.version"]
        for messages in _vocabulary().values() for m in messages if "objinst" in m.args
    }


def problems(capture: wire.Capture, said: list[wire.Message]) -> list[str]:
    """Return one sentence for each way in which `said` is not what Nova's agent sends."""
    fields = _saved(capture)
    found = []
    for message in said:
        found += _form(message)
        if message.what == "Instance.save" and fields:
            found += _save(message, fields)
    return found


def final_states(capture: wire.Capture) -> dict[str, typing.Any]:
    """Return the states that the capture's last saves leave."""
    states: dict[str, typing.Any] = {}
    first = next(m for m in capture.to_compute() if "instance" in m.args)
    before = first.args["instance"]["nova_object.data"]
    for message in capture.calls(what="Instance.save"):
        states.update({key: message.changes[key] for key in STATES if key in message.changes})
    return {key: states.get(key, before.get(key)) for key in STATES}


def _form(message: wire.Message) -> list[str]:
    known = _vocabulary().get(message.what)
    if known is None:
        return [] if message.what in ALSO_KNOWN else [f"{message.what} is never asked by Nova"]
    found = []
    counts = {len(m.args["args"]) for m in known}
    if len(message.args["args"]) not in counts:
        found.append(f"{message.what} has {len(message.args['args'])} arguments, not {counts}")
    names = {name for m in known for name in m.args["kwargs"]}
    if message.what == "Instance.save":
        names |= {"expected_vm_state", "expected_task_state"}
    unknown = set(message.args["kwargs"]) - names
    if unknown:
        found.append(f"{message.what} is sent with {sorted(unknown)}")
    if "objinst" in message.args:
        primitive = message.args["objinst"]
        wanted = _versions().get(primitive["nova_object.name"])
        if primitive["nova_object.version"] != wanted:
            found.append(f"{message.what} sends version {primitive['nova_object.version']}, "
                         f"not {wanted}")
    return found


def _saved(capture: wire.Capture) -> dict[str, set[type]]:
    """Return the fields of an Instance that this scenario saves, with the types of their values."""
    fields: dict[str, set[type]] = {}
    for message in capture.calls(what="Instance.save"):
        for name, value in message.changes.items():
            fields.setdefault(name, set()).add(type(value))
    return fields


def _save(message: wire.Message, fields: dict[str, set[type]]) -> list[str]:
    found = []
    for name, value in message.changes.items():
        if name not in fields and name not in ALWAYS:
            found.append(f"Instance.save changes {name}, which Nova does not here")
        elif value is not None and name in fields and type(value) not in fields[name] \
                and fields[name] != {type(None)}:
            found.append(f"Instance.save sends {name} as {type(value).__name__}, "
                         f"not {sorted(kind.__name__ for kind in fields[name])}")
    before = message.args["objinst"]["nova_object.data"]
    if "task_state" in message.changes and message.expected_task_state is None \
            and before.get("vm_state") != "deleted":
        found.append(f"Instance.save sets task_state to {message.changes['task_state']!r} "
                     "without saying which it expects")
    return found
