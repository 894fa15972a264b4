"""Servers that move between two hosts, told through Nova's API.

One server moves cold and live and is evacuated; another one's live migration is held by the
hypervisor, until it is aborted or forced to end; a third one cannot move.
"""

import collections.abc

from tests.contract import environment, processes, scenario
from tests.contract.scenario import Result, Step

LIVE = {"block_migration": None, "disk_over_commit": None, "force": False}
# What a server is taken through that comes and goes; it is on the first host at the end.
MOVES = (
    Step("migrate_cold", "resize", to=1),
    Step("migrate_cold_revert", "revert_resize"),
    Step("migrate_cold_again", "resize", to=1),
    Step("migrate_cold_confirm", "confirm_resize"),
    Step("resize_back", "resize", {"flavor_id": scenario.LARGER_ID}, to=0),
    Step("resize_back_confirm", "confirm_resize"),
    Step("migrate_live", "live_migrate", {**LIVE, "host_name": None}, to=1),
    Step("pause_before", "pause"),
    Step("migrate_live_paused", "live_migrate", {**LIVE, "host_name": None}, to=0),
    Step("unpause_after", "unpause"),
)
HELD = (
    Step("migrate_live_abort", "live_migrate", {**LIVE, "host_name": None}, to=1,
         ends="live_migrate_abort"),
    Step("migrate_live_force_complete", "live_migrate", {**LIVE, "host_name": None}, to=1,
         ends="live_migrate_force_complete"),
    Step("held_terminate", "delete"),
)
IMMOVABLE = (
    Step("migrate_live_refused", "live_migrate", {**LIVE, "host_name": None}, to=1),
    Step("immovable_terminate", "delete"),
)
EVACUATE = Step("evacuate", "evacuate", {"host": None, "on_shared_storage": None}, to=1)
NAMES = ("move_build", *(step.name for step in MOVES), "held_build",
         *(step.name for step in HELD), "immovable_build", *(step.name for step in IMMOVABLE),
         EVACUATE.name, "source_returns", "move_terminate",
         "source_empty", "destination_empty")
Start = collections.abc.Callable[[str], processes.Process]


class TwoHosts(scenario.Scenario):
    """All verbs that move a server.

    :param start: starts an agent on the host that it is given.
    :param hold: makes live migrations go on until they are ended, or no longer.
    :param burden: gives a server on a host something that cannot move.
    :param lost: told of a host that lost its power, when its agent is gone.
    """

    def __init__(self, env: environment.Environment, hosts: tuple[str, str], start: Start,
                 hold: collections.abc.Callable[[bool], None] = lambda held: None,
                 burden: collections.abc.Callable[[str, str], None] = lambda host, uuid: None,
                 lost: collections.abc.Callable[[str], None] = lambda host: None) -> None:
        super().__init__(env, *hosts)
        self.start, self.hold, self.burden, self.lost = start, hold, burden, lost
        self.agents: dict[str, processes.Process] = {}

    def run(self) -> dict[str, Result]:
        """Start both agents and run every step."""
        self.env.do("flavor", **scenario.LARGER)
        for host in self.hosts:
            self._start(host)
        life = scenario.Life(self.env, self.hosts, "moving-guest")
        self.record("move_build", life.build)
        self.take(life, MOVES)
        self._held()
        self._immovable()
        self.record(EVACUATE.name, lambda: self._evacuate(life))
        self.record("source_returns", lambda: self._return(life))
        self.take(life, (Step("move_terminate", "delete"),))
        for name, host in zip(("source_empty", "destination_empty"), self.hosts, strict=True):
            self.record(name, lambda host=host: self.host_rows(host))
        return self.results

    def _start(self, host: str) -> None:
        self.agents[host] = self.start(host)
        self.env.do("wait_service", host=host, seconds=scenario.SETTLE_SECONDS)

    def _held(self) -> None:
        life = scenario.Life(self.env, self.hosts, "held-guest")
        self.record("held_build", life.build)
        self.hold(True)
        self.take(life, HELD[:-1])
        self.hold(False)
        self.take(life, HELD[-1:])

    def _immovable(self) -> None:
        life = scenario.Life(self.env, self.hosts, "immovable-guest")
        self.record("immovable_build", life.build)
        self.burden(self.hosts[0], life.uuid)
        self.take(life, IMMOVABLE)

    def _evacuate(self, life: scenario.Life) -> Result:
        source = self.hosts[0]
        self.agents[source].kill()
        self.lost(source)
        self.env.do("force_down", host=source, forced_down=True)
        return life.act(EVACUATE)

    def _return(self, life: scenario.Life) -> Result:
        source = self.hosts[0]
        self.env.do("force_down", host=source, forced_down=False)
        self._start(source)
        self.env.do("wait_migration", uuid=life.uuid, status="completed",
                    seconds=scenario.SETTLE_SECONDS)
        return life.left()
