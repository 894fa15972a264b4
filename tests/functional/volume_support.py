"""A stand-in for an agent that attaches volumes, as far as the control plane can see."""

from __future__ import annotations

import json
from typing import Any

from compute.errors import MagnetarError
from compute.rpc import primitives
from compute.rpc.primitives import data
from compute.services.volumes import EmbeddedVolumes
from tests.functional.control_support import Agent, ControlTest, spawn, terminate
from tests.waiting import wait_until

CONNECTOR = {"host": "host1", "initiator": "iqn.2026-01.example:host1"}


class _Conductor:
    """What the port asks, through the agent's own client."""

    def __init__(self, agent: Agent):
        self.agent = agent

    def magnetar(self, context: Any, method: str, **args: Any) -> Any:
        return self.agent.own(method, **args)


def port(agent: Agent) -> EmbeddedVolumes:
    """The agent's port to the volume service."""
    return EmbeddedVolumes(_Conductor(agent))


def reserve(agent: Agent, context: Any, args: dict[str, Any]) -> dict[str, Any]:
    """reserve_block_device_name: a row without an attachment."""
    made = primitives.make("BlockDeviceMapping", {
        "source_type": "volume", "destination_type": "volume", "device_type": "disk",
        "device_name": args["device"] or "/dev/vdb", "disk_bus": "virtio", "tag": args["tag"],
        "volume_id": args["volume_id"], "instance_uuid": data(args["instance"])["uuid"],
        "boot_index": None, "no_device": False})
    updates, _ = agent.action(made, "create", context)
    return primitives.clean(made, updates)


def _event(agent: Agent, context: Any, args: dict[str, Any], name: str,
           error: str | None = None) -> None:
    uuid = data(args["instance"])["uuid"]
    event = f"compute_{name}"
    agent.ask("InstanceActionEvent.event_start", uuid, event, context=context, want_result=False,
              host=agent.host)
    agent.ask("InstanceActionEvent.event_finish_with_failure", uuid, event, context=context,
              exc_val=error, exc_tb=None, want_result=False)


def attach(agent: Agent, context: Any, args: dict[str, Any]) -> None:
    """attach_volume: update, connect, complete; the row knows how."""
    found, volumes = data(args["bdm"]), port(agent)
    info = volumes.attachment_update({}, found["attachment_id"],
                                     {**CONNECTOR, "host": agent.host}, found["device_name"])
    agent.save(args["bdm"], context, connection_info=json.dumps(info))
    volumes.attachment_complete({}, found["attachment_id"])
    _event(agent, context, args, "attach_volume")


def detach(agent: Agent, context: Any, args: dict[str, Any]) -> None:
    """detach_volume."""
    bdm = agent.ask("BlockDeviceMapping.get_by_volume_and_instance", args["volume_id"],
                    data(args["instance"])["uuid"])
    port(agent).attachment_delete({}, args["attachment_id"])
    agent.action(bdm, "destroy", context)
    _event(agent, context, args, "detach_volume")


def refuse_to_let_go(agent: Agent, context: Any, args: dict[str, Any]) -> None:
    """detach_volume, when the guest's system does not let go."""
    port(agent).roll_detaching({}, args["volume_id"])
    _event(agent, context, args, "detach_volume", "The guest did not let go.")


def swap(agent: Agent, context: Any, args: dict[str, Any]) -> None:
    """swap_volume, done."""
    volumes, uuid = port(agent), data(args["instance"])["uuid"]
    bdm = agent.ask("BlockDeviceMapping.get_by_volume_and_instance", args["old_volume_id"], uuid)
    info = volumes.attachment_update({}, args["new_attachment_id"], CONNECTOR, "/dev/vdb")
    saved = volumes.migrate_completion({}, args["old_volume_id"], args["new_volume_id"], False)
    volumes.attachment_complete({}, args["new_attachment_id"])
    volumes.attachment_delete({}, data(bdm)["attachment_id"])
    agent.save(bdm, context, volume_id=saved["save_volume_id"], connection_info=json.dumps(info),
               attachment_id=args["new_attachment_id"])
    _event(agent, context, args, "swap_volume")


def build(agent: Agent, context: Any, args: dict[str, Any]) -> None:
    """build_and_run_instance with its volumes."""
    for bdm in primitives.objects(args["block_device_mapping"]):
        if data(bdm)["destination_type"] == "volume":
            _connect(agent, context, bdm)
    spawn(agent, context, args)


def _connect(agent: Agent, context: Any, bdm: dict[str, Any]) -> None:
    found, volumes = data(bdm), port(agent)
    if not found["volume_id"]:
        made = volumes.create({}, found["volume_size"], f"volume-{found['uuid']}",
                              image_id=found["image_id"])
        wait_until(lambda: volumes.show({}, made)["status"] == "available")
        attachment = volumes.attachment_create({}, made, found["instance_uuid"])
        bdm = agent.save(bdm, context, volume_id=made, attachment_id=attachment)
    device = "/dev/vd" + "abcdef"[found["boot_index"] or 1]
    info = volumes.attachment_update({}, data(bdm)["attachment_id"], CONNECTOR, device)
    agent.save(bdm, context, connection_info=json.dumps(info), device_name=device)
    volumes.attachment_complete({}, data(bdm)["attachment_id"])


class VolumesTest(ControlTest):
    """A control plane with volumes, and a host that attaches them."""

    def setUp(self) -> None:
        super().setUp()
        self.prepare()

    def host(self, name: str = "host1") -> Agent:
        agent = self.agent(name)
        agent.script.update({
            "build_and_run_instance": build, "terminate_instance": terminate,
            "reserve_block_device_name": reserve, "attach_volume": attach,
            "detach_volume": detach, "swap_volume": swap})
        return agent

    def refused(self, code: str, function: Any, *args: Any, **kwargs: Any) -> MagnetarError:
        error = self.assertRaises(MagnetarError, function, *args, **kwargs)
        self.assertEqual(code, error.code, error)
        return error

    def volume(self, name: str = "data", size: int = 1, **more: Any) -> dict[str, Any]:
        return self.control.volume_create(name, size, **more)

    def status(self, volume: str = "data") -> str:
        return self.control.volume_show(volume)["status"]

    def until(self, status: str, volume: str = "data") -> dict[str, Any]:
        """Wait for a volume's status; the volume."""
        wait_until(lambda: self.status(volume) == status, lambda: self.control.volume_list())
        return self.control.volume_show(volume)
