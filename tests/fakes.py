"""A control plane on a file, and a world of fakes that outlives the process.

FakeConductor keeps instances, action events and faults in one JSON file that is replaced as a
whole, with the compare-and-swap of Nova's conductor. It implements compute.engine.world.Conductor
without messaging, so that a crash test can fork hundreds of agents from one warmed process.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import pathlib
import threading
import types
import uuid as uuids
from collections.abc import Callable

from compute.conf import agent as agent_options
from compute.conf import disk as disk_options
from compute.conf import resources as resource_options
from compute.conf import timeouts as timeout_options
from compute.engine.clock import SystemClock
from compute.engine.secrets import Secrets
from compute.engine.world import World
from compute.errors import Refused
from compute.model import states
from compute.model.guest import Address, Image, Nic
from compute.resources.tracker import Tracker
from compute.rpc.primitives import clean, data, make, make_list, now
from db.engine import migrate, open_engine
from db.journal import Journal
from virt.fake import FakeDriver, hooked

HOST = "host1"
IMAGE_ID = "11111111-2222-3333-4444-555555555555"
NETWORK_ID = "99999999-2222-3333-4444-555555555555"


class FakeConductor:
    """The control plane's record in ``path``.

    :param fail: called with each method's name before it does anything; may raise.
    :param after: the same after it had its effect: what it raises is an answer that got lost.
    """

    def __init__(self, path, host: str = HOST, fail: Callable[[str], None] | None = None,
                 after: Callable[[str], None] | None = None):
        self.path, self.host = pathlib.Path(path), host
        self.fail = fail or (lambda method: None)
        self.after = after or (lambda method: None)
        self.stamp = now  # gives updated_at
        self.calls: list[str] = []
        if not self.path.exists():
            self._write({"instances": {}, "events": [], "faults": [], "rescheduled": [],
                         "bdms": {}, "nodes": {}})

    # -- the file -----------------------------------------------------------------------------
    def read(self) -> dict:
        return json.loads(self.path.read_bytes())

    def _write(self, state: dict) -> None:
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}")
        part.write_text(json.dumps(state))
        part.rename(self.path)

    def _change(self, method: str, change: Callable[[dict], object]) -> object:
        self.calls.append(method)
        self.fail(method)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            result = change(state)
            self._write(state)
        self.after(method)
        return result

    # -- what tests do ------------------------------------------------------------------------
    def add(self, prim: dict) -> None:
        self._change("add", lambda s: s["instances"].update({data(prim)["uuid"]: prim}))

    def fields(self, uuid: str) -> dict:
        return self.read()["instances"][uuid]["nova_object.data"]

    def set(self, uuid: str, **values) -> dict:
        """As the API would; returns the new primitive."""
        def change(state):
            state["instances"][uuid]["nova_object.data"].update(values, updated_at=self.stamp())
            return copy.deepcopy(state["instances"][uuid])
        return self._change("set", change)

    # -- what agents ask ----------------------------------------------------------------------
    def save(self, context, prim, changes, *, expected_task_state=None, expected_vm_state=None):
        if prim["nova_object.name"] != "Instance":
            return clean(prim, changes)
        uuid = data(prim)["uuid"]

        def change(state):
            stored = state["instances"].get(uuid)
            if stored is None or stored["nova_object.data"].get("deleted"):
                raise Refused(f"Instance {uuid} could not be found.", code="guest_not_found")
            fields = stored["nova_object.data"]
            for key, expected in (("task_state", expected_task_state),
                                  ("vm_state", expected_vm_state)):
                if expected is not None and fields[key] not in expected:
                    deleting = fields["task_state"] == states.DELETING
                    raise Refused(f"{key} is {fields[key]}, expected {expected}.",
                                  code="deleting" if deleting else "stale")
            fields.update(json.loads(json.dumps(changes)), updated_at=self.stamp())
            return copy.deepcopy(stored)

        return clean(self._change("save", change))

    def instance(self, context, uuid):
        def look(state):
            if uuid not in state["instances"]:
                raise Refused(f"Instance {uuid} could not be found.", code="guest_not_found")
            found = state["instances"][uuid]
            if found["nova_object.data"].get("deleted"):
                raise Refused(f"Instance {uuid} could not be found.", code="guest_not_found")
            return copy.deepcopy(found)
        return self._change("instance", look)

    def instances(self, context):
        return self._change("instances", lambda s: [
            copy.deepcopy(p) for p in s["instances"].values()
            if data(p).get("host") == self.host and not data(p).get("deleted")])

    def deleted_among(self, context, uuids):
        return self._change("deleted_among", lambda s: {
            u for u in uuids if data(s["instances"].get(u)).get("deleted")})

    def destroy_instance(self, context, prim):
        self._change("destroy_instance", lambda s: s["instances"][data(prim)["uuid"]][
            "nova_object.data"].update(deleted=True))

    def save_bdm(self, context, prim, changes):
        self._change("save_bdm", lambda s: s["bdms"].update({data(prim)["uuid"]: dict(changes)}))

    def event_start(self, context, uuid, event):
        self._change("event_start", lambda s: s["events"].append([uuid, event, "start"]))

    def event_finish(self, context, uuid, event, error):
        result = "Error" if error else "Success"
        self._change("event_finish", lambda s: s["events"].append([uuid, event, result]))

    def fault(self, context, uuid, error):
        self._change("fault", lambda s: s["faults"].append([uuid, error["what"]]))

    def build_instances(self, context, **args):
        uuid = data(args["instances"][0])["uuid"]
        self._change("build_instances", lambda s: s["rescheduled"].append(uuid))

    def object_action(self, context, prim, method, *args, **kwargs):
        return {"id": 1}, None

    def class_action(self, context, objname, method, *args, **kwargs):
        return None

    def ping(self, timeout):
        self.fail("ping")


class FakeImages:
    """One image."""

    def show(self, image_id):
        if image_id != IMAGE_ID:
            raise Refused(f"There is no image {image_id}.", code="image_not_found")
        return image()

    def download(self, image_id, path, progress, cancel):
        cancel()
        pathlib.Path(path).write_bytes(b"\0" * 4096)
        progress(4096, 4096)


class FakeNetworks:
    """Ports in a directory, one file for each guest.

    :param hook: called with each method's name and ``before`` or ``after``; may raise.
    """

    def __init__(self, root, hook: Callable[[str, str], None] | None = None):
        self.root = pathlib.Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.hook = hook or (lambda method, when: None)
        self.calls: dict[str, int] = {}

    @hooked
    def allocate(self, context, guest, requests):
        if not [r for r in requests if r.network_id != "none"]:
            return ()
        path = self.root / guest
        if not path.exists():
            path.write_text(str(uuids.uuid4()))
        return (Nic(id=path.read_text(), mac="52:54:00:00:00:01", network_id=NETWORK_ID,
                    label="net", kind="bridge", source="br0",
                    addresses=(Address("10.0.0.2", "10.0.0.0/24"),)),)

    @hooked
    def deallocate(self, context, guest):
        (self.root / guest).unlink(missing_ok=True)


def image() -> Image:
    return Image(id=IMAGE_ID, name="tiny", disk_format="raw", size=4096)


def flavor(**sizes) -> dict:
    fields = {"id": 1, "name": "small", "flavorid": "1", "vcpus": 1, "memory_mb": 64,
              "root_gb": 1, "ephemeral_gb": 0, "swap": 0, "extra_specs": {}}
    return make("Flavor", {**fields, **sizes}, changes=())


def instance(uuid: str | None = None, **fields) -> dict:
    """An Instance as Nova's conductor sends it with build_and_run_instance."""
    uuid = uuid or str(uuids.uuid4())
    values = {
        "id": 42, "uuid": uuid, "display_name": "web", "hostname": "web", "user_id": "u",
        "project_id": "p", "image_ref": IMAGE_ID, "vm_state": states.BUILDING,
        "task_state": states.SCHEDULING, "power_state": 0, "host": None, "node": None,
        "compute_id": None, "flavor": flavor(), "metadata": {}, "system_metadata": {},
        "config_drive": "True", "user_data": None, "launch_index": 0, "availability_zone": "nova",
        "info_cache": make("InstanceInfoCache", {"instance_uuid": uuid, "network_info": "[]"},
                           changes=()),
        "keypairs": make_list("KeyPairList", []), "deleted": False, "updated_at": None,
    }
    return make("Instance", {**values, **fields}, changes=())


