"""Nova's own client side, driven over a pipe: one JSON command a line in, one JSON answer out.

Runs in Nova's virtual environment with Nova's configuration files as arguments. Every verb goes
through Nova's API layer (nova.compute.api), which sets task_state, records the action and casts
with Nova's ComputeAPI client. What that layer asks of a conductor's tasks (builds, moves) runs in
this process with the conductor's own code; only the scheduler's choice is replaced, by the host
that the command names.
"""

from nova import monkey_patch

monkey_patch.patch(backend="threading")

import contextlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402

import nova.conf  # noqa: E402
import oslo_messaging as messaging  # noqa: E402
from nova import config, exception, objects, rpc  # noqa: E402
from nova import context as nova_context  # noqa: E402
from nova.compute import api as compute_api  # noqa: E402
from nova.compute import rpcapi as compute_rpcapi  # noqa: E402
from nova.conductor import manager as conductor_manager  # noqa: E402
from nova.objects import host_mapping  # noqa: E402
from nova.scheduler import host_manager  # noqa: E402
from nova.scheduler.client import report  # noqa: E402
from nova_side import rows, signatures  # noqa: E402

CONF = nova.conf.CONF
PROJECT = "11111111111111111111111111111111"
USER = "22222222222222222222222222222222"
# Verbs that only an administrator may use, and what nova-api loads of a server for a verb.
ADMINS = ("live_migrate", "live_migrate_abort", "live_migrate_force_complete", "evacuate")
_USUAL = ["flavor", "numa_topology"]
LOADED = {
    "delete": _USUAL, "reboot": _USUAL, "confirm_resize": _USUAL, "revert_resize": _USUAL,
    "resize": ["flavor", "numa_topology", "services", "resources", "pci_requests", "pci_devices",
               "trusted_certs", "vcpu_model"],
    "live_migrate": ["numa_topology", "system_metadata"],
    "evacuate": ["trusted_certs", "pci_requests", "pci_devices", "resources", "migration_context"],
}


class Scheduler:
    """A scheduler that answers with the host that was named to it last, unless that is excluded."""

    def __init__(self, cell):
        self.cell = cell
        self.host = None

    def select_destinations(self, context, spec, instance_uuids, return_objects=False,
                            return_alternates=False):
        """Return the one host for every server. Raises NoValidHost, as Nova's scheduler does."""
        if "ignore_hosts" in spec and self.host in (spec.ignore_hosts or ()):
            raise exception.NoValidHost(reason="the host that the test names is excluded")
        node = objects.ComputeNodeList.get_all_by_host(context, self.host)[0]
        state = host_manager.HostState(self.host, node.hypervisor_hostname, self.cell.uuid)
        state.uuid = node.uuid
        wanted = {"VCPU": spec.vcpus, "MEMORY_MB": spec.memory_mb, "DISK_GB": spec.root_gb}
        request = {"allocations": {node.uuid: {"resources": wanted}},
                   "mappings": {"": [node.uuid]}}
        choice = objects.Selection.from_host_state(state, request, "1.36")
        return [[choice] for _ in instance_uuids]


class LocalConductor:
    """What Nova's API layer sends to a conductor's tasks: done here instead of being sent."""

    def __init__(self, scheduler):
        self.manager = conductor_manager.ComputeTaskManager()
        self.manager.query_client = scheduler

    def schedule_and_build_instances(self, context, build_requests, request_spec, image,
                                     admin_password, injected_files, requested_networks,
                                     block_device_mapping, tags=None):
        """Build."""
        self.manager.schedule_and_build_instances(
            context, build_requests=build_requests, request_specs=request_spec, image=image,
            admin_password=admin_password, injected_files=injected_files,
            requested_networks=requested_networks, block_device_mapping=block_device_mapping,
            tags=tags)

    def migrate_server(self, *args, do_cast=False, **kwargs):
        """Resize, or move to another host; an error comes back as it does over RPC."""
        try:
            self.manager.migrate_server(*args, **kwargs)
        except messaging.ExpectedException as error:
            raise error.exc_info[1] from None

    def rebuild_instance(self, context, **kwargs):
        """Evacuate."""
        self.manager.rebuild_instance(context, **kwargs)


