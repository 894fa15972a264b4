"""What tenants and operators wish for, and what misfortune brings, at times that the seed draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from compute.errors import Refused
from compute.model import states
from tests.simulation.host import Host

FENCED_SECONDS = 20.0  # from a loss of power until somebody has confirmed it


class Happenings:
    """Makes things happen to a simulation.

    :param sim: the simulation.
    """

    def __init__(self, sim: Any):
        self.sim, self.rng, self.control = sim, sim.rng, sim.control

    def plan(self) -> Iterator[tuple[float, str, Callable[[], None]]]:
        """All that will happen: (time, name, what is done)."""
        happenings: dict[str, Callable[[], None]] = {
            "create": self._create, "ask": self.ask, "delete": self._delete, "move": self._move,
            "stop a move": self._stop_move, "kill": self._kill, "boot": self._boot,
            "lose a host": self._lose, "virsh": self._virsh, "park": self._park,
            "abort": self._abort, "cut": self._cut, "trouble": self._trouble,
            "conductor away": lambda: self._outage("conductor"),
            "driver away": lambda: self._outage("driver"),
        }
        began, seconds = self.sim.began, self.sim.faults.seconds
        for what, do in happenings.items():
            for number in range(self.sim.faults.events[what]):
                at_once = what == "create" and number == 0
                yield began if at_once else began + self.rng.uniform(0, seconds), what, do

    def _some_host(self) -> Host:
        return self.rng.choice(self.sim.hosts)

    # -- misfortunes --------------------------------------------------------------------------
    def _kill(self) -> None:
        host = self._some_host()
        if host.up:
            self.sim.log(f"{host.name} is killed")
            self.sim.bury(host)

    def _park(self) -> None:
        """The agent is stopped as it should be."""
        host = self._some_host()
        if host.up:
            self.sim.log(f"{host.name} is stopped")
            life, manager = host.life, host.manager
            manager.park(manager.world.conf.timeouts.stop)
            if life == host.life:
                self.sim.bury(host)

    def _abort(self) -> None:
        """An operator stops an operation."""
        active = [(h, row) for h in self.sim.hosts if h.up for row in h.journal.find(active=True)]
        if active:
            host, row = self.rng.choice(active)
            self.sim.log(f"an operator stops {row.verb} {row.id[:4]} on {host.name}")
            try:
                host.manager.abort(row.id, "an operator stopped it")
            except (Refused, SQLAlchemyError) as error:
                self.sim.log(f"  and is refused: {error}")

    def _lose_power(self, host: Host) -> None:
        watcher = self.sim.watcher
        if host.off:
            return
        for uuid in sorted(host.lose_power()):
            watcher.stopped_by_others[uuid] += 1
            fields = self.control.fields(uuid)
            sure = fields["host"] == host.name and fields["vm_state"] == states.ACTIVE \
                and fields["task_state"] is None
            if not host.resume or not sure or any(
                    h.journal.find(guest=uuid, active=True) for h in self.sim.hosts):
                watcher.may_be_off.add(uuid)

    def _boot(self) -> None:
        host = self._some_host()
        if host.off:
            return
        self.sim.log(f"{host.name} boots")
        self._lose_power(host)
        self.sim.bury(host)
        host.skew = self.rng.choice((0, 3, -3))

    def _lose(self) -> None:
        """A host loses its power; it is fenced, and its guests are evacuated. It comes back while
        that goes on, or later."""
        host = self._some_host()
        if self.control.off or host.off:
            return
        self.sim.log(f"{host.name} is lost")
        self._lose_power(host)
        self.sim.bury(host, self.rng.choice((30, 60, 150)))
        self.sim.sleep(FENCED_SECONDS)
        if not host.off:
            return
        self.control.off.add(host.name)
        self.sim.log(f"{host.name} is fenced")
        while host.off:
            for uuid in self.control.live():
                if self.rng.random() < 0.7 and self.control.evacuate(uuid):
                    self.sim.log(f"an operator evacuates {uuid[:8]}")
                    self._evacuates(uuid, host)
            self.sim.sleep(self.rng.uniform(5, 30))
        self.control.off.discard(host.name)

    def _evacuates(self, uuid: str, host: Host) -> None:
        if self.control.fields(uuid)["vm_state"] != states.STOPPED:
            self.sim.watcher.may_be_off.add(uuid)
        if not host.settings.shared:  # what it wrote is given up: it begins with its image again
            self.sim.fabric.set_written(uuid, 0)

    def _virsh(self) -> None:
        running = [(h, u) for h in self.sim.hosts for u in sorted(h.running())]
        if running:
            host, uuid = self.rng.choice(running)
            self.sim.log(f"virsh destroy {uuid[:8]} on {host.name}")
            self.sim.watcher.stopped_by_others[uuid] += 1
            self.sim.watcher.may_be_off.add(uuid)
            host.driver.stop_domain(uuid)
            if self.rng.random() < 0.5:
                host.event(uuid, "stopped")

    def _outage(self, port: str) -> None:
        self._some_host().away_until[port] = self.sim.clock.time + self.rng.uniform(1, 60)

    def _cut(self) -> None:
        """Nothing passes between hosts, or between hypervisors, or both, for a while."""
        fabric, pair = self.sim.fabric, frozenset(self.control.hosts)
        which = self.rng.choice(("agents", "hypervisors", "all"))
        self.sim.log(f"{which} are cut off from each other")
        if which != "hypervisors":
            self.sim.exchange.cut.add(pair)
        if which != "agents":
            fabric.set(cut=True)
        self.sim.sleep(self.rng.choice((3, 20, 60)))
        self.sim.log(f"{which} reach each other again")
        self.sim.exchange.cut.discard(pair)
        fabric.set(cut=False)

    def _trouble(self) -> None:
        """Migrations fail in one phase, or a disk is full, for a while."""
        what = self.rng.choice(({"fail_at": "setup"}, {"fail_at": "precopy"},
                                {"fail_at": "switchover"}, {"parted": True},
                                {"disk_full": [self._some_host().name]}))
        self.sim.log(f"trouble: {what}")
        self.sim.fabric.set(**what)
        self.sim.sleep(self.rng.uniform(5, 60))
        self.sim.fabric.set(fail_at=None, disk_full=[], parted=False)

    # -- tenants ------------------------------------------------------------------------------
    def _create(self) -> None:
        self.sim.log(f"a tenant creates {self.control.create()[:8]}")

    def _delete(self) -> None:
        self.ask(delete=True)

    def _move(self) -> None:
        """Somebody asks for a move that is legal now."""
        found = [(u, verb) for u in self.control.live()
                 if self.control.fields(u)["task_state"] is None
                 for verb in self.control.legal_moves(u)]
        if found:
            uuid, verb = self.rng.choice(found)
            self.sim.log(f"somebody asks to {verb} {uuid[:8]}")
            self.control.move(uuid, verb)

    def _stop_move(self) -> None:
        """An operator aborts a live migration, or forces it to complete."""
        verb, moves = self.rng.choice(("abort", "force")), list(self.control.opened())
        if moves:
            uuid = self.rng.choice(moves).guest
            done = self.control.stop_live(uuid, verb)
            self.sim.log(f"an operator asks to {verb} the move of {uuid[:8]}"
                         f"{'' if done else ', which is refused'}")

    def ask(self, host: Host | None = None, delete: bool = False) -> None:
        """A tenant asks for something that is legal now; for a guest of a host if one is named."""
        guests = [u for u in self.control.live()
                  if host is None or self.control.fields(u)["host"] == host.name]
        if not guests:
            return
        stopped = [u for u in guests if self.control.fields(u)["vm_state"] == states.STOPPED]
        uuid = self.rng.choice(stopped if stopped and host else guests)
        verbs = ["delete"] if delete else self.control.legal(uuid)
        if not verbs:
            return  # it is busy
        verb = self.rng.choice(verbs)
        self.sim.log(f"a tenant asks to {verb} {uuid[:8]}")
        if verb in ("stop", "soft_delete"):
            self.sim.watcher.may_be_off.add(uuid)
        elif verb in ("start", "reboot", "hard-reboot", "unrescue", "restore"):
            self.sim.watcher.may_be_off.discard(uuid)
        self.control.ask(uuid, verb)
