"""One simulated host: what is on its disk, and the agent that comes and goes."""

from __future__ import annotations

import functools
import pathlib
import sqlite3
import uuid as uuids
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.event import listens_for
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from compute.engine.secrets import Secrets
from compute.engine.world import World
from compute.errors import MagnetarError
from compute.model import states
from compute.recovery import reconcile
from compute.recovery.reconcile import Reconciler, restore_claims
from compute.resources.tracker import Tracker
from compute.rpc.primitives import make
from db.engine import migrate, open_engine
from db.journal import Journal, rows
from tests import fakes
from tests.simulation.control import SimConductor
from tests.simulation.manager import SteppedManager
from virt.fake import FakeDriver, hooked

CONTEXT = {"request_id": None, "roles": ["admin"], "is_admin": True}
PASS_SECONDS, DIRTY_SECONDS = 30.0, 3.0  # between passes, and after something changed
ACTIVE = sa.select(rows.operations.c.id).where(rows.operations.c.active)
FOREIGN = "ffffffff-0000-4000-8000-000000000000"


class Death(BaseException):
    """The process of a host's agent ends here; nothing in the product may catch it."""

    def __init__(self, host: Host, life: int):
        super().__init__(f"{host.name}, life {life}")
        self.host, self.life = host, life


class HostClock:
    """The host's clock: virtual time, plus how wrong the machine has it."""

    def __init__(self, host: Host, life: int):
        self.host, self.life = host, life

    def now(self) -> float:
        return self.host.sim.clock.now() + self.host.skew

    def wait(self, seconds: float, wake: Any = None) -> None:
        if wake is None or not wake.is_set():
            self.host.sim.sleep(seconds)
        self.host.must_live(self.life)


class SimDriver(FakeDriver):
    """A hypervisor that tells the simulation, at the moment of the effect, what is done to whom."""

    watch: Callable[[str, str, int | None], None] = staticmethod(lambda what, uuid, power: None)

    def power(self, uuid: str) -> int | None:
        found = self._read(uuid)
        return found["power_state"] if found else None

    def _set_power(self, uuid: str, power_state: int, event: str) -> None:
        before = self.power(uuid)
        if before is not None and before != power_state:
            self.watch("on" if power_state == states.RUNNING else "off", uuid, before)
        super()._set_power(uuid, power_state, event)

    @hooked
    def undefine(self, uuid: str) -> None:
        self.watch("undefine", uuid, self.power(uuid))
        FakeDriver.undefine.__wrapped__(self, uuid)

    @hooked
    def delete_disks(self, uuid: str) -> None:
        self.watch("delete disks of", uuid, self.power(uuid))
        FakeDriver.delete_disks.__wrapped__(self, uuid)

    @hooked
    def quarantine_disks(self, uuid: str) -> str:
        self.watch("quarantine disks of", uuid, self.power(uuid))
        return FakeDriver.quarantine_disks.__wrapped__(self, uuid)


@functools.cache
def _empty_journal() -> sqlite3.Connection:
    engine = open_engine("sqlite://")
    migrate(engine, "journal")
    return engine.raw_connection().driver_connection


@functools.cache
def _engine(name: str) -> Any:
    engine = open_engine("sqlite://")

    @listens_for(engine, "before_cursor_execute")
    def _write(connection, cursor, statement, *more):
        if statement.startswith(("INSERT", "UPDATE", "DELETE")) and _full[name]():
            raise OperationalError(statement, None, sqlite3.OperationalError("disk is full"))

    return engine


_full: dict[str, Callable[[], bool]] = {}  # by host: whether its journal is full now


def new_journal(name: str, full: Callable[[], bool]) -> Any:
    """An empty journal in memory. It outlives the simulated process: each of its transactions is
    whole or not there. The engine is that of the simulation before, whose statements it knows."""
    _full[name] = full
    engine = _engine(name)
    connection = engine.raw_connection()
    _empty_journal().backup(connection.driver_connection)
    connection.close()
    return engine


