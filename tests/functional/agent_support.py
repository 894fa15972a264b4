"""Whole agents on the fake driver, with an embedded control plane, over the real RPC stack.

Everything runs in this process over ``inproc://``, with green or with native threads. Where a
process has to die, see :mod:`tests.functional.agent_process`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fixtures
import oslo_messaging
import testtools
from oslo_config import cfg
from oslo_config import fixture as config_fixture

from compute import conf as configuration
from compute.agent import Agent
from compute.model import states
from compute.recovery.invariants import check
from compute.recovery.observe import observe
from compute.rpc import primitives
from compute.rpc.serializer import ContextSerializer, admin_context
from compute.services.images import LocalImages
from control.objects import Call
from control.objects.instances import load
from control.servers import SENT_ALL, C
from db.control import instances
from tests.functional.control_support import FAR, lay_database, new_transport, start_control
from tests.waiting import PATIENCE, Haste, wait_until
from virt.fake import FakeDriver

HOST = "host1"


class Own:
    """The global options with a few values of one host's own."""

    def __init__(self, conf: Any, **values: Any):
        self._conf, self._values = conf, values

    def __getattr__(self, name: str) -> Any:
        return self._values[name] if name in self._values else getattr(self._conf, name)


class Host:
    """One host: its agent, which may be started again, and the hypervisor that outlives it.

    :param hook: called as ``hook(method, when)`` around each call of the driver.
    """

    def __init__(self, cloud: Cloud, name: str, hook: Callable[[str, str], None] | None = None,
                 **facts: Any):
        self.cloud, self.name = cloud, name
        self.root = pathlib.Path(cloud.root) / name
        self.conf = Own(cfg.CONF, host=name, state_path=str(self.root),
                        socket=str(self.root / "s.sock"))
        self.hook = hook or (lambda method, when: None)
        self.facts = {"hostname": name, **facts}
        self.agent: Agent | None = None
        self.driver_class: type[FakeDriver] = FakeDriver

    def _hooked(self, method: str, when: str) -> None:
        self.hook(method, when)  # looked up each time, so that tests may change it

    def make_driver(self) -> FakeDriver:
        """The hypervisor as it is now."""
        return self.driver_class(self.root / "instances", self._hooked,
                                 fabric=pathlib.Path(self.cloud.root) / "fabric", **self.facts)

    def make(self) -> Agent:
        """A new agent on what there is, not started."""
        return Agent(self.conf, self.cloud.transport, driver=self.make_driver(),
                     methods=self.cloud.control.methods())

    def start(self) -> Host:
        """Start the agent."""
        self.agent = self.make()
        try:
            self.agent.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the agent; quiet when it does not run."""
        if self.agent is not None:
            agent, self.agent = self.agent, None
            agent.stop()

    def restart(self) -> Host:
        """Stop and start."""
        self.stop()
        return self.start()

    @property
    def driver(self) -> FakeDriver:
        return self.agent.driver

    def power(self, uuid: str) -> int | None:
        """A guest's power state as the hypervisor has it."""
        found = self.driver.state(uuid)
        return found.power_state if found else None

    def findings(self) -> list[str]:
        """What is not as it must be."""
        seen = observe(self.agent.world, self.agent.context)
        return [f"{f.rule}: {f.subject}: {f.what}" for f in check(seen)]

    def operations(self, guest: str | None = None, verb: str | None = None) -> list[Any]:
        """Rows of the journal, oldest first."""
        found = self.agent.journal.find(guest=guest)
        return [row for row in found if verb in (None, row.verb)]

    def rests(self) -> bool:
        """Whether no operation goes on."""
        return not self.agent.journal.find(active=True) and not self.agent.manager.running()

    def at_rest(self) -> None:
        """Wait until no operation goes on here; more may be on its way from another host."""
        wait_until(self.rests, self.story)

    def story(self) -> str:
        """What the journal says, for a test that waits in vain."""
        return "\n".join(
            f"{self.name}: {row.verb} {row.state} at {row.step}: {row.message} {row.error}"
            for row in self.operations())

    @contextlib.contextmanager
    def asked(self) -> Iterator[list[tuple[str, str]]]:
        """What is asked of the conductor meanwhile: [(request id, what)]."""
        conductor, asked = self.agent.conductor, []
        call = conductor._call

        def noting(client, context, doing, method, **args):
            asked.append((dict(context).get("request_id"), doing))
            return call(client, context, doing, method, **args)

        conductor._call = noting
        try:
            yield asked
        finally:
            del conductor._call

    def reconcile(self, lost_after: float = 0) -> None:
        """One pass, in which messages count as lost at once, and all that follows from it."""
        self.agent.reconciler.lost_after = lost_after
        self.agent.one_pass()
        self.at_rest()


