"""The life of servers, told through Nova's API: what is done, in which order.

Each step is one verb; `Scenario.run` returns what it left: rows, an answer, or an error. The same
steps run with Nova's own agent to record the reference and with ours to be compared with it.
`OneHost` is a life on one host; tests.contract.moves has lives on two.
"""

import collections.abc
import dataclasses
import typing

from tests.contract import environment, processes, rows

SETTLE_SECONDS = processes.SECONDS
BIG_MB = 100_000_000  # a guest that no host has room for
Result = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One verb of the API on the scenario's server, by name, with the API's own arguments.

    `to` is the number of the host that the scheduler would choose; `ends` the verb that ends a
    live migration while it runs.
    """

    name: str
    verb: str
    arguments: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    to: int | None = None
    ends: str | None = None


LARGER = {"memory_mb": 128, "vcpus": 2, "root_gb": 2}
LARGER_ID = "contract-128-2-2"
# A new verb is one more line here, then `tests/contract/run --record`.
VERBS = (
    Step("stop", "stop"),
    Step("start", "start"),
    Step("reboot_soft", "reboot", {"reboot_type": "SOFT"}),
    Step("reboot_hard", "reboot", {"reboot_type": "HARD"}),
    Step("pause", "pause"),
    Step("unpause", "unpause"),
    Step("suspend", "suspend"),
    Step("resume", "resume"),
    Step("set_admin_password", "set_admin_password", {"password": "secret"}),
    Step("trigger_crash_dump", "trigger_crash_dump"),
    Step("rescue", "rescue", {"rescue_password": "secret"}),
    Step("unrescue", "unrescue"),
    Step("get_console_output", "get_console_output", {"tail_length": None}),
    Step("get_diagnostics", "get_diagnostics"),
    Step("resize", "resize", {"flavor_id": LARGER_ID}, to=0),
    Step("revert_resize", "revert_resize"),
    Step("stop_again", "stop"),
    Step("resize_stopped", "resize", {"flavor_id": LARGER_ID}, to=0),
    Step("confirm_resize_stopped", "confirm_resize"),
    Step("reboot_hard_stopped", "reboot", {"reboot_type": "HARD"}),
    Step("terminate", "delete"),
)
REGISTER = "register"
BUILD = "build"
HOST_WITH_GUEST = "host_with_guest"
NO_ROOM = "build_no_room"
TERMINATE_ERROR = "terminate_error"
HOST_EMPTY = "host_empty"
NAMES = (REGISTER, BUILD, HOST_WITH_GUEST, *(step.name for step in VERBS), NO_ROOM,
         TERMINATE_ERROR, HOST_EMPTY, "get_host_uptime", "set_host_disabled", "set_host_enabled")


def server(env: environment.Environment, names: rows.Names, uuid: str,
           before: rows.Tables | None = None) -> rows.Tables:
    """Wait until nothing is in progress for a server; return its rows in comparable form."""
    env.do("settle", uuid=uuid, seconds=SETTLE_SECONDS)
    return rows.since(before, rows.of_server(env.do("server_rows", uuid=uuid), names))


class Life:
    """One server and what each step on it left.

    :param hosts: the hosts that it may be on; the first one is "the host" in the rows.
    """

    def __init__(self, env: environment.Environment, hosts: tuple[str, ...], name: str) -> None:
        self.env, self.hosts, self.name = env, hosts, name
        called = ("the host", "the other host")
        self.names = {**dict(zip(hosts, called, strict=False)), name: "the name"}
        self.uuid = ""
        self._before: rows.Tables | None = None

    def build(self, memory_mb: int = 64) -> Result:
        """Make it on the first host."""
        self.uuid = self.env.do("build", host=self.hosts[0], name=self.name,
                                image=environment.IMAGE, memory_mb=memory_mb)["uuid"]
        return self.left()

    def act(self, step: Step) -> Result:
        """Do one step; an error that Nova answers is in the result."""
        choose = None if step.to is None else self.hosts[step.to]
        try:
            answer = self.env.do("act", uuid=self.uuid, verb=step.verb, choose=choose,
                                 **step.arguments)["answer"]
            if step.ends:
                self.env.do("end_live_migration", uuid=self.uuid, verb=step.ends,
                            seconds=SETTLE_SECONDS)
        except environment.RemoteError as error:
            return {"error": {"class": error.kind, "module": error.module}, **self.left()}
        return self.left(answer)

    def left(self, answer: object = None) -> Result:
        """Wait for the end; return the rows, of the history only what is new."""
        after = server(self.env, self.names, self.uuid)
        changed, self._before = rows.since(self._before, after), after
        return {"answer": answer, "rows": changed}


class Scenario:
    """One run of all steps. `results` maps step names to what each left."""

    def __init__(self, env: environment.Environment, *hosts: str) -> None:
        self.env = env
        self.hosts = hosts
        self.results: dict[str, Result] = {}

    def host_rows(self, host: str) -> Result:
        """The rows of a host after its next heartbeat."""
        self.env.do("wait_report", host=host, seconds=SETTLE_SECONDS)
        return {"rows": rows.of_host(self.env.do("host_rows", host=host), {host: "the host"})}

    def take(self, life: Life, steps: collections.abc.Iterable[Step]) -> None:
        """Take a server through steps."""
        for step in steps:
            self.record(step.name, lambda step=step: life.act(step))

    def record(self, name: str, step: collections.abc.Callable[[], Result]) -> None:
        """Do a step, unless an earlier one failed, and keep what it left."""
        failed = next((other for other, result in self.results.items() if "failed" in result),
                      None)
        if failed is not None:
            self.results[name] = {"skipped": f"step {failed} failed before"}
            return
        try:
            self.results[name] = step()
        except environment.RemoteError as error:
            self.results[name] = {"failed": str(error)}


class OneHost(Scenario):
    """All verbs that need one host only."""

    def run(self) -> dict[str, Result]:
        """Run every step; a step that Nova answers with an error has it in its result."""
        host = self.hosts[0]
        self.env.do("flavor", **LARGER)
        self.record(REGISTER, self._register)
        life = Life(self.env, self.hosts, "contract-guest")
        self.record(BUILD, life.build)
        self.record(HOST_WITH_GUEST, lambda: self.host_rows(host))
        self.take(life, VERBS)
        life = Life(self.env, self.hosts, "no-room-guest")
        self.record(NO_ROOM, lambda: life.build(BIG_MB))
        self.take(life, (Step(TERMINATE_ERROR, "delete"),))
        self.record(HOST_EMPTY, lambda: self.host_rows(host))
        self.record("get_host_uptime", lambda: self._call("get_host_uptime"))
        self.record("set_host_disabled",
                    lambda: self._call("set_host_enabled", enabled=False))
        self.record("set_host_enabled", lambda: self._call("set_host_enabled", enabled=True))
        return self.results

    def _register(self) -> Result:
        self.env.do("wait_service", host=self.hosts[0], seconds=SETTLE_SECONDS)
        ping = self.env.do("ping", host=self.hosts[0])["answer"]
        return {"answer": ping, **self.host_rows(self.hosts[0])}

    def _call(self, method: str, **arguments: object) -> Result:
        try:
            return self.env.do("call_host", method=method, host=self.hosts[0], **arguments)
        except environment.RemoteError as error:
            return {"error": {"class": error.kind, "module": error.module}}
