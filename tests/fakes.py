"""A world of fakes that outlives the process.

All state is in files, so that a crash test can fork hundreds of agents from one warmed process. The
control plane is in tests/fake_conductor.py, the way between agents in tests/fake_peers.py.
"""

from __future__ import annotations

import json
import os
import pathlib
import types
import uuid as uuids
from collections.abc import Callable

from sqlalchemy.engine import Engine

from compute.conf import agent as agent_options
from compute.conf import compute as compute_options
from compute.conf import disk as disk_options
from compute.conf import libvirt as libvirt_options
from compute.conf import metrics as metric_options
from compute.conf import migration as migration_options
from compute.conf import moves as move_options
from compute.conf import pci as pci_options
from compute.conf import resources as resource_options
from compute.conf import serial_console as serial_options
from compute.conf import timeouts as timeout_options
from compute.engine.clock import SystemClock
from compute.engine.secrets import Secrets
from compute.engine.world import World
from compute.errors import Refused
from compute.model import states
from compute.model.guest import Address, Image, Nic
from compute.resources.tracker import Tracker
from compute.rpc.primitives import make, make_list
from db.engine import migrate, open_engine
from db.journal import Journal
from tests.fake_conductor import HOST, FakeConductor, migration
from tests.fake_peers import Exchange, FakePeers
from tests.fake_volumes import FakeVolumes
from virt.fake import FakeDriver, hooked, replace

__all__ = ["HOST", "Exchange", "FakeConductor", "FakeDriver", "FakePeers", "FakeVolumes",
           "migration"]
IMAGE_ID = "11111111-2222-3333-4444-555555555555"
NETWORK_ID = "99999999-2222-3333-4444-555555555555"


class FakeImages:
    """One image to boot from; and those that hosts fill, one file each.

    :param hook: called with the name of each method that changes one, ``before`` and ``after``.
    """

    def __init__(self, root, hook: Callable[[str, str], None] | None = None):
        self.root = pathlib.Path(root)
        self.hook = hook or (lambda method, when: None)
        self.calls: dict[str, int] = {}

    def show(self, image_id):
        if image_id in self.all():
            return Image(id=image_id, disk_format="raw", size=4096)
        if image_id != IMAGE_ID:
            raise Refused(f"There is no image {image_id}.", code="image_not_found")
        return image()

    def download(self, image_id, path, progress, cancel):
        cancel()
        pathlib.Path(path).write_bytes(b"\0" * 4096)
        progress(4096, 4096)

    # -- those that hosts fill ----------------------------------------------------------------
    def reserve(self, image_id, **properties):
        """As the control plane's API does."""
        self._write(image_id, {"status": "queued", "properties": properties,
                               "made": len(self.all())})

    def all(self) -> dict:
        """What is kept, by id: {status, properties, made, content, format}."""
        return {path.name: json.loads(path.read_bytes()) for path in self.root.glob("*-*")} \
            if self.root.exists() else {}

    def _write(self, image_id, kept):
        self.root.mkdir(parents=True, exist_ok=True)
        replace(self.root / image_id, json.dumps(kept).encode())

    @hooked
    def find(self, context, properties):
        found = sorted(self.all().items(), key=lambda item: -item[1]["made"])
        return tuple(Image(id=image_id, status=kept["status"], properties=kept["properties"])
                     for image_id, kept in found
                     if properties.items() <= kept["properties"].items())

    @hooked
    def status(self, context, image_id):
        return self.all().get(image_id, {}).get("status")

    @hooked
    def upload(self, context, image_id, path, disk_format, progress, cancel):
        kept = self.all()[image_id]
        if kept["status"] == "queued":
            cancel()
            content = json.loads(pathlib.Path(path).read_bytes())
            self._write(image_id, {**kept, "status": "active", "format": disk_format,
                                   "content": content})

    @hooked
    def remove(self, context, image_id):
        (self.root / image_id).unlink(missing_ok=True)


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
        return self._nics(path)

    def _nics(self, path):
        return tuple(nic(number, port) for number, port in enumerate(self._ports(path), 1) if port)

    @staticmethod
    def _ports(path):
        """Ids of ports by their number; empty where one was given back."""
        first, *more = path.read_text().splitlines() or [""]
        return [first.split()[0] if first else "", *more]

    @hooked
    def attach(self, context, guest, port, request):
        if request.network_id not in (None, NETWORK_ID):
            raise Refused(f"There is no network {request.network_id}.", code="network_missing")
        path = self.root / guest
        ports = self._ports(path) if path.exists() else [""]
        if port not in ports:
            ports.append(port)
            self._write(path, ports)
        return nic(ports.index(port) + 1, port, request.tag)

    @hooked
    def detach(self, context, guest, port):
        path = self.root / guest
        if path.exists():
            self._write(path, [other if other != port else "" for other in self._ports(path)])

    def _write(self, path, ports):
        if not any(ports):
            path.unlink()
            return
        host = self.host(path.name) if path.exists() else None
        first = f"{ports[0]} {host}" if host and ports[0] else ports[0]
        path.write_text("\n".join([first, *ports[1:]]))

    @hooked
    def deallocate(self, context, guest):
        (self.root / guest).unlink(missing_ok=True)

    @hooked
    def bind(self, context, guest, host):
        path = self.root / guest
        if not path.exists():
            return ()
        first, *more = self._ports(path)
        path.write_text("\n".join([f"{first} {host}", *more]))
        return self._nics(path)

    def host(self, guest):
        """The host that a guest's ports were bound to last; None: where they were allocated."""
        return (*(self.root / guest).read_text().splitlines()[0].split(), None)[1]