class Cloud(fixtures.Fixture):
    """A control plane and, unless told otherwise, one host with an agent.

    :param passes: whether agents look at their guests by themselves, after a start and after an
        event. Else a test says when, or it could not know what they have seen.
    :param options: values of options; ``group__name`` for one in a group.
    """

    def __init__(self, hosts: int = 1, passes: bool = False, **options: Any):
        super().__init__()
        self.wanted, self.passes, self.options = hosts, passes, options
        self.hosts: list[Host] = []

    def _setUp(self) -> None:
        # The threads of RPC servers look once in this many seconds whether they shall end.
        self.useFixture(fixtures.MonkeyPatch("futurist._thread.ThreadWorker.MAX_IDLE_FOR", 0.05))
        self.useFixture(Haste())
        for when in () if self.passes else ("FIRST_PASS", "SOON"):
            self.useFixture(fixtures.MonkeyPatch(f"compute.agent.{when}", FAR))
        self.root = self.useFixture(fixtures.TempDir()).path
        configuration.register(cfg.CONF)
        self.conf = self.useFixture(config_fixture.Config(cfg.CONF))
        self.conf.conf([], project="magnetar", default_config_files=[])
        self.set(host="control", state_path=self.root, compute_driver="fake",
                 network_service="embedded", report_interval=FAR, audit_interval=FAR,
                 control__service_down_time=FAR, control__resend_after=FAR,
                 timeouts__stop=int(PATIENCE), **self.options)
        lay_database(self.root)
        self.transport = new_transport()
        self.images = LocalImages(cfg.CONF.image_dir)
        self.control = start_control(self.transport, self.images)
        self.addCleanup(self._stop)
        for number in range(1, self.wanted + 1):
            self.add_host(f"host{number}")
        self.prepare()

    def set(self, **options: Any) -> None:
        """Set options for the time of the test."""
        for name, value in options.items():
            group, _, option = name.rpartition("__")
            self.conf.config(group=group or None, **{option: value})

    def add_host(self, name: str, start: bool = True, **facts: Any) -> Host:
        """One more host."""
        host = Host(self, name, **facts)
        self.hosts.append(host)
        return host.start() if start else host

    @property
    def host(self) -> Host:
        """The first host."""
        return self.hosts[0]

    def _stop(self) -> None:
        for one in (*self.hosts, self.control):
            one.stop()

    # -- as a tenant -------------------------------------------------------------------------
    def prepare(self) -> None:
        """An image ``tiny``, a flavor ``small``."""
        path = os.path.join(self.root, "tiny.raw")
        with open(path, "wb") as file:
            file.truncate(1 << 20)
        self.control.image_create("tiny", path, disk_format="raw")
        self.control.flavor_create("small", vcpus=1, ram=64, disk=1)

    def network(self) -> None:
        """A network ``net``, unless it is there."""
        if not self.control.network_list():
            self.control.network_create("net", "192.0.2.0/24")

    def create(self, name: str = "web", **kwargs: Any) -> dict[str, Any]:
        """Ask for a server."""
        return self.control.server_create(name, "tiny", "small", **{"networks": "none", **kwargs})

    def boot(self, name: str = "web", **kwargs: Any) -> str:
        """A server that runs; returns its uuid."""
        uuid = self.create(name, **kwargs)["id"]
        self.wait_for(uuid, states.ACTIVE)
        for host in self.hosts:
            host.at_rest()
        return uuid

    def show(self, uuid: str) -> dict[str, Any]:
        """A server as the control plane has it."""
        return self.control.server_show(uuid)

    def wait_for(self, uuid: str, vm_state: str) -> dict[str, Any]:
        """Wait until a server is in this state and has no task."""
        def there() -> dict[str, Any] | None:
            now = self.show(uuid)
            return now if now["vm_state"] == vm_state and not now["task_state"] else None

        return wait_until(there, lambda: self.story(uuid))

    def story(self, uuid: str) -> str:
        """A server and what the journals say, for a test that waits in vain."""
        return "\n".join([str(self.show(uuid)), *(h.story() for h in self.hosts if h.agent)])

    # -- behind everybody's back -------------------------------------------------------------
    def change(self, uuid: str, **values: Any) -> None:
        """Write to a server's row in the control plane's database."""
        with self.control.store.begin() as connection:
            instances.save(connection, uuid, values)

    def instance(self, uuid: str) -> dict[str, Any]:
        """A server as an Instance object, as the API would send it."""
        with self.control.store.begin() as connection:
            return load(Call(connection, admin_context()), C.uuid == uuid, attrs=SENT_ALL)[0]

    # -- as somebody on the broker -----------------------------------------------------------
    def client(self, version: str = "6.0", topic: str = "compute", host: str = HOST,
               **target: Any) -> Any:
        """A bare RPC client of a host's agent."""
        client = oslo_messaging.get_rpc_client(
            self.transport, oslo_messaging.Target(topic=topic, **target),
            serializer=ContextSerializer(), timeout=PATIENCE)
        return client.prepare(server=host, version=version)

    def cast(self, uuid: str, method: str, request_id: str | None = None, **args: Any) -> None:
        """Send a message about a server, as it is now."""
        self.client().cast(admin_context(request_id), method,
                           **{"instance": self.instance(uuid), **args})


