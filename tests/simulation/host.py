"""One simulated host: what is on its disk, and the agent that comes and goes."""

from __future__ import annotations

import functools
import pathlib
import sqlite3
import uuid as uuids
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from compute.recovery.resizes import Resizes
from compute.resources.tracker import Tracker
from compute.rpc.primitives import make
from compute.rpc.server import Handlers
from db.engine import migrate, open_engine
from db.journal import Journal, rows
from tests import fakes
from tests.fake_peers import serve
from tests.simulation.control import SimConductor
from tests.simulation.hypervisor import SimDriver
from tests.simulation.manager import SteppedManager
from tests.simulation.tasks import Death

CONTEXT = {"request_id": None, "roles": ["admin"], "is_admin": True}
PASS_SECONDS, DIRTY_SECONDS = 30.0, 3.0  # between passes, and after something changed
ACTIVE = sa.select(rows.operations.c.id).where(rows.operations.c.active)
FOREIGN = "ffffffff-0000-4000-8000-000000000000"


class HostClock:
    """The host's clock: virtual time, plus how wrong the machine has it."""

    def __init__(self, host: Host, life: int):
        self.host, self.life = host, life

    def now(self) -> float:
        return self.host.sim.clock.now() + self.host.skew

    def wait(self, seconds: float, wake: Any = None) -> None:
        self.host.must_live(self.life)
        if wake is None or not wake.is_set():
            self.host.sim.sleep(seconds, wake)
        self.host.must_live(self.life)


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


@dataclass(frozen=True)
class Settings:
    """How the machines and agents of a simulation are set up: whether guests obey a shutdown,
    whether disks are shared, and options: ``plain`` ones and those of [libvirt]."""

    obedient: bool
    resume: bool
    shared: bool
    plain: Mapping[str, Any]
    libvirt: Mapping[str, Any]


class Host:
    """A machine. ``life`` counts the processes of its agent; ``manager`` is None while none runs.

    :param sim: the simulation that it is in.
    """

    def __init__(self, sim: Any, name: str, root: pathlib.Path, settings: Settings):
        self.sim, self.name, self.root, self.settings = sim, name, root, settings
        self.resume = settings.resume
        self.engine = new_journal(name, lambda: sim.faults.strikes("journal full"))
        self.boot_id = root / "boot_id"
        root.mkdir(parents=True)
        self.skew = 0.0
        self.life = 0
        self.off = False  # without power
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
        self.driver.fabric.up(self.name)
        self.off = False

    def lose_power(self) -> set[str]:
        """The machine goes off; returns the guests that were on."""
        self.off = True
        was = self.driver.cut_power() - {FOREIGN}
        self.driver._write(FOREIGN, {**self.driver._read(FOREIGN), "power_state": states.RUNNING})
        self.driver.fabric.down(self.name)
        return was

    def _defined(self) -> set[str]:
        return {p.stem for p in self.driver.domains.glob("*.json")} - {FOREIGN}

    def running(self) -> set[str]:
        """Guests that run here."""
        return {uuid for uuid in self._defined() if self.driver.power(uuid) == states.RUNNING}

    def present(self) -> set[str]:
        """Guests of which a domain or disks are here; of shared disks only what a domain has."""
        disks = set() if self.settings.shared else {
            p.name for p in self.driver.place.iterdir() if len(p.name) == 36}
        return self._defined() | disks

    def _driver(self) -> SimDriver:
        driver = SimDriver(self.root / "instances", hostname=self.name,
                           clean_shutdown=self.settings.obedient, shared=self.settings.shared,
                           fabric=self.sim.fabric.path)
        driver.now = self.sim.clock.now
        return driver

    # -- the agent ----------------------------------------------------------------------------
    @property
    def up(self) -> bool:
        return self.manager is not None

    def must_live(self, life: int) -> None:
        """Raise Death in what an earlier process has left on the stack."""
        if life != self.life or not self.up or self.sim.over:
            raise Death(self.name, life)

    def _hook(self, life: int, port: str) -> Callable[[str, str], None]:
        def hook(method: str, when: str) -> None:
            self.sim.call(self, life, port, method, when)
        return hook

    def world(self) -> World:
        """The world of a new process."""
        conf = fakes.conf(self.root, host=self.name,
                          resume_guests_state_on_host_boot=self.resume, **self.settings.plain)
        vars(conf.libvirt).update(self.settings.libvirt)
        conf.timeouts.shutdown = conf.timeouts.soft_reboot = 4
        driver = self._driver()
        conductor = SimConductor(self.sim.control, self.name, self._hook(self.life, "conductor"),
                                 functools.partial(self.sim.watcher.recorded_off, self))
        conductor.storage = lambda other: driver.storage if self.settings.shared else other
        tracker = Tracker(conf, self.name, self.journal, driver, conductor)
        tracker.facts()
        tracker.record = make("ComputeNode", {"id": 1, "uuid": self.name}, changes=())
        driver.watch = functools.partial(self.sim.watcher.effect, self)
        driver.gone = functools.partial(self.sim.watcher.gone, self)
        driver.departs = self.sim.traffic.departs
        driver.hook = self._hook(self.life, "driver")
        driver.start(self.event)
        return World(
            host=self.name, conf=conf, journal=self.journal, driver=driver, conductor=conductor,
            images=fakes.FakeImages(self.sim.ports.with_name("images")), inventory=tracker,
            clock=HostClock(self, self.life),
            peers=fakes.FakePeers(self.sim.exchange, self.name, self._hook(self.life, "peers")),
            networks=fakes.FakeNetworks(self.sim.ports, self._hook(self.life, "networks")),
            volumes=fakes.FakeVolumes(self.sim.ports.with_name("volumes")),
            secrets=Secrets(self.root / "secrets"))

    def start(self) -> None:
        """A new process of the agent, as compute.agent starts it; the machine boots before if it
        had no power."""
        if self.off:
            self.boot()
        self.life += 1
        self.manager = SteppedManager(self.world(), ended=lambda row: self._dirty())
        self.handlers = Handlers(self.manager)
        self.reconciler = Reconciler(self.manager, CONTEXT)
        self.resizes = Resizes(self.manager, CONTEXT)
        self.sim.exchange.join(self.name, self.manager)
        self.next_pass = self.sim.clock.time + 1
        self._reconcile(self._resume)

    def _resume(self) -> None:
        """What the journal says is going on goes on; without a journal there is no agent."""
        try:
            self.reconciler.resume()
        except SQLAlchemyError as error:
            raise Death(self.name, self.life) from error

    def die(self) -> None:
        """SIGKILL."""
        self.manager = self.reconciler = None
        self.passing = False
        self.sim.exchange.leave(self.name)

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
            self.resizes.run_pass()
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
            serve(self.handlers, body["context"], body["method"], body["args"])
        except (MagnetarError, NotImplementedError) as error:
            self.sim.log(f"{self.name}: {what} is refused: {error}")

    def active(self) -> list[str]:
        """Ids of the journal's operations that have not ended."""
        with self.engine.connect() as connection:
            return list(connection.execute(ACTIVE).scalars())
