"""Two agents, a control plane and a broker on one thread; a seed decides everything.

All that could happen next is a list of events with times. The seed picks among those that are due;
when none is, time moves on. While a call into the outside is under way, or something waits, other
events may happen in between, as they do between threads and hosts.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from compute.errors import Refused
from compute.model import states
from compute.operator.verbs import OperatorVerbs
from db.journal import rows
from tests import fakes
from tests.simulation.broker import Broker
from tests.simulation.clock import FakeClock
from tests.simulation.control import ControlPlane
from tests.simulation.faults import Faults
from tests.simulation.host import Death, Host
from tests.simulation.watch import Violation, Watch

HOSTS = ["host1", "host2"]
DEPTH = 3  # how many events may lie inside each other
CONVERGED = 20 * 60.0  # virtual seconds in which all must be at rest afterwards
PASSES = 2  # quiet passes of each agent that count as rest
RETRY = "magnetar op resolve {} --as retry"


@dataclass(frozen=True)
class Event:
    """Something that can happen at a time; ``host`` is whose journal it may change."""

    time: float
    what: str
    do: Callable[[], None]
    host: Host | None = None


class Simulation:
    """One run.

    :param seed: decides everything.
    :param root: an empty directory for what is on the hosts' disks.
    """

    def __init__(self, seed: int, root: pathlib.Path):
        self.rng = rng = random.Random(seed)
        self.clock = FakeClock()
        self.began = self.clock.time
        self.lines: list[str] = []
        self.faults = Faults(rng, HOSTS)
        self.depth = 0
        self.broker = Broker(self.faults, self.clock.now, self.log)
        self.control = ControlPlane(HOSTS, rng, self.clock.now, self.broker.cast)
        self.ports = root / "ports"
        self.exchange = fakes.Exchange()
        self.watcher = Watch(self)
        self.hosts: list[Host] = []
        obedient, resume = rng.random() < 0.7, rng.random() < 0.5
        for name in self.control.hosts:
            self.hosts.append(Host(self, name, root / name, obedient=obedient, resume=resume))
        self.plan = self._plan()
        self.log(f"seed {seed}: {self.faults}")

    # -- the log ------------------------------------------------------------------------------
    def log(self, line: str) -> None:
        self.lines.append(f"{self.clock.time - self.began:9.3f} {'  ' * self.depth}{line}")

    # -- what will happen ---------------------------------------------------------------------
    def _plan(self) -> list[Event]:
        """Tenants' wishes and misfortunes, at random times."""
        rng = self.rng

        happenings: dict[str, Callable[[], None]] = {
            "create": self._create, "ask": self._ask, "delete": self._delete,
            "kill": self._kill, "boot": self._boot, "virsh": self._virsh,
            "park": self._park, "abort": self._abort,
            "conductor away": lambda: self._outage("conductor"),
            "driver away": lambda: self._outage("driver"),
        }
        def some_time(first: bool) -> float:
            return self.began if first else self.began + rng.uniform(0, self.faults.seconds)

        return [Event(some_time(what == "create" and number == 0),
                      what, do)
                for what, do in happenings.items() for number in range(self.faults.events[what])]

    def events(self) -> list[Event]:
        """All that could happen next."""
        found = list(self.plan)
        for host in self.hosts:
            if not host.up:
                found.append(Event(host.starts_at, f"{host.name} starts", host.start, host))
                continue
            for operation, due in host.manager.due().items():
                found.append(Event(due - host.skew, "", _step(host, operation), host))
            if not host.passing:
                found.append(Event(host.next_pass, f"{host.name} makes a pass", host.one_pass,
                                   host))
        for message in self.broker.on_their_way:
            host = next((h for h in self.hosts if h.name == message.target), None)
            if host is None or host.up:
                found.append(Event(message.due, "", self._delivery(message, host), host))
        return found

    def _delivery(self, message, host: Host | None) -> Callable[[], None]:
        def deliver() -> None:
            self.broker.take(message)
            if host is None:
                self.control.build(message.body)
            else:
                host.receive(message.what, message.body)
        return deliver

    # -- making it happen ---------------------------------------------------------------------
    def tick(self, until: float | None = None) -> bool:
        """Let one event happen; False when there is none until a time (None: wait for one)."""
        events = self.events()
        now = self.clock.time
        due = [e for e in events if e.time <= now]
        if not due:
            first = min((e.time for e in events), default=None)
            if first is None or (until is not None and first > until):
                return False
            self.clock.time = first
            due = [e for e in events if e.time <= first]
        self._happen(self.rng.choice(due))
        return True

    def _happen(self, event: Event) -> None:
        if event in self.plan:
            self.plan.remove(event)
        if event.what:
            self.log(event.what)
        self.depth += 1
        try:
            event.do()
        except Death as death:
            self._bury(death.host, death.life)
        finally:
            self.depth -= 1
        if event.host is not None:
            self.watcher.journal(event.host)
        self.control.give_up_lost_builds()

    def sleep(self, seconds: float) -> None:
        """Time passes for one who waits; others go on."""
        end = self.clock.time + seconds
        while self.depth < DEPTH and self.tick(until=end):
            pass
        self.clock.time = max(self.clock.time, end)

    def call(self, host: Host, life: int, port: str, method: str, when: str) -> None:
        """A call from a process of a host passes here before and after its effect."""
        host.must_live(life)
        call = f"{port}.{method}"
        fate = self.faults.hurts(host.name, call, when) or ""
        if self.depth < DEPTH and ("interleave" in fate or self.faults.strikes("interleave")):
            self.log(f"meanwhile, {when} {host.name}: {call}")
            self._meanwhile(host if fate else None)
            host.must_live(life)
        if when == "before" and self.faults.strikes("slow"):
            self.sleep(self.rng.choice((0.1, 1, 5)))
            host.must_live(life)
        if "killed" in fate or self.faults.strikes("kill"):
            self.log(f"{host.name} is killed {when} {call}")
            raise Death(host, life)
        error = self.faults.of_call(port, when, host.away_until.get(port, 0) > self.clock.time)
        if fate in ("failed", "unreachable", "answer lost"):
            error = self.faults.error(fate)
        if error is not None:
            self.log(f"{host.name}: {call} {when}: {error}")
            raise error

    def _meanwhile(self, host: Host | None) -> None:
        """Others get a turn; or much happens, a wish for a guest of the host among it."""
        if host is None:
            self.tick(until=self.clock.time)
            return
        self._ask(host, delete=self.rng.random() < 0.1)
        for _ in range(self.rng.choice((5, 15, 25))):
            self.tick(until=self.clock.time + 1)

    def watch(self, host: Host, what: str, uuid: str, power: int | None) -> None:
        """An agent is about to do something to a guest."""
        self.watcher.effect(host, what, uuid, power)

    # -- misfortunes --------------------------------------------------------------------------
    def _bury(self, host: Host, life: int) -> None:
        if host.up and host.life == life:
            host.die()
            host.starts_at = self.clock.time + self.rng.choice((0.1, 2, 40))

    def _kill(self) -> None:
        host = self.rng.choice(self.hosts)
        if host.up:
            self.log(f"{host.name} is killed")
            self._bury(host, host.life)

    def _park(self) -> None:
        """The agent is stopped as it should be."""
        host = self.rng.choice(self.hosts)
        if host.up:
            self.log(f"{host.name} is stopped")
            life, manager = host.life, host.manager
            manager.park(manager.world.conf.timeouts.stop)
            self._bury(host, life)

    def _abort(self) -> None:
        """An operator stops an operation."""
        active = [(h, row) for h in self.hosts if h.up for row in h.journal.find(active=True)]
        if active:
            host, row = self.rng.choice(active)
            self.log(f"an operator stops {row.verb} {row.id[:4]} on {host.name}")
            try:
                host.manager.abort(row.id, "an operator stopped it")
            except (Refused, SQLAlchemyError) as error:
                self.log(f"  and is refused: {error}")

    def _boot(self) -> None:
        host = self.rng.choice(self.hosts)
        self.log(f"{host.name} boots")
        for uuid in host.running():
            self.watcher.stopped_by_others[uuid] += 1
            if not host.resume or host.journal.find(guest=uuid, active=True):
                self.watcher.may_be_off.add(uuid)
        if host.up:
            self._bury(host, host.life)
        host.boot()
        host.skew = self.rng.choice((0, 3, -3))

    def _virsh(self) -> None:
        running = [(h, u) for h in self.hosts for u in sorted(h.running())]
        if running:
            host, uuid = self.rng.choice(running)
            self.log(f"virsh destroy {uuid[:8]} on {host.name}")
            self.watcher.stopped_by_others[uuid] += 1
            self.watcher.may_be_off.add(uuid)
            host.driver._write(uuid, {**host.driver._read(uuid),
                                      "power_state": states.SHUTDOWN})
            if self.rng.random() < 0.5:
                host.event(uuid, "stopped")

    def _outage(self, port: str) -> None:
        host = self.rng.choice(self.hosts)
        host.away_until[port] = self.clock.time + self.rng.uniform(1, 60)

    # -- tenants ------------------------------------------------------------------------------
    def _create(self) -> None:
        self.log(f"a tenant creates {self.control.create()[:8]}")

    def _delete(self) -> None:
        self._ask(delete=True)

    def _ask(self, host: Host | None = None, delete: bool = False) -> None:
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
        self.log(f"a tenant asks to {verb} {uuid[:8]}")
        if verb == "stop":
            self.watcher.may_be_off.add(uuid)
        elif verb != "delete":
            self.watcher.may_be_off.discard(uuid)
        self.control.ask(uuid, verb)

    # -- the whole run ------------------------------------------------------------------------
    def run(self) -> None:
        """Trouble, then rest; then, in every other run, everything is deleted.

        :raises Violation: a promise was broken.
        """
        end = self.began + self.faults.seconds
        while self.tick(until=end):
            pass
        self.converge()
        self._require(self.watcher.rest())
        if self.rng.random() < 0.5:
            return
        for uuid in self.control.live():
            self.control.ask(uuid, "delete")
        self.converge()
        self._require([*self.watcher.rest(), *self.watcher.nothing()])

    def converge(self) -> None:
        """Nothing goes wrong any more: all must come to rest."""
        self.log("nothing goes wrong any more")
        self.faults.on = False
        for host in self.hosts:
            host.away_until.clear()
        end = self.clock.time + CONVERGED
        quiet = None  # the passes that each agent has to reach without anything going on
        while self.clock.time < end:
            self._operate()
            if quiet is None or self._busy():
                quiet = {host: host.passes + PASSES for host in self.hosts}
            elif all(host.passes >= quiet[host] for host in self.hosts):
                return
            self.tick()
        raise Violation(f"P1: not at rest after {CONVERGED:g} s: {self._busy()} "
                        f"{self.watcher.rest()}")

    def _busy(self) -> list[str]:
        """What still goes on."""
        return [*(m.what for m in self.broker.on_their_way), *self.control.waits(),
                *(h.name for h in self.hosts if not h.up),
                *(operation for h in self.hosts for operation in h.active())]

    def _operate(self) -> None:
        """An operator runs the command that each operation in need of one states."""
        for host in self.hosts:
            for operation in host.active() if host.up else ():
                row = host.journal.get(operation)
                if row.state != rows.NEEDS_OPERATOR:
                    continue
                command = (row.error or {}).get("next", "")
                if RETRY.format(row.id) not in command:
                    raise Violation(f"P1: {row.verb} {row.id[:4]} states no command: {row.error}")
                self.log(f"an operator retries {row.verb} {row.id[:4]}")
                OperatorVerbs(host.reconciler, {}).op_resolve(row.id, "retry")

    def _require(self, found: list[str]) -> None:
        if found:
            raise Violation("\n".join(["at rest:", *found]))


def _step(host: Host, operation: str) -> Callable[[], None]:
    def step() -> None:
        host.sim.log(f"{host.name}: {host.manager.describe(operation)}")
        host.manager.step(operation)
    return step
