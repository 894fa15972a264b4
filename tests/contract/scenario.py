"""The life of servers on one host, told through Nova's API: what is done, in which order.

Each step is one verb; `Scenario.run` returns what it left: rows, an answer, or an error. The same
steps run with Nova's own agent to record the reference and with ours to be compared with it.
"""

import collections.abc
import dataclasses
import typing

from tests.contract import environment, rows

SETTLE_SECONDS = 30
BIG_MB = 100_000_000  # a guest that no host has room for
Result = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One verb of the API on the scenario's server, by name, with the API's own arguments."""

    name: str
    verb: str
    arguments: dict[str, typing.Any] = dataclasses.field(default_factory=dict)


# A new verb is one more line here, then `tests/contract/run --record`.
VERBS = (
    Step("stop", "stop"),
    Step("start", "start"),
    Step("reboot_soft", "reboot", {"reboot_type": "SOFT"}),
    Step("reboot_hard", "reboot", {"reboot_type": "HARD"}),
    Step("pause_not_implemented", "pause"),
    Step("get_console_output", "get_console_output", {"tail_length": None}),
    Step("get_diagnostics_not_implemented", "get_diagnostics"),
    Step("stop_again", "stop"),
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


def server(env: environment.Environment, host: str, name: str, uuid: str,
           before: rows.Tables | None = None) -> rows.Tables:
    """Wait until nothing is in progress for a server; return its rows in comparable form."""
    env.do("settle", uuid=uuid, seconds=SETTLE_SECONDS)
    after = rows.of_server(env.do("server_rows", uuid=uuid), host, name)
    return rows.since(before, after)


class Scenario:
    """One run of all steps against one host. `results` maps step names to what each left."""

    def __init__(self, env: environment.Environment, host: str) -> None:
        self.env = env
        self.host = host
        self.results: dict[str, Result] = {}

    def run(self) -> dict[str, Result]:
        """Run every step; a step that Nova answers with an error has it in its result."""
        self._record(REGISTER, self._register)
        self._life("contract-guest", 64, BUILD, VERBS, HOST_WITH_GUEST)
        self._life("no-room-guest", BIG_MB, NO_ROOM, (Step(TERMINATE_ERROR, "delete"),))
        self._record(HOST_EMPTY, self._host_rows)
        self._record("get_host_uptime", lambda: self._call("get_host_uptime"))
        self._record("set_host_disabled",
                     lambda: self._call("set_host_enabled", enabled=False))
        self._record("set_host_enabled", lambda: self._call("set_host_enabled", enabled=True))
        return self.results

    def _register(self) -> Result:
        self.env.do("wait_service", host=self.host, seconds=60)
        ping = self.env.do("ping", host=self.host)["answer"]
        return {"answer": ping, **self._host_rows()}

    def _host_rows(self) -> Result:
        self.env.do("wait_report", host=self.host, seconds=SETTLE_SECONDS)
        raw = self.env.do("host_rows", host=self.host)
        return {"rows": rows.of_host(raw, self.host)}

    def _life(self, name: str, memory_mb: int, build: str, steps: tuple[Step, ...],
              after_build: str | None = None) -> None:
        """Build one server and take it through the steps; the last one deletes it."""
        before: rows.Tables | None = None
        made = {"uuid": ""}

        def left(answer: object = None) -> Result:
            nonlocal before
            after = server(self.env, self.host, name, made["uuid"])
            changed, before = rows.since(before, after), after
            return {"answer": answer, "rows": changed}

        def make() -> Result:
            made.update(self.env.do("build", host=self.host, name=name,
                                      image=environment.IMAGE, memory_mb=memory_mb))
            return left()

        self._record(build, make)
        if after_build is not None:
            self._record(after_build, self._host_rows)
        for step in steps:
            self._record(step.name, lambda step=step: self._act(made["uuid"], step, left))

    def _act(self, uuid: str, step: Step,
             left: collections.abc.Callable[[object], Result]) -> Result:
        try:
            answer = self.env.do("act", uuid=uuid, verb=step.verb, **step.arguments)["answer"]
        except environment.RemoteError as error:
            return {"error": {"class": error.kind, "module": error.module}, **left(None)}
        return left(answer)

    def _call(self, method: str, **arguments: object) -> Result:
        try:
            return self.env.do("call_host", method=method, host=self.host, **arguments)
        except environment.RemoteError as error:
            return {"error": {"class": error.kind, "module": error.module}}

    def _record(self, name: str, step: collections.abc.Callable[[], Result]) -> None:
        failed = next((other for other, result in self.results.items() if "failed" in result),
                      None)
        if failed is not None:
            self.results[name] = {"skipped": f"step {failed} failed before"}
            return
        try:
            self.results[name] = step()
        except environment.RemoteError as error:
            self.results[name] = {"failed": str(error)}
