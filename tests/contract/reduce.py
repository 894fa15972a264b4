"""Reduce captured messages to the fixtures in fixtures/wire: reduce.py CAPTURE_DIRECTORY.

A capture is a JSON list of messages in order of time. Kept are what came to a compute host and
what it asked the conductor, each call with its reply; contexts lose their catalog and token, calls
lose the version manifest of everything but the object asked for, saves keep only changed fields.
"""

import json
import pathlib
import sys
import typing

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures" / "wire"
SCENARIOS = ("service_first_registration", "build_no_network", "build_and_run_instance", "start",
             "stop", "reboot_soft", "reboot_hard", "terminate_no_network", "terminate_instance",
             "get_console_output", "pause", "unpause", "suspend", "resume", "resize",
             "confirm_resize", "revert_resize", "snapshot", "rescue", "unrescue", "rebuild",
             "shelve", "unshelve", "attach_interface", "detach_interface")
# Heartbeats and audits that went on meanwhile; a registration is made of them.
PERIODIC = {"Service.save", "InstanceList.get_by_host", "ComputeNodeList.get_all_by_host",
            "InstanceList.get_by_host_and_node", "MigrationList.get_in_progress_and_error",
            "InstanceList.get_by_filters", "MigrationList.get_by_filters"}
IDENTITY = ("id", "uuid", "instance_uuid", "host", "binary")
Message = dict[str, typing.Any]


def what(message: Message) -> str:
    """Return "Object.method" of a conductor call, else the RPC method."""
    args = message["body"].get("args", {})
    if message["method"] == "object_action":
        return f"{args['objinst']['nova_object.name']}.{args['objmethod']}"
    if message["method"] == "object_class_action_versions":
        return f"{args['objname']}.{args['objmethod']}"
    return str(message["method"])


def reduce(messages: list[Message], registration: bool) -> list[Message]:
    """Return the messages of one scenario in the form that tests.contract.wire reads."""
    replies = {message["body"]["_msg_id"]: message["body"]
               for message in messages if message["kind"] == "reply"}
    # Two hosts are in the capture of a registration; the new one is the one that pings.
    asker = next((m["reply_q"] for m in messages if m["method"] == "ping"), None)
    kept = []
    for message in messages:
        to = message["routing_key"] or ""
        if message["kind"] == "reply" or not to.startswith(("compute", "conductor")):
            continue
        if what(message) in PERIODIC and not registration:
            continue
        if message["kind"] == "cast" and to == "conductor":
            continue
        if registration and message["reply_q"] != asker:
            continue
        kept.append(_reduced(message, replies))
    return kept


def _reduced(message: Message, replies: dict[str, Message]) -> Message:
    body = message["body"]
    result: Message = {
        "kind": message["kind"], "to": message["routing_key"], "method": message["method"],
        "version": message["version"], "namespace": message["namespace"], "what": what(message),
        "args": _args(message["method"], body["args"]),
    }
    if message["kind"] == "cast" or message["routing_key"].startswith("compute"):
        result["context"] = _context(body)
    reply = replies.get(message["msg_id"])
    if reply is not None:
        result["result"] = reply["result"]
        if reply["failure"]:
            failure = json.loads(reply["failure"])
            result["failure"] = {key: failure[key] for key in ("class", "module", "message")}
    return result


def _args(method: str, args: Message) -> Message:
    args = dict(args)
    if method == "object_action":
        args["objinst"] = _changed_only(args["objinst"])
    elif method == "object_class_action_versions":
        name = args["objname"]
        args["object_versions"] = {name: args["object_versions"][name]}
    return args


def _changed_only(primitive: Message) -> Message:
    keep = {*primitive.get("nova_object.changes", ()), *IDENTITY}
    values = {key: value for key, value in primitive["nova_object.data"].items() if key in keep}
    return {**primitive, "nova_object.data": values}


def _context(body: Message) -> Message:
    context = {key.removeprefix("_context_"): value
               for key, value in body.items() if key.startswith("_context_")}
    context["auth_token"] = "removed"
    context["service_catalog"] = []
    return context


def main() -> None:
    """Write one fixture for each scenario that the capture has."""
    source = pathlib.Path(sys.argv[1])
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name in SCENARIOS:
        capture = source / f"{name}.json"
        if not capture.exists():
            print(f"{name}: not captured")
            continue
        messages = reduce(json.loads(capture.read_text()),
                          name == "service_first_registration")
        text = json.dumps(messages, sort_keys=True, separators=(",", ":"))
        (FIXTURES / f"{name}.json").write_text(text.replace('},{"args"', '},\n{"args"') + "\n")
        print(f"{name}: {len(messages)} messages, {len(text)} bytes")


if __name__ == "__main__":
    main()
