"""A control plane on ``inproc://`` or any database, and a scripted stand-in for an agent."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable
from typing import Any

import fixtures
import oslo_messaging
import sqlalchemy as sa
import testtools
from oslo_config import cfg

from compute import conf as compute_conf
from compute.errors import MagnetarError
from compute.rpc import primitives
from compute.rpc.exceptions import nova_exception
from compute.rpc.primitives import data
from compute.rpc.serializer import ContextSerializer, admin_context
from compute.services.images import LocalImages
from control import service
from control.api import ControlPlane
from tests.waiting import PATIENCE, wait_until

POSTGRESQL = "MAGNETAR_TEST_POSTGRESQL"
MEMORY, VCPUS, DISK = 8192, 8, 100
FAR = 100_000  # seconds: a timer that no test wants to see go off


def new_transport() -> Any:
    """A broker of its own in this process: messages that a test leaves go with it."""
    oslo_messaging.set_transport_defaults(control_exchange="nova")
    return oslo_messaging.get_rpc_transport(cfg.CONF, "inproc://")


@functools.cache
def _migrated() -> bytes:
    """An SQLite database of a control plane at its newest revision."""
    with tempfile.TemporaryDirectory(prefix="magnetar-db-") as directory:
        path = os.path.join(directory, "control.sqlite")
        service.open_database(f"sqlite:///{path}").dispose()
        with open(path, "rb") as file:
            return file.read()


def lay_database(directory: str) -> str:
    """A control plane's SQLite database, migrated once for this process; returns its URL."""
    path = os.path.join(directory, "control.sqlite")
    with open(path, "wb") as file:
        file.write(_migrated())
    return f"sqlite:///{path}"