class Host:
    """A machine. ``life`` counts the processes of its agent; ``manager`` is None while none runs.

    :param sim: the simulation that it is in.
    """

    def __init__(self, sim: Any, name: str, root: pathlib.Path, *, obedient: bool, resume: bool):
        self.sim, self.name, self.root = sim, name, root
        self.obedient, self.resume = obedient, resume
        self.engine = new_journal(name, lambda: sim.faults.strikes("journal full"))
        self.boot_id = root / "boot_id"
        root.mkdir(parents=True)
        self.skew = 0.0
        self.life = 0
        self.manager: SteppedManager | None = None
        self.reconciler: Reconciler | None = None
        self.passing = False
        self.passes = 0  # complete ones
        self.next_pass = self.starts_at = 0.0
        self.away_until: dict[str, float] = {}  # port: time until which it is in an outage
        self.journal = Journal(self.engine, lambda: sim.clock.now() + self.skew)
        self.driver = self._driver()
        self.driver._write(FOREIGN, {"name": "not-ours", "ours": False,
                                     "power_state": states.RUNNING})
        self.boot()

    # -- the machine --------------------------------------------------------------------------
    def boot(self) -> None:
        """The machine starts: no domain runs, and the kernel has a new boot id."""
        self.boot_id.write_text(str(uuids.UUID(int=self.sim.rng.getrandbits(128))))
        for path in self.driver.domains.glob("*.json"):
            if path.stem != FOREIGN:
                self.driver._write(path.stem, {**self.driver._read(path.stem),
                                               "power_state": states.SHUTDOWN})

    def running(self) -> set[str]:
        """Guests that run here."""
        return {p.stem for p in self.driver.domains.glob("*.json")
                if self.driver.power(p.stem) == states.RUNNING} - {FOREIGN}

    def present(self) -> set[str]:
        """Guests of which a domain or disks are here."""
        return ({p.stem for p in self.driver.domains.glob("*.json")} - {FOREIGN}
                | {p.name for p in self.driver.root.iterdir() if len(p.name) == 36})

    def _driver(self) -> SimDriver:
        return SimDriver(self.root / "instances", hostname=self.name,
                         clean_shutdown=self.obedient)

    # -- the agent ----------------------------------------------------------------------------
    @property
    def up(self) -> bool:
        return self.manager is not None

    def must_live(self, life: int) -> None:
        """Raise Death in what an earlier process has left on the stack."""
        if life != self.life or not self.up:
            raise Death(self, life)

    def _hook(self, life: int, port: str) -> Callable[[str, str], None]:
        def hook(method: str, when: str) -> None:
            self.sim.call(self, life, port, method, when)
        return hook

    def world(self) -> World:
        """The world of a new process."""
        conf = fakes.conf(self.root, host=self.name,
                          resume_guests_state_on_host_boot=self.resume)
        conf.timeouts.shutdown = conf.timeouts.soft_reboot = 4
        driver = self._driver()
        conductor = SimConductor(self.sim.control, self.name, self._hook(self.life, "conductor"),
                                 functools.partial(self.sim.watcher.recorded_off, self))
        tracker = Tracker(conf, self.name, self.journal, driver, conductor)
        tracker.facts()
        tracker.record = make("ComputeNode", {"id": 1, "uuid": self.name}, changes=())
        driver.watch = functools.partial(self.sim.watch, self)
        driver.hook = self._hook(self.life, "driver")
        driver.start(self.event)
        return World(
            host=self.name, conf=conf, journal=self.journal, driver=driver, conductor=conductor,
            images=fakes.FakeImages(), inventory=tracker, clock=HostClock(self, self.life),
            peers=fakes.FakePeers(self.sim.exchange, self.name, self._hook(self.life, "peers")),
            networks=fakes.FakeNetworks(self.sim.ports, self._hook(self.life, "networks")),
            secrets=Secrets(self.root / "secrets"))

    def start(self) -> None:
        """A new process of the agent, as compute.agent starts it."""
        self.life += 1
        self.manager = SteppedManager(self.world(), ended=lambda row: self._dirty())
        self.reconciler = Reconciler(self.manager, CONTEXT)
        self.next_pass = self.sim.clock.time + 1
        self._reconcile(self._resume)

    def _resume(self) -> None:
        """What the journal says is going on goes on; without a journal there is no agent."""
        try:
            self.reconciler.resume()
        except SQLAlchemyError as error:
            raise Death(self, self.life) from error

    def die(self) -> None:
        """SIGKILL."""
        self.manager = self.reconciler = None
        self.passing = False

    def event(self, uuid: str, what: str) -> None:
        """libvirt tells that something happened to a guest."""
        if self.up:
            self.manager.wake(uuid)
            self._dirty()

    def _dirty(self) -> None:
        self.next_pass = min(self.next_pass, self.sim.clock.time + DIRTY_SECONDS)

    # -- what it does -------------------------------------------------------------------------
    def one_pass(self) -> None:
        """What compute.agent does on its timer."""
        self.next_pass = self.sim.clock.time + PASS_SECONDS
        reconciler = self.reconciler

        def work() -> None:
            restore_claims(reconciler.world, reconciler.run_pass())
            self.passes += 1

        self._reconcile(work)

    def _reconcile(self, work: Callable[[], Any]) -> None:
        life, kept = self.life, reconcile.BOOT_ID
        reconcile.BOOT_ID = self.boot_id
        self.passing = True
        try:
            work()
        except (MagnetarError, SQLAlchemyError) as error:
            self.sim.log(f"{self.name}: this pass is left for later: {error}")
        finally:
            reconcile.BOOT_ID = kept
            if life == self.life:
                self.passing = False

    def receive(self, what: str, body: dict[str, Any]) -> None:
        """A cast arrives; it is acknowledged already."""
        try:
            row = self.manager.accept(body["verb"], body["guest"],
                                      body["context"]["request_id"], body["args"],
                                      body["context"])
            self.sim.log(f"{self.name}: {what} is operation {row.id[:4]}")
        except MagnetarError as error:
            self.sim.log(f"{self.name}: {what} is refused: {error}")

    def active(self) -> list[str]:
        """Ids of the journal's operations that have not ended."""
        with self.engine.connect() as connection:
            return list(connection.execute(ACTIVE).scalars())
