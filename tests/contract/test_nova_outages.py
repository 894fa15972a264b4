"""Under a stock Nova control plane: what was accepted ends right, whatever dies meanwhile.

Each test takes away one part (conductor, agent, broker) around one verb, gives it back, and finds
the rows that Nova's own agent leaves when nothing is taken away.
"""

import contextlib
import sqlite3
import time
import typing

import testtools

from tests.contract import environment, processes, record, rows, scenario

HOST = "outage-host"
NAME = "outage-guest"
NAMES = {HOST: "the host", NAME: "the name"}
OPTIONS = "report_interval = 2\naudit_interval = 5\n[timeouts]\nconductor = 10\n"
SECONDS = processes.SECONDS


class NovaOutagesTest(testtools.TestCase):
    """One control plane and one agent for all tests; each test makes its own server."""

    env: typing.ClassVar[environment.Environment]
    agent: typing.ClassVar[processes.Process]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        reason = environment.missing()
        if reason:
            raise cls.skipException(reason)
        cls.env = environment.Environment()
        cls.addClassCleanup(cls.env.stop)
        cls.env.start()
        cls.agent = cls.env.start_agent(HOST, OPTIONS)
        cls.env.do("wait_service", host=HOST, seconds=SECONDS)

    def setUp(self) -> None:
        super().setUp()
        self.addOnException(self._show_log)

    def _show_log(self, _: object) -> None:
        self.addDetail("agent.log", testtools.content.text_content(self.agent.tail(40)))

    def _build(self) -> str:
        made = self.env.do("build", host=HOST, name=NAME, image=environment.IMAGE)
        return str(made["uuid"])

    def _built(self) -> tuple[str, rows.Tables]:
        uuid = self._build()
        return uuid, scenario.server(self.env, NAMES, uuid)

    def _check(self, step: str, uuid: str, before: rows.Tables | None = None) -> None:
        found = scenario.server(self.env, NAMES, uuid, before)
        problems = rows.differences(record.load(step)["rows"], found)
        if problems:
            self.fail(f"{step}: not the rows of Nova's own agent:\n" + "\n".join(problems))

    def _restart_agent(self) -> None:
        type(self).agent = self.env.start_agent(HOST, OPTIONS)
        self.env.do("wait_service", host=HOST, seconds=SECONDS)

    def _wait_until_accepted(self, uuid: str) -> None:
        """Wait until the agent's journal has an operation for the server.

        Before that a message can be lost: oslo.messaging acknowledges it when it is read.
        """
        journal = f"file:{self.env.home / HOST}/journal.sqlite?mode=ro"
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.closing(sqlite3.connect(journal, uri=True)) as connection:
                found = connection.execute(
                    "SELECT count(*) FROM operations WHERE guest = ?", (uuid,)).fetchone()[0]
            if found:
                return
            self.assertLess(time.monotonic(), deadline, "the build was never accepted")
            time.sleep(0.005)

    def _nothing_left(self, uuid: str) -> None:
        """Wait until no file of this host is named after the server; what the fake hypervisor
        remembers of what guests have written is its proof, and stays."""
        home = self.env.home / HOST
        deadline = time.monotonic() + SECONDS
        while left := [path for path in home.rglob("*")
                       if uuid in path.name and "_fabric" not in path.parts]:
            if time.monotonic() > deadline:
                self.fail(f"Of server {uuid} is left: {left}")
            time.sleep(0.2)

    def test_build_while_the_conductor_is_away(self) -> None:
        self.env.conductor.kill()
        uuid = self._build()
        self.env.start_conductor()
        self._check("build", uuid)

    def test_stop_while_the_conductor_is_away(self) -> None:
        uuid, before = self._built()
        self.env.conductor.kill()
        self.env.do("act", uuid=uuid, verb="stop")
        self.env.start_conductor()
        self._check("stop", uuid, before)

    def test_agent_is_killed_as_soon_as_it_has_accepted_a_build(self) -> None:
        uuid = self._build()
        self._wait_until_accepted(uuid)
        self.agent.kill()
        self._restart_agent()
        self._check("build", uuid)

    def test_message_sent_to_a_dead_agent_is_carried_out_when_it_is_back(self) -> None:
        uuid, before = self._built()
        self.agent.kill()
        self.env.do("act", uuid=uuid, verb="stop")
        self._restart_agent()
        self._check("stop", uuid, before)

    def test_delete_sent_to_a_dead_agent_is_carried_out_when_it_is_back(self) -> None:
        uuid, _ = self._built()
        self.agent.kill()
        self.env.do("act", uuid=uuid, verb="delete")
        self._restart_agent()
        states = self.env.do("settle", uuid=uuid, seconds=SECONDS)
        self.assertEqual("deleted", states["vm_state"])
        self._nothing_left(uuid)

    def test_broker_restarts(self) -> None:
        uuid, before = self._built()
        self.env.broker.stop()
        self.env.broker.start()
        self.env.do("wait_service", host=HOST, seconds=SECONDS)
        self.env.do("act", uuid=uuid, verb="stop")
        self._check("stop", uuid, before)

    def test_users_delete_during_a_build_wins(self) -> None:
        uuid = self._build()
        self.env.do("act", uuid=uuid, verb="delete")
        # Deleted by the API itself when we had not claimed it yet, by us when we had.
        states = self.env.do("settle", uuid=uuid, seconds=SECONDS)
        self.assertTrue(states["deleted"])
        self._nothing_left(uuid)

    def test_message_that_became_stale_changes_nothing(self) -> None:
        uuid, _ = self._built()
        self.env.do("cast_stale_stop", uuid=uuid)
        self.env.do("act", uuid=uuid, verb="reboot", reboot_type="HARD")
        states = self.env.do("settle", uuid=uuid, seconds=SECONDS)
        self.assertEqual(("active", None), (states["vm_state"], states["task_state"]))
