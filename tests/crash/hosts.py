"""Two agents, what lies between them, and what must be so when all has come to rest."""

from __future__ import annotations

import functools
import logging
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from compute.engine.world import World
from compute.errors import MagnetarError
from compute.manager import Manager
from compute.model import states
from compute.recovery.invariants import check
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler, restore_claims
from compute.recovery.resizes import Resizes
from compute.rpc.primitives import data
from db.journal import OperationRow, rows
from tests import fakes
from tests.crash import volumes
from tests.crash.hub import Hub, HubClock
from tests.simulation.host import new_journal
from virt.fake_state import Fabric

LOG = logging.getLogger(__name__)
HOSTS = ("host1", "host2")
GUEST = "aaaaaaaa-0000-4000-8000-000000000001"
ADMIN = {"request_id": None, "roles": ["admin"], "is_admin": True}
PASS_SECONDS = 10.0
REST_SECONDS = 20 * 60.0  # virtual; all must be at rest by then
QUIET = 2  # passes of each agent without anything going on
KINDS = {"resources", "ports", "disks", "domain", "volumes"}


class HubManager(Manager):
    """A manager whose workers are a hub's tasks."""

    def __init__(self, world: World, hub: Hub):
        super().__init__(world, 1)
        self._hub = hub
        self._pools = dict.fromkeys(self._pools, self)

    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        """What the manager asks of a pool."""
        self._hub.spawn(self.world.host, functools.partial(work, *args))


@dataclass
class Agent:
    """One process of a host's agent."""

    world: World
    manager: HubManager
    reconciler: Reconciler
    resizes: Resizes
    passes: int = 0


Hook = Callable[[str, str, str], None]  # host, call, before or after


def unheard(host: str, call: str, when: str) -> None:
    """A tap that nobody listens to."""