class PostgreSQL:
    """A private server of Debian's packages on a unix socket, shared by all tests of a process."""

    _url: str | None = None
    _why_not = ""

    @classmethod
    def url(cls) -> str | None:
        """SQLAlchemy URL of its maintenance database, None when there can be none."""
        if os.environ.get(POSTGRESQL):
            return os.environ[POSTGRESQL]
        if cls._url is None and not cls._why_not:
            cls._start()
        return cls._url

    @classmethod
    def why_not(cls) -> str:
        """Why there is none."""
        return cls._why_not

    @classmethod
    def _start(cls) -> None:
        import atexit

        found = sorted(p for p in ("/usr/lib/postgresql",) if os.path.isdir(p))
        versions = sorted(os.listdir(found[0])) if found else []
        if not versions or os.geteuid() != 0:
            cls._why_not = f"PostgreSQL is not installed, or not root; set {POSTGRESQL}"
            return
        binaries = os.path.join(found[0], versions[-1], "bin")
        where = tempfile.mkdtemp(prefix="magnetar-pg-")
        shutil.chown(where, "postgres", "postgres")

        def run(*command: str) -> None:
            subprocess.run(["runuser", "-u", "postgres", "--", *command], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        try:
            run(f"{binaries}/initdb", "-D", f"{where}/data", "-A", "trust", "--no-sync")
            options = f"-k {where} -c listen_addresses= -c fsync=off -c max_connections=50"
            run(f"{binaries}/pg_ctl", "-D", f"{where}/data", "-w", "-l", f"{where}/log",
                "-o", options, "start")
        except (subprocess.CalledProcessError, OSError) as error:
            shutil.rmtree(where, ignore_errors=True)
            cls._why_not = f"PostgreSQL could not be started: {error}"
            return

        def stop() -> None:
            run(f"{binaries}/pg_ctl", "-D", f"{where}/data", "-m", "immediate", "stop")
            shutil.rmtree(where, ignore_errors=True)

        atexit.register(stop)
        cls._url = f"postgresql+psycopg2://postgres@/postgres?host={where}"


class PostgreSQLDatabase(fixtures.Fixture):
    """An empty database; ``url`` is its URL."""

    def _setUp(self) -> None:
        base = PostgreSQL.url()
        if base is None:
            raise testtools.TestCase.skipException(PostgreSQL.why_not())
        name = f"t{uuid.uuid4().hex}"
        admin = sa.create_engine(base, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        self.url = sa.make_url(base).set(database=name).render_as_string(hide_password=False)

        def drop() -> None:
            with admin.connect() as connection:
                connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
            admin.dispose()

        self.addCleanup(drop)


class Agent:
    """A stand-in for an agent on one host, over the real RPC stack.

    It registers, and remembers what it is sent in ``received`` and ``routes``; ``script`` may map
    a method to a function that is called with (agent, context, args).
    """

    def __init__(self, transport: Any, host: str, **facts: Any):
        self.host, self.transport, self.facts = host, transport, facts
        self.received: list[tuple[str, Any, dict[str, Any]]] = []
        self.routes: list[tuple[str, str, str]] = []  # method, topic, version
        self.script: dict[str, Callable[..., Any]] = {}
        self._client = oslo_messaging.get_rpc_client(
            transport, oslo_messaging.Target(topic="conductor", version="3.0"),
            serializer=ContextSerializer(), timeout=PATIENCE,
        )
        self._servers: list[Any] = []

    # -- towards the control plane -----------------------------------------------------------

    def action(self, objinst: dict, method: str, context: Any = None, **kwargs: Any) -> Any:
        """Call a method of an object; returns (updates, result)."""
        return self._client.call(context or admin_context(), "object_action", objinst=objinst,
                                 objmethod=method, args=[], kwargs=kwargs)

    def ask(self, name: str, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        """Call a method of a class, ``Instance.get_by_uuid`` for example."""
        objname, method = name.split(".")
        return self._client.call(
            context or admin_context(), "object_class_action_versions", objname=objname,
            objmethod=method, object_versions={objname: primitives.VERSIONS.get(objname, "1.0")},
            args=list(args), kwargs=kwargs,
        )

    def own(self, method: str, **args: Any) -> Any:
        """Call our namespace ``magnetar``."""
        client = self._client.prepare(namespace="magnetar", version="1.0")
        return client.call(admin_context(), method, **args)

    def task(self, method: str, context: Any = None, **args: Any) -> None:
        """Cast to ``compute_task``."""
        client = self._client.prepare(namespace="compute_task", version="1.25")
        client.cast(context or admin_context(), method, **args)

    def save(self, objinst: dict, context: Any = None, expected_task_state: Any = None,
             **values: Any) -> dict:
        """Save fields of an object; returns it as it is then."""
        kwargs = {} if expected_task_state is None else {"expected_task_state": expected_task_state}
        patched = primitives.patch(primitives.clean(objinst), values)
        updates, _ = self.action(patched, "save", context, **kwargs)
        return primitives.clean(patched, updates)

    # -- being an agent ------------------------------------------------------------------------

    def register(self) -> Agent:
        """Service, heartbeat, ComputeNode, RPC servers."""
        service_object = primitives.make("Service", {
            "host": self.host, "binary": "nova-compute", "topic": "compute", "report_count": 0,
            "version": 74,
        })
        updates, _ = self.action(service_object, "create")
        self.service = primitives.clean(service_object, updates)
        self.beat()
        node = primitives.make("ComputeNode", {
            "uuid": str(uuid.uuid4()), "host": self.host, "hypervisor_hostname": self.host,
            "service_id": data(self.service)["id"], "vcpus": VCPUS, "memory_mb": MEMORY + 512,
            "local_gb": DISK, "vcpus_used": 0, "memory_mb_used": 512, "local_gb_used": 0,
            "hypervisor_type": "fake", "hypervisor_version": 1000, "cpu_info": "{}",
            "stats": {"failed_builds": "0"}, "host_ip": "127.0.0.1", "cpu_allocation_ratio": 4.0,
            "ram_allocation_ratio": 1.0, "disk_allocation_ratio": 1.0, "numa_topology": None,
            "supported_hv_specs": [primitives.make("HVSpec", {
                "arch": "x86_64", "hv_type": "qemu", "vm_mode": "hvm"})], **self.facts,
        })
        updates, _ = self.action(node, "create")
        self.node = primitives.clean(node, updates)
        for topic in ("compute", "compute-alt"):
            # the first one that takes a message's version tells which version it has
            endpoints = [_Endpoint(self, None, f"6.{minor}", topic) for minor in range(6)]
            server = oslo_messaging.get_rpc_server(
                self.transport, oslo_messaging.Target(topic=topic, server=self.host),
                [*endpoints, _Endpoint(self, "magnetar", "1.0", topic)],
                executor="threading", serializer=ContextSerializer(),
            )
            server.start()
            self._servers.append(server)
        return self

    def beat(self) -> None:
        """One heartbeat."""
        self.service = self.save(self.service,
                                 report_count=data(self.service)["report_count"] + 1)

    def stop(self) -> None:
        """Serve no more."""
        for server in self._servers:
            server.stop()
            server.wait()

    def handle(self, method: str, context: Any, args: dict[str, Any]) -> Any:
        """A message has come."""
        self.received.append((method, context, args))
        script = self.script.get(method)
        return script(self, context, args) if script else None

    def got(self, method: str, count: int = 1) -> list[tuple]:
        """Wait until ``count`` messages of this method have come; returns [(context, args)]."""
        found: list[tuple] = []
        wait_until(lambda: len(self._of(method, found)) >= count, lambda: self.routes)
        return found

    def _of(self, method: str, found: list[tuple]) -> list[tuple]:
        found[:] = [(context, args) for name, context, args in self.received if name == method]
        return found


class _Endpoint:
    """Takes every method."""

    def __init__(self, agent: Agent, namespace: str | None, version: str, topic: str):
        self.target = oslo_messaging.Target(namespace=namespace, version=version)
        self._agent, self._topic = agent, topic

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "oslo_")):
            raise AttributeError(name)
        agent = self._agent

        def method(context: Any, **args: Any) -> Any:
            agent.routes.append((name, self._topic, self.target.version))
            if self.target.namespace != "magnetar":
                return agent.handle(name, context, args)
            try:
                return {"result": agent.handle(name, context, args)}
            except MagnetarError as error:
                return {"error": error.to_dict()}

        return method


def start_control(transport: Any, images: LocalImages) -> Any:
    """A control plane that has looked for what an earlier one left undone.

    It looks in a thread of its own, and would take what a test asks for meanwhile for left undone.
    """
    looked = threading.Event()
    last = ControlPlane.clean_networks

    def noting(control: ControlPlane, unfinished: Any) -> None:
        try:
            last(control, unfinished)
        finally:
            looked.set()

    with fixtures.MonkeyPatch("control.api.ControlPlane.clean_networks", noting):
        control = service.start(cfg.CONF, transport, images)
        wait_until(looked.is_set)
    return control


def spawn(agent: Agent, context: Any, args: dict[str, Any]) -> None:
    """Build a server as a real agent does, as far as the control plane can see."""
    instance = args["instance"]
    uuid_ = data(instance)["uuid"]
    event = "compute__do_build_and_run_instance"
    agent.ask("InstanceActionEvent.event_start", uuid_, event, context=context,
              want_result=False, host=agent.host)
    instance = agent.save(
        instance, context, ["scheduling", None], task_state="networking", host=agent.host,
        launched_on=agent.host, node=agent.host, compute_id=data(agent.node)["id"],
    )
    requests = [data(r) for r in primitives.objects(args["requested_networks"])]
    agent.own("network_allocate", instance_uuid=uuid_, requests=requests, host=agent.host)
    instance = agent.save(instance, context, ["networking"], task_state="spawning")
    agent.save(instance, context, ["spawning"], task_state=None, vm_state="active", power_state=1,
               launched_at=primitives.now())
    agent.ask("InstanceActionEvent.event_finish_with_failure", uuid_, event, context=context,
              exc_val=None, exc_tb=None, want_result=False)


def terminate(agent: Agent, context: Any, args: dict[str, Any]) -> None:
    """Delete a server as a real agent does."""
    instance = agent.save(args["instance"], context, vm_state="deleted", task_state=None,
                          power_state=0, terminated_at=primitives.now())
    agent.action(instance, "destroy", context)


def nova_errors() -> tuple[type[Exception], ...]:
    """The classes of nova.exception that tests here expect."""
    names = ("InstanceNotFound", "InstanceUpdateConflict", "UnexpectedTaskStateError",
             "UnexpectedDeletingTaskStateError", "UnexpectedVMStateError", "ServiceTooOld",
             "ObjectActionError", "UnsupportedObjectError", "ComputeHostNotFound", "Invalid",
             "ServiceNotFound", "DuplicateRecord", "ServiceBinaryExists",
             "InstanceActionNotFound", "InstanceGroupNotFound", "IncompatibleObjectVersion",
             "MigrationNotFound", "VolumeBDMNotFound", "BDMNotFound")
    return tuple(nova_exception(name) for name in names)


class ControlTest(testtools.TestCase):
    """A control plane of its own for each test."""

    database = "sqlite"

    def setUp(self) -> None:
        super().setUp()
        # idle workers of an RPC server's pool notice its end only now and then
        self.useFixture(fixtures.MonkeyPatch("futurist._thread.ThreadWorker.MAX_IDLE_FOR", 0.05))
        self.dir = self.useFixture(fixtures.TempDir()).path
        compute_conf.register(cfg.CONF)
        self.transport = new_transport()
        for name, value in (("host", "control"), ("state_path", self.dir)):
            cfg.CONF.set_override(name, value)
            self.addCleanup(cfg.CONF.clear_override, name)
        url = self.useFixture(PostgreSQLDatabase()).url if self.database == "postgresql" \
            else lay_database(self.dir)
        for name, value in (("database", url), ("service_down_time", FAR), ("resend_after", FAR)):
            cfg.CONF.set_override(name, value, "control")
            self.addCleanup(cfg.CONF.clear_override, name, "control")
        self.images = LocalImages(f"{self.dir}/images")
        self.control = self.start_control()

    def start_control(self) -> Any:
        """Start a control plane; it ends with the test."""
        control = start_control(self.transport, self.images)
        self.addCleanup(control.stop)
        return control

    def agent(self, host: str = "host1", register: bool = True, **facts: Any) -> Agent:
        """A registered agent that builds and deletes."""
        agent = Agent(self.transport, host, **facts)
        agent.script = {"build_and_run_instance": spawn, "terminate_instance": terminate}
        if register:
            agent.register()
            self.addCleanup(agent.stop)
        return agent

    def hold(self, agent: Agent, method: str) -> threading.Event:
        """Let an agent wait with what it does for a method until the event that is returned is
        set, so that what is there before can be looked at."""
        go_on, script = threading.Event(), agent.script.get(method)

        def held(agent: Agent, context: Any, args: dict[str, Any]) -> Any:
            go_on.wait(PATIENCE)
            return script(agent, context, args) if script else None

        agent.script[method] = held
        self.addCleanup(go_on.set)
        return go_on

    def prepare(self, **flavor: Any) -> None:
        """An image ``tiny`` and a flavor ``small``."""
        path = os.path.join(self.dir, "tiny.raw")
        with open(path, "wb") as file:
            file.truncate(1 << 20)
        self.control.image_create("tiny", path, disk_format="raw")
        self.control.flavor_create("small", **{"vcpus": 1, "ram": 512, "disk": 1, **flavor})

    def create(self, name: str = "one", **kwargs: Any) -> dict[str, Any]:
        """Ask for a server."""
        return self.control.server_create(name, "tiny", "small", **kwargs)

    def active(self, name: str = "one", **kwargs: Any) -> dict[str, Any]:
        """A server that runs."""
        made = self.create(name, **kwargs)
        return self.wait_for(made["id"], "active")

    def wait_for(self, server: str, vm_state: str) -> dict[str, Any]:
        """Wait until a server is in this state and nothing goes on."""

        def there() -> dict[str, Any] | None:
            now = self.control.server_show(server)
            return now if now["vm_state"] == vm_state and not now["task_state"] else None

        return wait_until(there)
