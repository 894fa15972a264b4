"""Two agents, a control plane and a broker on one thread; a seed decides everything.

All that could happen next is a list of events with times. The seed picks among those that are due;
when none is, time moves on. While a call into the outside is under way, or something waits, other
events may happen in between, as they do between threads and hosts: each runs as a task of
tests.simulation.tasks. What tenants, operators and misfortune do is in tests.simulation.happenings.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from compute.errors import Unknown
from compute.operator.verbs import OperatorVerbs
from compute.rpc.peer import SIGN_OF_LIFE
from db.journal import rows
from tests.fake_peers import Exchange, serve
from tests.simulation.broker import Broker
from tests.simulation.clock import FakeClock
from tests.simulation.control import ControlPlane
from tests.simulation.faults import Faults
from tests.simulation.happenings import Happenings
from tests.simulation.host import Host, Settings
from tests.simulation.hypervisor import Traffic
from tests.simulation.moving import CALL_SECONDS
from tests.simulation.rest import Rest
from tests.simulation.tasks import Death, Task, Tasks
from tests.simulation.watch import Violation, Watch
from virt.fake_state import Fabric

HOSTS = ["host1", "host2"]
CONVERGED = 20 * 60.0  # virtual seconds in which all must be at rest afterwards
CARE_SECONDS = 20.0  # between two looks of the control plane at its moves
PASSES = 2  # quiet passes of each agent that count as rest
RETRY = "magnetar op resolve {} --as retry"


@dataclass(frozen=True)
class Event:
    """Something that can happen at a time: ``do`` begins, or ``task`` goes on. ``host`` is whose
    journal it may change; empty for none."""

    time: float
    what: str
    do: Callable[[], Any] | None = None
    host: str = ""
    task: Task | None = None


class SimExchange(Exchange):
    """Agents hear each other over the simulated broker."""

    def __init__(self, sim: Simulation):
        super().__init__()
        self.sim, self.carry = sim, sim.carry

    def cast(self, host: str, context: dict, method: str, args: dict) -> None:
        guest = args["instance"]["nova_object.data"]["uuid"]
        self.sim.broker.cast(host, f"{method} {guest[:8]}", {
            "method": method, "guest": guest, "context": context, "args": args})


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
        self.tasks, self.over = Tasks(self.clock), False
        self.broker = Broker(self.faults, self.clock.now, self.log)
        self.control = ControlPlane(HOSTS, rng, self.clock.now, self.broker.cast)
        self.control.spawn = lambda work: self.tasks.add("control", work)
        self.control.ask_host = self.ask_host
        self.control.resends = rng.random() < 0.6
        self.ports = root / "ports"
        self.exchange = SimExchange(self)
        self.fabric = Fabric(root / "fabric")
        self.traffic = Traffic(self.fabric, rng, self.clock.now)
        self.watcher, self.rest = Watch(self), Rest(self)
        self.hosts: list[Host] = []
        settings = self._settings(rng)
        for name in self.control.hosts:
            self.hosts.append(Host(self, name, root / name, settings))
        self.next_care = self.began + CARE_SECONDS
        self.dying: list[str] = []  # hosts whose agents' tasks are to end
        self.happenings = Happenings(self)
        self.plan = [Event(time, what, do) for time, what, do in self.happenings.plan()]
        self.log(f"seed {seed}: {self.faults}, {settings}")

    def _settings(self, rng: random.Random) -> Settings:
        return Settings(
            obedient=rng.random() < 0.7, resume=rng.random() < 0.5,
            shared=rng.random() < self.faults.shared,
            plain={"resize_confirm_window": rng.choice((0, 0, 30)),
                   "max_concurrent_live_migrations": rng.choice((1, 1, 2)),
                   "max_concurrent_live_migrations_per_link": rng.choice((1, 2)),
                   "max_concurrent_incoming_live_migrations": rng.choice((1, 2))},
            libvirt={"live_migration_permit_post_copy": rng.random() < 0.3,
                     "live_migration_timeout_action": rng.choice(("abort", "force_complete")),
                     "live_migration_completion_timeout": rng.choice((20, 800))})

    def host(self, name: str) -> Host | None:
        """A host by its name; None for the conductor."""
        return next((h for h in self.hosts if h.name == name), None)

    # -- the log ------------------------------------------------------------------------------
    def log(self, line: str) -> None:
        self.lines.append(f"{self.clock.time - self.began:9.3f} {line}")

    # -- what will happen ---------------------------------------------------------------------
    def events(self) -> list[Event]:
        """All that could happen next."""
        found = [*self.plan, Event(self.next_care, "", self._care)]
        found += [Event(self.tasks.due(t), "", host=t.owner, task=t) for t in self.tasks.waiting]
        found += [Event(time, "", self._notch(uuid)) for uuid, time in self.traffic.next.items()]
        for host in self.hosts:
            if not host.up:
                found.append(Event(host.starts_at, f"{host.name} starts", host.start, host.name))
                continue
            for operation, due in host.manager.due().items():
                found.append(Event(due - host.skew, "", _step(host, operation), host.name))
            if not host.passing:
                found.append(Event(host.next_pass, f"{host.name} makes a pass", host.one_pass,
                                   host.name))
        return [*found, *self._arrivals()]

    def _arrivals(self) -> Iterator[Event]:
        for message in self.broker.on_their_way:
            host = self.host(message.target)
            if host is None or host.up:
                yield Event(message.due, "", self._delivery(message, host),
                            host.name if host else "")

    def _delivery(self, message, host: Host | None) -> Callable[[], None]:
        def deliver() -> None:
            self.broker.take(message)
            if host is None:
                self.control.receive(message.body)
            else:
                self.log(f"{host.name} hears {message.what}")
                host.receive(message.what, message.body)
        return deliver

    def _notch(self, uuid: str) -> Callable[[], None]:
        return lambda: self.log(f"migration of {uuid[:8]}: " + self.traffic.notch(
            uuid, lambda name: self.host(name).driver))

    def _care(self) -> None:
        self.next_care = self.clock.time + CARE_SECONDS
        self.control.care()

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
        task = event.task or self.tasks.add(event.host, event.do)
        self.tasks.resume(task)
        if task.death is not None:
            host = self.host(task.death.owner)
            if host.life == task.death.life:
                self.bury(host)
        while self.dying:
            self.tasks.kill(self.dying.pop())
        if event.host in self.control.hosts:
            self.watcher.journal(self.host(event.host))
        self.watcher.fabric()
        self.control.give_up_lost_builds()

    def bury(self, host: Host, seconds: float | None = None) -> None:
        """The process of a host's agent is gone; after a while there is a new one."""
        if host.up:
            host.die()
            self.dying.append(host.name)
        host.starts_at = self.clock.time + (
            self.rng.choice((0.1, 2, 40)) if seconds is None else seconds)

    def sleep(self, seconds: float, wake: Any = None) -> None:
        """Time passes for one who waits; others go on."""
        if self.tasks.current is None:
            self.clock.time += max(seconds, 0)
        else:
            self.tasks.wait(self.clock.time + max(seconds, 0), wake)

    def call(self, host: Host, life: int, port: str, method: str, when: str) -> None:
        """A call from a process of a host passes here before and after its effect."""
        host.must_live(life)
        if self.tasks.current is None or when == "during":
            return
        call = f"{port}.{method}"
        fate = self.faults.hurts(host.name, call, when) or ""
        if "interleave" in fate or self.faults.strikes("interleave"):
            self.log(f"meanwhile, {when} {host.name}: {call}")
            self._meanwhile(host if fate else None)
            host.must_live(life)
        if when == "before" and self.faults.strikes("slow"):
            self.sleep(self.rng.choice((0.1, 1, 5)))
            host.must_live(life)
        if "killed" in fate or self.faults.strikes("kill"):
            self.log(f"{host.name} is killed {when} {call}")
            raise Death(host.name, life)
        error = self.faults.of_call(port, when, host.away_until.get(port, 0) > self.clock.time)
        if fate in ("failed", "unreachable", "answer lost"):
            error = self.faults.error(fate)
        if error is not None:
            self.log(f"{host.name}: {call} {when}: {error}")
            raise error

    def _meanwhile(self, host: Host | None) -> None:
        """Others get a turn; or much happens, a wish for a guest of the host among it."""
        if host is None:
            self.tasks.wait(self.clock.time + 1, turns=1)
            return
        self.happenings.ask(host, delete=self.rng.random() < 0.1)
        self.tasks.wait(self.clock.time + 1, turns=self.rng.choice((5, 15, 25)))

    # -- from host to host --------------------------------------------------------------------
    def carry(self, owner: str, work: Callable[[], Any], seconds: float) -> Any:
        """Let an agent do something, and wait for its answer.

        :param seconds: after which it is noticed that the agent died.
        :raises Unknown: it did.
        """
        if self.tasks.current is None:
            return work()
        answer: dict[str, Any] = {}

        def work_there() -> None:
            try:
                answer["result"] = work()
            except Exception as error:  # noqa: BLE001 - raised again where it was asked for
                answer["error"] = error

        task, end = self.tasks.add(owner, work_there), self.clock.time + seconds
        patient = seconds == SIGN_OF_LIFE  # while there are signs of life, which a dead one lacks
        while not task.ended.is_set() and (patient or self.clock.time < end):
            self.tasks.wait(self.clock.time + SIGN_OF_LIFE if patient else end, task.ended)
        if "error" in answer:
            raise answer["error"]
        if "result" not in answer:
            self.sleep(end - self.clock.time)
            raise Unknown(f"No answer came from {owner}.", code="rpc_timeout")
        return answer["result"]

    def ask_host(self, name: str, method: str, context: dict, args: dict) -> Any:
        """The control plane calls a host's agent."""
        handlers, _ = self.exchange.agent("control", name)
        return self.carry(name, lambda: serve(handlers, context, method, args), CALL_SECONDS)

    # -- the whole run ------------------------------------------------------------------------
    def run(self) -> None:
        """Trouble, then rest; then, in every other run, everything is deleted.

        :raises Violation: a promise was broken.
        """
        try:
            self._trouble_and_rest()
        finally:
            self.over = True
            for task in list(self.tasks.waiting):
                self.tasks.kill(task.owner)

    def _trouble_and_rest(self) -> None:
        end = self.began + self.faults.seconds
        while self.tick(until=end):
            pass
        self.converge()
        self._require(self.rest.wrong())
        self._end_resizes()
        if self.rng.random() < 0.5:
            return
        for uuid in self.control.live():
            self.control.ask(uuid, "delete")
        self.converge()
        self._require([*self.rest.wrong(), *self.rest.nothing()])

    def _end_resizes(self) -> None:
        """Guests that wait for a word are confirmed or reverted, or go on waiting."""
        said = False
        for uuid in self.control.live():
            verbs = {*self.control.legal_moves(uuid)} & {"confirm", "revert"}
            verb = self.rng.choice(["nothing", *sorted(verbs)])
            if verb != "nothing":
                self.log(f"somebody asks to {verb} {uuid[:8]}")
                self.control.move(uuid, verb)
                said = True
        if said:
            self.converge()
            self._require(self.rest.wrong())

    def converge(self) -> None:
        """Nothing goes wrong any more: all must come to rest."""
        self.log("nothing goes wrong any more")
        self.faults.on = False
        for host in self.hosts:
            host.away_until.clear()
        self.exchange.cut.clear()
        self.fabric.set(cut=False, fail_at=None, disk_full=[], converges=True,
                        parted=False)
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
                        f"{self.rest.wrong()}")

    def _busy(self) -> list[str]:
        """What still goes on."""
        return [*(m.what for m in self.broker.on_their_way), *self.control.waits(),
                *(h.name for h in self.hosts if not h.up),
                *(operation for h in self.hosts for operation in h.active()),
                *self.traffic.next, *(t.owner for t in self.tasks.waiting)]

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
