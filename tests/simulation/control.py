"""A tiny control plane in memory: tenants, a scheduler, and a conductor with a view per host."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from compute.model import states
from compute.rpc.primitives import data
from tests import fakes
from tests.simulation.moving import Moving

SCHEDULING_SECONDS = 120.0  # after which the control plane gives a lost build up
LEFT_OUT = ("flavor", "keypairs")  # not sent along with most verbs, as Nova's conductor does

# verb: (legal vm_states, the task_state it sets, further arguments)
VERBS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "start": ((states.STOPPED,), states.POWERING_ON, {}),
    "stop": ((states.ACTIVE,), states.POWERING_OFF, {"clean_shutdown": True}),
    "reboot": ((states.ACTIVE,), states.REBOOTING, {"reboot_type": "SOFT",
                                                    "block_device_info": None}),
    "hard-reboot": ((states.ACTIVE, states.STOPPED, states.ERROR), states.REBOOTING_HARD,
                    {"reboot_type": "HARD", "block_device_info": None}),
    "pause": ((states.ACTIVE,), states.PAUSING, {}),
    "unpause": ((states.PAUSED,), states.UNPAUSING, {}),
    "suspend": ((states.ACTIVE,), states.SUSPENDING, {}),
    "resume": ((states.SUSPENDED,), states.RESUMING, {}),
    "rescue": ((states.ACTIVE, states.STOPPED, states.ERROR), states.RESCUING,
               {"rescue_password": "word", "clean_shutdown": True}),
    "unrescue": ((states.RESCUED,), states.UNRESCUING, {}),
    "soft_delete": ((states.ACTIVE, states.STOPPED, states.PAUSED, states.SUSPENDED),
                    states.SOFT_DELETING, {}),
    "restore": ((states.SOFT_DELETED,), states.RESTORING, {}),
}
METHODS = {"spawn": "build_and_run_instance", "delete": "terminate_instance"}


class SimConductor(fakes.FakeConductor):
    """What one agent may ask; all of them see the same record.

    :param hook: called with each method's name and ``before`` or ``after``; may raise.
    :param recorded_off: called with each guest that the agent has just recorded as stopped.
    """

    def __init__(self, control: ControlPlane, host: str, hook: Callable[[str, str], None],
                 recorded_off: Callable[[str], None]):
        self.control, self.host, self.hook = control, host, hook
        self.recorded_off = recorded_off
        self.stamp = control.stamp
        self.calls = []

    def read(self) -> dict:
        return self.control.state

    def _change(self, method: str, change: Callable[[dict], object]) -> object:
        self.hook(method, "before")
        before = self.control.stopped() if method == "save" else set()
        result = change(self.control.state)
        if method == "save":
            for uuid in self.control.stopped() - before:
                self.recorded_off(uuid)
        self.hook(method, "after")
        return result

    def build_instances(self, context, **args):
        self._change("build_instances", lambda state: self.control.cast_build(context, args))

    def migrate_server(self, context, **args):
        uuid = data(args["instance"])["uuid"]
        self._change("migrate_server", lambda state: self.control.cast(
            "conductor", f"migrate {uuid[:8]}", {"guest": uuid, "args": copy.deepcopy(args)}))


class ControlPlane(Moving):
    """The record of all guests, and what tenants and the scheduler do to it.

    :param cast: sends a message: (target, description, message).
    """

    def __init__(self, hosts: list[str], rng, now: Callable[[], float],
                 cast: Callable[[str, str, dict], None]):
        super().__init__()
        self.hosts, self.rng, self.now, self.cast = hosts, rng, now, cast
        self.state: dict[str, Any] = {"instances": {}, "events": [], "faults": [],
                                      "rescheduled": [], "bdms": {}, "nodes": {},
                                      "migrations": {}}
        self.asked = 0
        self.asked_on: Counter[tuple[str, str]] = Counter()  # (guest, verb) that switches it on

    def stamp(self) -> str:
        """The time as a datetime field."""
        return datetime.fromtimestamp(self.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    # -- looking ------------------------------------------------------------------------------
    def fields(self, uuid: str) -> dict[str, Any]:
        """A guest's record; empty if there is none."""
        return data(self.state["instances"].get(uuid))

    def live(self) -> list[str]:
        """Guests that are not deleted."""
        return [u for u, p in self.state["instances"].items() if not data(p)["deleted"]]

    def stopped(self) -> set[str]:
        """Guests that are recorded as stopped."""
        return {u for u in self.live() if self.fields(u)["vm_state"] == states.STOPPED}

    # -- tenants ------------------------------------------------------------------------------
    def context(self) -> dict[str, Any]:
        self.asked += 1
        return {"request_id": f"req-{self.asked}", "roles": ["member"], "auth_token": "token"}

    def create(self) -> str:
        """Ask for a new guest."""
        number = len(self.state["instances"]) + 1
        uuid = f"{number:08d}-0000-4000-8000-000000000000"
        prim = fakes.instance(uuid=uuid, id=number, updated_at=self.stamp())
        self.state["instances"][uuid] = prim
        self.cast_build(self.context(), {
            **fakes.build_args(prim, filter_properties={"retry": {"hosts": []}}),
            "instances": [prim]})
        return uuid

    def legal(self, uuid: str) -> list[str]:
        """What the API would let a tenant do with a guest now, besides deleting it."""
        fields = self.fields(uuid)
        if fields["task_state"] is not None or fields["host"] is None:
            return []
        return [verb for verb, (allowed, _, _) in VERBS.items() if fields["vm_state"] in allowed]

    def ask(self, uuid: str, verb: str) -> None:
        """What the API does: set the task_state, then cast."""
        fields = self.fields(uuid)
        if verb == "delete":
            return self.delete(uuid)
        _, task, more = VERBS[verb]
        fields.update(task_state=task, updated_at=self.stamp())
        verb = verb.removeprefix("hard-")
        self.asked_on[uuid, verb] += 1
        return self._cast(verb, uuid, more)

    def delete(self, uuid: str) -> None:
        fields = self.fields(uuid)
        if fields["host"] is None:  # nothing of it is on any host, the API says
            fields.update(deleted=True, vm_state=states.DELETED, task_state=None)
            return
        if fields["vm_state"] == states.RESIZED:
            self.forget_former(uuid)
        fields.update(task_state=states.DELETING, updated_at=self.stamp())
        self._cast("delete", uuid, {"bdms": {}})

    def _cast(self, verb: str, uuid: str, more: dict[str, Any]) -> None:
        prim = copy.deepcopy(self.state["instances"][uuid])
        for name in LEFT_OUT:
            data(prim).pop(name, None)
        self.cast(data(prim)["host"], f"{verb} {uuid[:8]}", {
            "method": METHODS.get(verb, f"{verb}_instance"), "guest": uuid,
            "context": self.context(),
            "args": {"instance": prim, **more}})

    # -- the scheduler ------------------------------------------------------------------------
    def cast_build(self, context: Any, args: dict[str, Any]) -> None:
        """A cast to the conductor, of the API or of an agent that hands a build back."""
        uuid = data(args["instances"][0])["uuid"]
        self.cast("conductor", f"build {uuid[:8]}", {
            "context": dict(context), "args": args, "guest": uuid})

    def receive(self, message: dict[str, Any]) -> None:
        """The conductor takes a cast."""
        if "scheduler_hint" in message["args"]:
            self.reschedule(message)
        else:
            self.build(message)

    def build(self, message: dict[str, Any]) -> None:
        """One of build_instances."""
        args, uuid = message["args"], message["guest"]
        fields = self.fields(uuid)
        if fields["deleted"]:
            return
        tried = [host for host, _ in args["filter_properties"]["retry"]["hosts"]]
        if all(host in tried for host in self.hosts):
            if fields["host"] is None and fields["vm_state"] == states.BUILDING:
                fields.update(vm_state=states.ERROR, task_state=None, updated_at=self.stamp())
            return
        prim = copy.deepcopy(self.state["instances"][uuid])
        bdms, networks = args["block_device_mapping"], args["requested_networks"]
        again = fakes.build_args(prim, block_device_mapping=bdms, requested_networks=networks)
        self._schedule(message["context"], again, tried)

    def _schedule(self, context: dict[str, Any], args: dict[str, Any], tried: list[str]) -> None:
        host = self.rng.choice([h for h in self.hosts if h not in tried])
        uuid = data(args["instance"])["uuid"]
        self.asked_on[uuid, "spawn"] += 1
        hosts = [[h, h] for h in [*tried, host]]
        args["filter_properties"] = {"retry": {"num_attempts": len(hosts), "hosts": hosts}}
        self.cast(host, f"spawn {uuid[:8]}", {
            "method": METHODS["spawn"], "guest": uuid, "context": context, "args": args})

    def give_up_lost_builds(self) -> None:
        """A build whose message was lost before any host had it ends in error."""
        for uuid in self.live():
            fields = self.fields(uuid)
            since = datetime.fromisoformat(fields["updated_at"].replace("Z", "+00:00"))
            if (fields["host"] is None and fields["vm_state"] == states.BUILDING
                    and self.now() - since.timestamp() > SCHEDULING_SECONDS):
                fields.update(vm_state=states.ERROR, task_state=None, updated_at=self.stamp())

    def waits(self) -> list[str]:
        """Guests for which something is still going on."""
        tasks = [u for u in self.live() if self.fields(u)["task_state"] is not None]
        return tasks + [m.guest for m in self.opened() if self.moving(m.id)["status"] != "finished"
                        and not self.fields(m.guest)["deleted"]]