class Control:
    """The commands. Public methods are the commands' names; answers are JSON-able."""

    def __init__(self):
        self.admin = nova_context.get_admin_context()
        self.cell = self._map_cells()
        self.api = compute_api.API()
        self.hosts = compute_api.HostAPI()
        self.scheduler = Scheduler(self.cell)
        self.api.compute_task_api.conductor_compute_rpcapi = LocalConductor(self.scheduler)
        self.rpcapi = compute_rpcapi.ComputeAPI()

    def wait_service(self, host, seconds):
        """Wait until the host's service is up and has a compute node; map the host to the cell."""
        deadline = time.monotonic() + seconds
        while True:
            with self._targeted() as context, contextlib.suppress(exception.NotFound):
                service = objects.Service.get_by_compute_host(context, host)
                nodes = objects.ComputeNodeList.get_all_by_host(context, host)
                if self.api.servicegroup_api.service_is_up(service) and nodes:
                    break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{host} did not register in {seconds} s")
            time.sleep(0.1)
        while self._ping(host) is None and time.monotonic() < deadline:
            pass
        host_mapping.discover_hosts(self.admin)
        self._provide(nodes[0])
        return {"service": service.uuid, "node": nodes[0].uuid, "version": service.version}

    def ping(self, host):
        """Ping the host over the base API; the answer is None if nothing answers."""
        return {"answer": self._ping(host)}

    def build(self, host, name, image, memory_mb=64, vcpus=1, root_gb=1, metadata=None):
        """Create a server without a network on this host; answers with its uuid."""
        context = self._tenant()
        self.scheduler.host = host
        flavor = self._flavor(memory_mb, vcpus, root_gb)
        networks = objects.NetworkRequestList(
            objects=[objects.NetworkRequest(network_id="none")])
        instances, _ = self.api.create(
            context, flavor, image, display_name=name, requested_networks=networks,
            metadata=metadata or {}, admin_password="secret")
        return {"uuid": instances[0].uuid}

    def flavor(self, memory_mb, vcpus=1, root_gb=1):
        """Answer with the flavorid of a flavor of this size; it is made if it is not there."""
        return {"id": self._flavor(memory_mb, vcpus, root_gb).flavorid}

    def act(self, uuid, verb, choose=None, **kwargs):
        """Call one verb of Nova's API layer on a server, e.g. stop, start, pause, delete.

        `choose` names the host that the scheduler would choose for it.
        """
        self.scheduler.host = choose
        instance = self._instance(uuid, verb)
        answer = getattr(self.api, verb)(instance._context, instance, **kwargs)
        return {"answer": answer if isinstance(answer, str | dict) else None}

    def end_live_migration(self, uuid, verb, seconds):
        """Wait until a live migration runs; then live_migrate_abort or _force_complete it."""
        found = self.wait_migration(uuid, "running", seconds)
        return self.act(uuid, verb, migration_id=found["id"])

    def wait_migration(self, uuid, status, seconds):
        """Wait until the server's newest migration has this status; answers with its id."""
        deadline = time.monotonic() + seconds
        while True:
            with self._targeted() as context:
                found = objects.MigrationList.get_by_filters(context, {"instance_uuid": uuid})
            newest = max(found, key=lambda migration: migration.id)
            if newest.status == status:
                return {"id": newest.id}
            if time.monotonic() > deadline:
                raise TimeoutError(f"migration of {uuid} is {newest.status} after {seconds} s")
            time.sleep(0.05)

    def force_down(self, host, forced_down):
        """Say as an operator that a host is down for certain, or is no longer."""
        with self._targeted() as context:
            service = objects.Service.get_by_compute_host(context, host)
            service.forced_down = forced_down
            self.hosts.service_update(context, service)
        return {}

    def call_host(self, method, host, **kwargs):
        """Call a host method of Nova's ComputeAPI client, e.g. get_host_uptime."""
        with self._targeted() as context:
            return {"answer": getattr(self.rpcapi, method)(context, host=host, **kwargs)}

    def settle(self, uuid, seconds):
        """Wait until nothing is in progress for this server; answers with its states."""
        deadline = time.monotonic() + seconds
        while True:
            busy, states = rows.progress(uuid)
            if not busy:
                return states
            if time.monotonic() > deadline:
                raise TimeoutError(f"still {busy} after {seconds} s: {states}")
            time.sleep(0.1)

    def wait_report(self, host, seconds):
        """Wait for one more heartbeat of this host, and until its node counts its guests."""
        before = rows.reports(host)
        deadline = time.monotonic() + seconds
        while rows.reports(host) <= before or not rows.counted(host):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{host} was silent, or counted its guests wrongly, "
                                   f"for {seconds} s")
            time.sleep(0.1)
        return {}

    def cast_stale_stop(self, uuid):
        """Cast a stop that the control plane no longer wants: task_state is not powering-off."""
        instance = self._instance(uuid, "stop")
        self.rpcapi.stop_instance(instance._context, instance)
        return {}

    def server_methods(self):
        """Answer with the RPC methods and their arguments as Nova's own agent serves them."""
        return signatures.server_methods()

    def server_rows(self, uuid):
        """Answer with the rows of the cell database that belong to one server."""
        return rows.of_server(uuid)

    def host_rows(self, host):
        """Answer with the rows of the cell database that belong to one host."""
        return rows.of_host(host)

    def _provide(self, node):
        """Make a resource provider for a node whose agent made none; traits are asked for."""
        client = report.report_client_singleton()
        if client.get(f"/resource_providers/{node.uuid}", version="1.20").status_code == 404:
            made = client.post("/resource_providers", {
                "uuid": node.uuid, "name": node.hypervisor_hostname}, version="1.20")
            made.raise_for_status()

    def _ping(self, host):
        # A service can be up before its queues exist; a message sent then is lost.
        target = messaging.Target(topic=compute_rpcapi.RPC_TOPIC, server=host,
                                  namespace="baseapi", version="1.0")
        client = rpc.get_client(target).prepare(timeout=2)
        try:
            return client.call(self.admin, "ping", arg="contract")
        except messaging.MessagingTimeout:
            return None

    def _map_cells(self):
        """Point the cells at this run's database and broker; return the one with hosts."""
        for cell in objects.CellMappingList.get_all(self.admin):
            cell.database_connection = CONF.database.connection
            if cell.is_cell0():
                cell.database_connection = CONF.database.connection.replace("_cell1", "_cell0")
            else:
                cell.transport_url = CONF.transport_url
                home = cell
            cell.save()
        return home

    def _tenant(self):
        return nova_context.RequestContext(
            user_id=USER, project_id=PROJECT, user_name="tenant", project_name="tenant",
            is_admin=False, auth_token="admin:" + PROJECT, roles=["member"],
            user_domain_id="default", project_domain_id="default", read_deleted="no")

    @contextlib.contextmanager
    def _targeted(self):
        with nova_context.target_cell(nova_context.get_admin_context(), self.cell) as context:
            yield context

    def _instance(self, uuid, verb):
        """Load a server with exactly the fields that nova-api loads for this verb."""
        context = self._tenant()
        context.is_admin = verb in ADMINS
        nova_context.set_target_cell(context, self.cell)
        if verb in ("start", "stop"):
            return objects.Instance.get_by_uuid(
                context, uuid, expected_attrs=["system_metadata", "metadata"])
        return self.api.get(context, uuid, expected_attrs=LOADED.get(verb))

    def _flavor(self, memory_mb, vcpus, root_gb):
        name = f"contract-{memory_mb}-{vcpus}-{root_gb}"
        try:
            return objects.Flavor.get_by_flavor_id(self.admin, name)
        except exception.FlavorNotFound:
            flavor = objects.Flavor(
                self.admin, flavorid=name, name=name, memory_mb=memory_mb, vcpus=vcpus,
                root_gb=root_gb, ephemeral_gb=0, swap=0, rxtx_factor=1.0, is_public=True,
                disabled=False, vcpu_weight=0, extra_specs={})
            flavor.create()
            return flavor


def answer(control, line):
    """Run one command line; every error becomes an answer that names its class and module."""
    command = json.loads(line)
    try:
        return getattr(control, command.pop("do"))(**command)
    except Exception as error:  # noqa: BLE001 - the other end of the pipe decides
        traceback.print_exc()
        kind = type(error)
        return {"error": {"class": kind.__name__, "module": kind.__module__,
                          "message": str(error)}}


def main():
    """Read commands from stdin until it ends."""
    pipe = sys.stdout
    sys.stdout = sys.stderr
    config.parse_args(sys.argv)
    objects.register_all()
    control = Control()
    print(json.dumps({"ready": True}), file=pipe, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(control, line), default=str), file=pipe, flush=True)


if __name__ == "__main__":
    main()