def build_args(prim: dict, *, network: bool = True, **more) -> dict:
    """Arguments of build_and_run_instance."""
    request = make("NetworkRequest", {"network_id": NETWORK_ID if network else "none",
                                      "port_id": None})
    bdm = make("BlockDeviceMapping", {
        "uuid": str(uuids.uuid4()), "boot_index": 0, "destination_type": "local",
        "source_type": "image", "device_name": None}, changes=())
    return {
        "instance": prim, "image": {"id": IMAGE_ID, "disk_format": "raw", "size": 4096,
                                    "properties": {}},
        "request_spec": {}, "filter_properties": {}, "admin_password": "secret-word",
        "injected_files": [], "requested_networks": make_list("NetworkRequestList", [request]),
        "security_groups": [], "block_device_mapping": make_list("BlockDeviceMappingList", [bdm]),
        "node": HOST, "limits": {}, "host_list": [], "accel_uuids": [], **more,
    }


def conf(root, **overrides):
    """Options as plain attributes, with their defaults."""
    def group(module):
        return {o.dest: o.default for o in module.OPTS}

    values = {**group(agent_options), **group(resource_options)}
    values.update({"state_path": str(root), "host": HOST, "compute_driver": "fake",
                   "instance_name_template": "instance-%08x"})
    made = types.SimpleNamespace(**values)
    made.timeouts = types.SimpleNamespace(**group(timeout_options))
    made.disk = types.SimpleNamespace(**group(disk_options))
    made.disk.instances_path = os.path.join(root, "instances")
    for name, value in overrides.items():
        setattr(made, name, value)
    return made


def world(root, *, hook=None, fail=None, after=None, network_hook=None, clock=None,
          **driver_options) -> World:
    """A world on fakes; made again on the same root it is the same world.

    :param hook: FakeDriver's; ``fail`` and ``after`` are FakeConductor's, ``network_hook`` is
        FakeNetworks'.
    """
    root = pathlib.Path(root)
    root.mkdir(parents=True, exist_ok=True)
    options = conf(root)
    clock = clock or SystemClock()
    engine = open_engine(f"sqlite:///{root}/journal.sqlite")
    migrate(engine, "journal")
    journal = Journal(engine, clock.now)
    driver = FakeDriver(root / "instances", hook, hostname=HOST, **driver_options)
    conductor = FakeConductor(root / "control.json", fail=fail, after=after)
    tracker = Tracker(options, HOST, journal, driver, conductor)
    tracker.facts()
    tracker.record = make("ComputeNode", {"id": 1, "uuid": "n"}, changes=())
    return World(host=HOST, conf=options, journal=journal, driver=driver, conductor=conductor,
                 images=FakeImages(), networks=FakeNetworks(root / "ports", network_hook),
                 inventory=tracker, secrets=Secrets(root / "secrets"), clock=clock)
