"""Hosts between which guests move: real managers and reconcilers on fake hypervisors."""

from __future__ import annotations

import uuid as uuids
from typing import Any

import fixtures
import testtools

from compute.engine.world import World
from compute.manager import Manager
from compute.model import states
from compute.operator.moves import MoveVerbs
from compute.recovery.invariants import check
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler
from compute.rpc.primitives import data, make
from db.journal import OperationRow
from tests import fakes
from tests.functional.control_support import wait_until

CONTEXT = {"request_id": "req-1", "is_admin": True, "roles": ["admin"], "user_id": "u",
           "project_id": "p"}


class Agent:
    """The agent of one host; ``die`` and ``start`` as often as wanted."""

    def __init__(self, hosts: Hosts, name: str):
        self.hosts, self.name = hosts, name

    def start(self) -> Agent:
        """A new process on what there is."""
        self.world: World = self.hosts.worlds()[self.name]
        self.manager = Manager(self.world)
        self.reconciler = Reconciler(self.manager, CONTEXT)
        verbs = MoveVerbs(self.reconciler)
        self.verbs = verbs
        self.hosts.exchange.join(self.name, self.manager, {
            name: getattr(verbs, name) for name in dir(verbs) if not name.startswith("_")})
        self.reconciler.resume()
        return self

    def stop(self) -> None:
        """It parks and leaves, as at SIGTERM."""
        self.hosts.exchange.leave(self.name)
        self.manager.park(5)

    def operations(self, guest: str, verb: str | None = None) -> list[OperationRow]:
        return [row for row in self.world.journal.find(guest=guest) if verb in (None, row.verb)]

    def at_rest(self, seconds: float = 20) -> None:
        """Wait until nothing goes on."""
        wait_until(lambda: not self.world.journal.find(active=True)
                   and not self.manager.running(), seconds)


class Hosts(fixtures.Fixture):
    """Hosts with agents, and one control plane."""

    def __init__(self, *names: str, shared: bool = False):
        super().__init__()
        self.names, self.shared = names or ("host1", "host2"), shared

    def _setUp(self) -> None:
        self.root = self.useFixture(fixtures.TempDir()).path
        self.exchange = fakes.Exchange()
        self.agents = {name: Agent(self, name) for name in self.names}
        for agent in self.agents.values():
            agent.start()
            self.addCleanup(agent.stop)

    def worlds(self) -> dict[str, World]:
        return fakes.worlds(self.root, self.names, exchange=self.exchange, shared=self.shared)

    def __getitem__(self, name: str) -> Agent:
        return self.agents[name]

    @property
    def conductor(self) -> Any:
        return next(iter(self.agents.values())).world.conductor

    @property
    def fabric(self) -> Any:
        return next(iter(self.agents.values())).world.driver.fabric


class LiveTest(testtools.TestCase):
    """Two hosts, and a guest that runs on the first."""

    names = ("host1", "host2")
    shared = False

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.hosts = self.useFixture(Hosts(*self.names, shared=self.shared))
        self.one, self.two = (self.hosts[name] for name in self.names[:2])
        self.conductor = self.hosts.conductor

    def boot(self) -> str:
        """A guest that runs on the first host; returns its uuid."""
        prim = fakes.instance()
        self.conductor.add(prim)
        uuid = data(prim)["uuid"]
        self.one.manager.accept("spawn", uuid, f"req-{uuids.uuid4()}",
                                fakes.build_args(prim), CONTEXT)
        self.one.at_rest()
        self.assertEqual("active", self.conductor.fields(uuid)["vm_state"])
        return uuid

    def migrate(self, uuid: str, block: bool | None = None, check: bool = True,
                source: Agent | None = None, dest: Agent | None = None) -> int:
        """What the conductor does to move a guest; returns the migration's id."""
        source, dest = source or self.one, dest or self.two
        prim = self.conductor.set(uuid, task_state=states.MIGRATING)
        migration = fakes.migration(uuid, source.name, dest.name, migration_type="live-migration",
                                    status="accepted")
        self.conductor.add_migration(migration)
        context = {**CONTEXT, "request_id": f"req-{uuids.uuid4()}"}
        answer = make("LibvirtLiveMigrateData", {})
        if check:
            answer = source.world.peers.call(
                context, dest.name, "check_can_live_migrate_destination", instance=prim,
                block_migration=block, disk_over_commit=False, migration=migration, limits=None)
        source.world.peers.cast(
            context, source.name, "live_migration", dest=dest.name, instance=prim,
            block_migration=block, migration=migration, migrate_data=answer)
        return data(migration)["id"]

    @staticmethod
    def wait(condition: Any, seconds: float = 20) -> None:
        """Wait until it is true."""
        wait_until(condition, seconds)

    def settled(self, uuid: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until both agents rest; returns the guest's record."""
        for name in self.names:
            self.hosts[name].at_rest(seconds)
        return self.conductor.fields(uuid)

    def assert_on(self, uuid: str, agent: Agent, vm_state: str = "active") -> None:
        """The guest is on this host and nowhere else, and nothing is left over anywhere."""
        fields = self.settled(uuid)
        self.assertEqual((agent.name, vm_state, None),
                         (fields["host"], fields["vm_state"], fields["task_state"]))
        self.assertEqual([], self.hosts.fabric.violations())
        for name in self.names:
            here = self.hosts[name].world
            self.assertEqual(name == agent.name, here.driver.state(uuid) is not None, name)
            if not self.shared:
                self.assertEqual(name == agent.name, uuid in here.driver.guest_dirs(), name)
            if name != agent.name:
                self.assertEqual([], here.journal.claims(guest=uuid), name)
            seen = observe(here, CONTEXT)
            self.assertEqual([], check(seen), name)
