"""Hosts between which guests move: real managers and reconcilers on fake hypervisors."""

from __future__ import annotations

import itertools
import uuid as uuids
from typing import Any

import fixtures
import testtools

from compute.engine.world import World
from compute.manager import Manager
from compute.model import states
from compute.model.move import PRECOPY
from compute.operator.moves import MoveVerbs
from compute.recovery.invariants import check
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler
from compute.rpc.primitives import data, make, with_own
from db.journal import OperationRow
from tests import fakes
from tests.waiting import PATIENCE, Haste, wait_until

CONTEXT = {"request_id": "req-1", "is_admin": True, "roles": ["admin"], "user_id": "u",
           "project_id": "p"}
_migrations = itertools.count(7)


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
        self.manager.park(PATIENCE)

    def operations(self, guest: str, verb: str | None = None) -> list[OperationRow]:
        return [row for row in self.world.journal.find(guest=guest) if verb in (None, row.verb)]

    def rests(self) -> bool:
        """Whether nothing goes on."""
        return not self.world.journal.find(active=True) and not self.manager.running()

    def at_rest(self) -> None:
        """Wait until nothing goes on here; more may be on its way from another host."""
        wait_until(self.rests, self.story)

    def story(self) -> str:
        """What the journal says, for a test that waits in vain."""
        return "\n".join(
            f"{self.name}: {row.verb} {row.state} at {row.step}: {row.message} {row.error}"
            for row in self.world.journal.find())


class Hosts(fixtures.Fixture):
    """Hosts with agents, and one control plane."""

    def __init__(self, *names: str, shared: bool = False):
        super().__init__()
        self.names, self.shared = names or ("host1", "host2"), shared

    def _setUp(self) -> None:
        self.useFixture(Haste())
        self.root = self.useFixture(fixtures.TempDir()).path
        self.exchange = fakes.Exchange()
        self.agents = {name: Agent(self, name) for name in self.names}
        for agent in self.agents.values():
            agent.start()
            self.addCleanup(agent.stop)

    def at_rest(self) -> None:
        """Wait until nothing goes on anywhere."""
        agents = self.agents.values()

        def begun() -> int:
            return sum(len(agent.world.journal.find()) for agent in agents)

        def rest() -> bool:
            before = begun()
            # While one is looked at, another may hand over to one that was seen at rest.
            return all(agent.rests() for agent in agents) and begun() == before

        wait_until(rest, self.story)

    def story(self) -> str:
        """What the journals say, for a test that waits in vain."""
        return "\n".join(agent.story() for agent in self.agents.values())

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
                source: Agent | None = None, dest: Agent | None = None, **asked: Any) -> int:
        """What the conductor does to move a guest; returns the migration's id."""
        source, dest = source or self.one, dest or self.two
        prim = self.conductor.set(uuid, task_state=states.MIGRATING)
        migration = fakes.migration(uuid, source.name, dest.name, migration_type="live-migration",
                                    status="accepted", id=next(_migrations))
        self.conductor.add_migration(migration)
        context = {**CONTEXT, "request_id": f"req-{uuids.uuid4()}"}
        answer = make("LibvirtLiveMigrateData", {})
        if check:
            answer = source.world.peers.call(
                context, dest.name, "check_can_live_migrate_destination", instance=prim,
                block_migration=block, disk_over_commit=False, migration=migration, limits=None)
        if asked:
            answer = with_own(answer, {"asked": asked})
        source.world.peers.cast(
            context, source.name, "live_migration", dest=dest.name, instance=prim,
            block_migration=block, migration=migration, migrate_data=answer)
        return data(migration)["id"]

    def assert_whole_console(self, uuid: str, agent: Agent) -> None:
        """What the guest wrote to its console since it booted is on this host, and in order."""
        driver = agent.world.driver
        lines = driver.console_log(uuid, 1 << 20).decode().split()
        numbers = [int(line) for line in lines if line != "UP"]
        self.assertEqual(list(range(1, driver.count_on_disk(uuid) + 1)), numbers)

    def halted(self, uuid: str, phase: str = PRECOPY, **kwargs: Any) -> int:
        """Move a guest, and let it stand in this phase until the fabric's ``hold`` is lifted.

        The monitor has seen it so. Returns the migration's id.
        """
        self.hosts.fabric.set(hold=True)
        moving = self.migrate(uuid, **kwargs)
        driver = self.one.world.driver
        self.wait(lambda: self.job(uuid) == "out")
        self.wait(lambda: (self.hosts.fabric.move(uuid) or {}).get("phase") == phase
                  or driver.notch(uuid, held=True))
        self.under_way(uuid, phase)
        return moving

    def job(self, uuid: str) -> str | None:
        """The migration that a guest of the first host is on; None when the guest is gone."""
        found = self.one.world.driver.state(uuid)
        return found.job if found else None

    def under_way(self, uuid: str, phase: str) -> None:
        """Wait until the monitor of a migration sees this phase; a held one does not leave it."""
        self.wait(lambda: (self.one.verbs.migration_progress(uuid) or {}).get("phase") == phase)

    def tell(self, method: str, uuid: str, **args: Any) -> None:
        """Cast to the first host's agent about a guest, as the broker would deliver it."""
        self.one.world.peers.cast(
            {**CONTEXT, "request_id": f"req-{uuids.uuid4()}"}, self.one.name, method,
            instance=self.conductor.instance(None, uuid), **args)

    def wait(self, condition: Any) -> None:
        """Wait until it is true."""
        wait_until(condition, self.hosts.story)

    def settled(self, uuid: str) -> dict[str, Any]:
        """Wait until all agents rest; returns the guest's record."""
        self.hosts.at_rest()
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