@dataclass
class Hosts:
    """The world of a case.

    :param root: what outlives the agents, besides the journals.
    :param journals: their databases, by host.
    :param tap: called around each call that an agent makes of the outside.
    """

    root: pathlib.Path
    shared: bool = False
    tap: Hook = unheard
    hub: Hub = field(default_factory=Hub)
    exchange: fakes.Exchange = field(default_factory=fakes.Exchange)
    agents: dict[str, Agent] = field(default_factory=dict)
    journals: dict[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # of [libvirt]

    def __post_init__(self) -> None:
        self.exchange.carry, self.exchange.post = self.hub.carry, self.hub.spawn
        for host in HOSTS:
            if host not in self.journals:
                self.journals[host] = new_journal(f"crash {host}", lambda: False)

    # -- agents -------------------------------------------------------------------------------
    def world(self, host: str) -> World:
        """The world of a new process."""
        def around(port: str) -> Callable[[str, str], None]:
            return lambda method, when: self.tap(host, f"{port}.{method}", when)

        def conductor(when: str) -> Callable[[str], None]:
            return lambda method: self.tap(host, f"conductor.{method}", when)

        made = fakes.worlds(
            self.root, (host,), exchange=self.exchange, shared=self.shared,
            engine=self.journals[host], clock=HubClock(self.hub), hook={host: around("driver")},
            network_hook=around("networks"), volume_hook=around("volumes"),
            peer_hook=around("peers"), fail=conductor("before"), after=conductor("after"))[host]
        made.conductor.stamp = self.stamp
        made.conf.timeouts.shutdown = 4
        vars(made.conf.libvirt).update(self.options)
        return made

    def stamp(self) -> str:
        """Virtual time as a datetime field."""
        return datetime.fromtimestamp(self.hub.clock.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def start(self, host: str) -> None:
        """A process of an agent begins, as compute.agent starts it."""
        self.hub.born(host)
        self.hub.spawn(host, functools.partial(self._live, host))

    def _live(self, host: str) -> None:
        try:
            manager = HubManager(self.world(host), self.hub)
        except MagnetarError as error:
            LOG.info("%s does not start: %s", host, error)
            self.kill(host, 3)
        agent = Agent(manager.world, manager, Reconciler(manager, ADMIN), Resizes(manager, ADMIN))
        self.agents[host] = agent
        self.exchange.join(host, manager)
        agent.reconciler.resume()
        while True:
            try:
                restore_claims(agent.world, agent.reconciler.run_pass())
                agent.resizes.run_pass()
                agent.passes += 1
            except MagnetarError as error:
                LOG.info("%s: this pass is left for later: %s", host, error)
            agent.world.clock.wait(PASS_SECONDS)

    def kill(self, host: str, delay: float | None) -> None:
        """SIGKILL; the agent comes again after ``delay`` seconds, None: not by itself."""
        LOG.info("%s is killed and comes again after %s s", host, delay)
        self.agents.pop(host, None)
        self.exchange.leave(host)
        if delay is not None:
            self.hub.spawn("machine", functools.partial(self.start, host), delay)
        self.hub.kill(host)

    # -- the control plane --------------------------------------------------------------------
    @property
    def conductor(self) -> fakes.FakeConductor:
        """The record, as a test looks at it."""
        made = fakes.FakeConductor(self.root / "control.json")
        made.stamp = self.stamp
        return made

    @property
    def fabric(self) -> Fabric:
        """What lies between the hosts."""
        return Fabric(self.root / "fabric")

    def cast(self, host: str, method: str, **args: Any) -> None:
        """What the control plane sends."""
        context = {"request_id": "req-1", "roles": ["member"], "auth_token": "token"}
        self.exchange.cast(host, context, method, args)

    # -- coming to rest -----------------------------------------------------------------------
    def converge(self) -> None:
        """Go on until nothing is left to do, or waits for an operator."""
        end, quiet = self.hub.clock.time + REST_SECONDS, {}
        while self.hub.clock.time < end:
            self.hub.step()
            passes = {host: agent.passes for host, agent in self.agents.items()}
            if len(passes) < len(HOSTS) or passes == quiet.get("seen"):
                continue
            if "seen" not in quiet or self.busy():
                quiet = {"until": {host: n + QUIET for host, n in passes.items()}}
            elif all(passes[host] >= quiet["until"].get(host, 0) for host in HOSTS):
                return
            quiet["seen"] = passes
        raise AssertionError(f"not at rest after {REST_SECONDS:g} s: {self.busy()}")

    def active(self) -> list[tuple[str, OperationRow]]:
        """Operations that have not ended."""
        return [(host, row) for host, agent in self.agents.items()
                for row in agent.world.journal.find(active=True)]

    def busy(self) -> list[str]:
        """What still goes on."""
        fields = self.conductor.fields(GUEST)
        going = [f"{host}: {row.verb} {row.state} {row.step}: {row.message}"
                 for host, row in self.active() if row.state != rows.NEEDS_OPERATOR]
        waits = any(row.state == rows.NEEDS_OPERATOR for _, row in self.active())
        if fields["task_state"] is not None and not waits:
            going.append(f"task {fields['task_state']}")
        if self.status() == "confirming" and not waits:
            going.append("a confirmation that was asked for")
        going += [f"the hypervisor of {host} is away" for host in self.fabric.faults()["down"]]
        return going + [f"for {host}: {[m[1] for m in sent]}"
                        for host, sent in self.exchange.waiting.items()]

    # -- what must be so ----------------------------------------------------------------------
    def problems(self, expected: Mapping[str, Any]) -> list[str]:
        """All that is not as it must be of a guest at rest.

        :param expected: ``host``, ``vm_state``, ``status`` of its migration, ``root_gb`` of its
            flavor; ``aside``: host that keeps former disks; ``moving``: hosts that keep room for
            the move; ``off``: it does not run although it is resized; ``anew``: its
            disk was made anew, as former ones in quarantine show.
        """
        fields = self.conductor.fields(GUEST)
        found = [line for line in self.fabric.violations()
                 if not (expected.get("anew") and "its disk went back" in line)]
        seen = {"host": fields["host"], "vm_state": fields["vm_state"],
                "task_state": fields["task_state"], "status": self.status(),
                "root_gb": data(fields["flavor"])["root_gb"]}
        wanted = {"task_state": None, **{k: v for k, v in expected.items() if k in seen}}
        found += [f"{key} is {seen[key]}, not {value}" for key, value in wanted.items()
                  if seen[key] != value]
        for host in HOSTS:
            found += [f"{host}: {line}" for line in self._at_rest(host, fields, expected)]
        ports = [p.name for p in (self.root / "ports").iterdir()]
        bound = self.agents["host1"].world.networks.host(GUEST) if ports == [GUEST] else ports
        if bound != fields["host"] and not (bound is None and fields["host"] == "host1"):
            found.append(f"the ports are bound to {bound}")
        return found

    def status(self) -> str | None:
        """The newest migration's status."""
        kept = self.conductor.read()["migrations"]
        return data(kept[max(kept, key=int)])["status"] if kept else None

    def _at_rest(self, host: str, fields: Mapping[str, Any],
                 expected: Mapping[str, Any]) -> list[str]:
        world = self.agents[host].world
        driver, mine = world.driver, fields["host"] == host
        found = [f"{f.rule}: {f.what}" for f in check(observe(world, ADMIN))
                 if not (self.shared and not mine and f.rule == "owner" and "Disks" in f.what)]
        found += [f"{row.verb} is {row.state}: {row.message}"
                  for row in world.journal.find(active=True)]
        found += [f"{row.verb}: {row.error['what']}" for row in world.journal.find()
                  if (row.error or {}).get("code") == "internal"]
        domain = driver._state(GUEST)
        if (domain is not None) != mine:
            found.append(f"domain {domain}")
        if domain is not None and mine:
            found += self._own(world, domain, fields, expected)
        if (GUEST in driver.guest_dirs()) != mine and not self.shared:
            found.append("disks are here" if not mine else "no disks are here")
        if (driver._aside(GUEST).exists()) != (expected.get("aside") == host):
            found.append("former disks are here" if expected.get("aside") != host
                         else "no former disks are here")
        claims = {claim.kind for claim in world.journal.claims()}
        wanted = set(KINDS) if mine else set()
        wanted |= {"aside"} if expected.get("aside") == host else set()
        wanted |= {"resources-move"} if host in expected.get("moving", ()) else set()
        if claims != wanted:
            found.append(f"claims {sorted(claims)}, not {sorted(wanted)}")
        found += volumes.moved(world, GUEST, mine)
        quarantine = driver.place / "_quarantine"
        if quarantine.exists() and not expected.get("anew"):
            found.append(f"quarantine {[p.name for p in quarantine.iterdir()]}")
        return found + [f"secrets left: {p.name}" for p in (self.root / host / "secrets").iterdir()]

    def _own(self, world: World, domain: Any, fields: Mapping[str, Any],
             expected: Mapping[str, Any]) -> list[str]:
        """Of the domain on the host to which the guest belongs."""
        found = []
        runs = fields["vm_state"] in (states.ACTIVE, states.RESIZED) and not expected.get("off")
        if runs != (domain.power_state == states.RUNNING):
            found.append(f"{fields['vm_state']} and power state {domain.power_state}")
        if domain.job or not domain.persistent:
            found.append(f"job {domain.job!r}, persistent {domain.persistent}")
        lines = [int(line) for line in world.driver._console(GUEST).split() if line != "UP"]
        if lines != list(range(1, len(lines) + 1)):
            found.append(f"the console log is not whole: {lines}")
        claimed = world.journal.claims(kind="domain", guest=GUEST)
        if claimed and claimed[0].data.get("generation") != domain.generation:
            found.append(f"generation {domain.generation}, claimed {claimed[0].data}")
        return found