class AgentTest(testtools.TestCase):
    """A cloud for each test; ``options`` are those of :class:`Cloud`."""

    hosts = 1
    passes = False
    options: Mapping[str, Any] = {}

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.cloud = self.useFixture(Cloud(self.hosts, self.passes, **self.options))
        self.control = self.cloud.control

    @property
    def host(self) -> Host:
        return self.cloud.host

    def assert_clean(self, host: Host | None = None) -> None:
        """Nothing goes on, and every invariant holds."""
        host = host or self.host
        host.at_rest()
        self.assertEqual([], host.findings())
        secrets = os.listdir(host.root / "secrets")
        self.assertEqual([], secrets)

    def assert_ended(self, state: str, uuid: str, verb: str, host: Host | None = None) -> Any:
        """The newest operation of a verb ended so; returns its row."""
        host = host or self.host
        host.at_rest()
        row = host.operations(uuid, verb)[-1]
        self.assertEqual(state, row.state, row.error)
        return row

    def assert_speaks(self, error: Any) -> None:
        """An error that people see says what happened, what is true now, and what to do."""
        for part in ("what", "now", "next"):
            text = error[part] if isinstance(error, Mapping) else getattr(error, part)
            self.assertTrue(text and text.strip(), f"{part} is missing: {error}")


class SharedTest(AgentTest):
    """The tests of a class share one cloud: each uses servers of its own."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.shared = Cloud(cls.hosts, cls.passes, **cls.options)
        cls.shared.setUp()
        cls.addClassCleanup(cls.shared.cleanUp)

    def setUp(self) -> None:
        testtools.TestCase.setUp(self)
        self.log = self.useFixture(fixtures.FakeLogger())
        self.cloud, self.control = self.shared, self.shared.control
        self.addCleanup(self._unhook)

    def _unhook(self) -> None:
        for host in self.cloud.hosts:
            host.hook = lambda method, when: None


class Once:
    """A driver's hook that raises an error a number of times, at one moment of one method."""

    def __init__(self, method: str, error: Callable[[], Exception], when: str = "before",
                 times: int = 1):
        self.method, self.error, self.when, self.left = method, error, when, times

    def __call__(self, method: str, when: str) -> None:
        if (method, when) == (self.method, self.when) and self.left > 0:
            self.left -= 1
            raise self.error()


class Gate:
    """A driver's hook that holds one method up until it is opened."""

    def __init__(self, method: str):
        self.method, self.reached, self.open = method, False, False

    def __call__(self, method: str, when: str) -> None:
        if (method, when) == (self.method, "before"):
            self.reached = True
            wait_until(lambda: self.open)

    def wait(self) -> None:
        """Until somebody stands at it."""
        wait_until(lambda: self.reached)


def network_info(prim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The NICs in an Instance's info cache."""
    cache = primitives.data(primitives.data(prim).get("info_cache"))
    return json.loads(cache.get("network_info") or "[]")