def nic(number: int, port: str, tag: str | None = None) -> Nic:
    """The NIC of a guest's port with this number, beginning at 1."""
    return Nic(id=port, mac=f"52:54:00:00:00:{number:02x}", network_id=NETWORK_ID, label="net",
               kind="bridge", source="br0",
               addresses=(Address(f"10.0.0.{number + 1}", "10.0.0.0/24"),), tag=tag)


_compiled: list[Engine] = []


def share_compiled(engine: Engine) -> Engine:
    """Let an engine use the statements that this process, or the one that it was forked from, has
    compiled already: that takes much of the time of a short life. SQLAlchemy keeps them for each
    dialect object, which is the same for all journals."""
    _compiled.append(engine)
    engine.dialect = engine.pool._dialect = _compiled[0].dialect
    engine._compiled_cache = _compiled[0]._compiled_cache
    del _compiled[1:]
    return engine


def power_cut(driver: FakeDriver) -> None:
    """A host loses its power: no domain runs there any more."""
    for path in driver.domains.glob("*.json"):
        found = driver._read(path.stem)
        driver._write(path.stem, {**found, "power_state": states.SHUTDOWN, "job": ""})


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

    values = {**group(agent_options), **group(resource_options), **group(move_options)}
    values.update({"state_path": str(root), "host": HOST, "compute_driver": "fake",
                   "instance_name_template": "instance-%08x"})
    made = types.SimpleNamespace(**values)
    made.timeouts = types.SimpleNamespace(**group(timeout_options))
    made.libvirt = types.SimpleNamespace(**group(libvirt_options), **group(migration_options))
    made.compute = types.SimpleNamespace(**group(compute_options))
    made.pci = types.SimpleNamespace(**group(pci_options))
    made.metrics = types.SimpleNamespace(**group(metric_options))
    made.serial_console = types.SimpleNamespace(**group(serial_options))
    made.disk = types.SimpleNamespace(**group(disk_options))
    made.disk.instances_path = os.path.join(root, "instances")
    for name, value in overrides.items():
        setattr(made, name, value)
    return made


def world(root, *, host=HOST, hook=None, fail=None, after=None, network_hook=None,
          peer_hook=None, image_hook=None, volume_hook=None, clock=None, exchange=None,
          common=None, engine=None, **driver_options) -> World:
    """A world on fakes; made again on the same root it is the same world.

    :param hook: FakeDriver's; ``fail`` and ``after`` are FakeConductor's, ``network_hook`` is
        FakeNetworks', ``peer_hook`` FakePeers', ``image_hook``
        FakeImages', ``volume_hook`` FakeVolumes'.
    :param exchange: the way to other agents; None: there are none.
    :param engine: the journal's database, if it is not a file in the root.
    :param common: where the control plane and the ports are; None: in the root.
    """
    root = pathlib.Path(root)
    root.mkdir(parents=True, exist_ok=True)
    common = pathlib.Path(common or root)
    options = conf(root, host=host)
    clock = clock or SystemClock()
    if engine is None:
        engine = share_compiled(open_engine(f"sqlite:///{root}/journal.sqlite"))
        migrate(engine, "journal")
    journal = Journal(engine, clock.now)
    driver = FakeDriver(root / "instances", hook, hostname=host, **driver_options)
    driver.now = clock.now
    conductor = FakeConductor(common / "control.json", host, fail=fail, after=after)
    conductor.storage = lambda other: driver.storage if driver.storage == "shared" else other
    tracker = Tracker(options, host, journal, driver, conductor)
    tracker.facts()
    tracker.record = make("ComputeNode", {"id": 1, "uuid": "n"}, changes=())
    return World(host=host, conf=options, journal=journal, driver=driver, conductor=conductor,
                 images=FakeImages(common / "images", image_hook),
                 networks=FakeNetworks(common / "ports", network_hook),
                 volumes=FakeVolumes(common / "volumes", volume_hook),
                 peers=FakePeers(exchange or Exchange(), host, peer_hook),
                 inventory=tracker, secrets=Secrets(root / "secrets"), clock=clock)


def worlds(root, hosts=("host1", "host2"), *, exchange=None, shared=False,
           **more) -> dict[str, World]:
    """Hosts between which guests move, with one control plane: each in ``<root>/<host>``, and what
    they share in ``<root>``. Their agents hear each other once they joined ``exchange``.

    :param shared: whether all hosts see the disks of all guests.
    :param more: for :func:`world`; for each host if it is a dict by host.
    """
    root = pathlib.Path(root)
    exchange = exchange or Exchange()

    def of(host):
        return {name: value.get(host) if isinstance(value, dict) else value
                for name, value in more.items()}

    return {host: world(root / host, host=host, exchange=exchange, common=root,
                        fabric=root / "fabric", shared=shared, **of(host)) for host in hosts}
