"""Starting where something is in the way, a full journal, and processes that are killed."""

from __future__ import annotations

import os
import pathlib
import traceback

import fixtures
import sqlalchemy as sa
import testtools

from compute.agent import Agent
from compute.errors import MagnetarError, NeedsOperator, Refused
from compute.model import states
from db.control import services
from db.journal import rows
from tests.functional.agent_process import Process
from tests.functional.agent_support import AgentTest, Gate, Host
from tests.waiting import wait_until

NOBODY = 65534


class InTheWayTest(AgentTest):
    def test_a_second_agent_with_the_same_state_directory(self):
        guest = self.cloud.boot("kept")
        second = Host(self.cloud, "host1")
        error = self.assertRaises(NeedsOperator, second.make)
        self.assertEqual("state_in_use", error.code)
        self.assertIn(f"process {os.getpid()}", error.what)
        self.assert_speaks(error)
        self.assertEqual(states.RUNNING, self.host.power(guest))
        self.control.server_stop(guest)
        self.cloud.wait_for(guest, states.STOPPED)
        self.assert_clean()

    def test_a_control_socket_that_is_in_use(self):
        second = Host(self.cloud, "host2")
        second.conf._values["socket"] = self.host.conf.socket
        error = self.assertRaises(Refused, second.start)
        self.assertEqual("socket_in_use", error.code)
        self.assertIn(f"process {os.getpid()}", error.what)
        self.assert_speaks(error)
        self.assertTrue(os.path.exists(self.host.conf.socket))
        with self.control.store.begin() as connection:
            self.assertIsNone(services.get(connection, "host2"))
        self.assertEqual("serving", self.host.agent.health()["status"])
        second.conf._values["socket"] = str(second.root / "s.sock")
        second.start()
        self.cloud.hosts.append(second)

    @testtools.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_a_state_directory_that_cannot_be_read(self):
        closed = pathlib.Path(self.cloud.root) / "closed"
        closed.mkdir(mode=0o700)
        os.chmod(self.cloud.root, 0o755)
        self.said(closed, "Permission denied")

    @testtools.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_a_journal_that_cannot_be_read(self):
        state = pathlib.Path(self.cloud.root) / "half"
        state.mkdir()
        (state / "journal.sqlite").write_bytes(b"")
        (state / "journal.sqlite").chmod(0o600)
        os.chown(state, NOBODY, NOBODY)
        os.chmod(self.cloud.root, 0o755)
        self.said(state, "unable to open database file")
        self.assertEqual(b"", (state / "journal.sqlite").read_bytes())

    def test_a_journal_that_is_damaged(self):
        state = pathlib.Path(self.cloud.root) / "damaged"
        state.mkdir()
        (state / "journal.sqlite").write_bytes(b"no database " * 1000)
        self.said(state, "file is not a database", user=None)
        self.assertEqual(b"no database " * 1000, (state / "journal.sqlite").read_bytes())

    def said(self, state: pathlib.Path, why: str, user: int | None = NOBODY) -> None:
        """What an agent that starts there as another user says, in a process of its own."""
        host = Host(self.cloud, state.name)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._as(user, host, write)
        os.close(write)
        with open(read) as answers:
            text = answers.read()
        os.waitpid(pid, 0)
        self.assertIn(f"state_unusable: The state directory {state} cannot be used: ", text)
        self.assertIn(why, text)
        self.assertIn("The agent did not start; guests were not touched.", text)
        self.assertIn("Correct the directory's owner and mode", text)

    @staticmethod
    def _as(user: int | None, host: Host, write: int) -> None:
        try:
            driver = host.make_driver()
            if user is not None:
                os.setgid(user)
                os.setuid(user)
            Agent(host.conf, host.cloud.transport, driver=driver)
            answer = "it started"
        except MagnetarError as error:
            answer = f"{error.code}: {error}"
        except BaseException:  # noqa: BLE001 - told to the parent
            answer = traceback.format_exc()
        os.write(write, answer.encode())
        os._exit(0)


class FullJournalTest(AgentTest):
    """The file system of the state directory is full."""

    def fill(self) -> None:
        """From now on the journal cannot grow."""
        self.engine = self.host.agent.journal.engine
        with self.engine.connect() as connection:
            self.pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            self.assertEqual(1, len(connection.exec_driver_sql("SELECT 1").all()))
        sa.event.listen(self.engine, "connect", self._limit)
        self.engine.dispose()
        self.addCleanup(self.free)

    def _limit(self, connection, record) -> None:
        connection.execute(f"PRAGMA max_page_count={self.pages}").close()

    def free(self) -> None:
        if sa.event.contains(self.engine, "connect", self._limit):
            sa.event.remove(self.engine, "connect", self._limit)
            self.engine.dispose()

    def padding(self) -> str:
        """A request id that does not fit into free pages."""
        return "x" * 200_000

    def test_a_request_is_refused_and_found_again_when_there_is_room(self):
        guest = self.cloud.boot("full")
        self.fill()
        manager = self.host.agent.manager
        args = {"instance": self.cloud.instance(guest), "padding": self.padding()}
        error = self.assertRaises(MagnetarError, manager.accept, "stop", guest, "req-1", args, {})
        self.assertEqual(("journal_unwritable", "retryable"), (error.code, error.kind))
        self.assertIn("database or disk is full", error.what)
        self.assert_speaks(error)
        self.assertEqual(states.RUNNING, self.host.power(guest))
        self.assertEqual([], self.host.operations(guest, "stop"))
        self.assertEqual([], os.listdir(self.host.root / "secrets"))
        self.free()
        self.cloud.change(guest, task_state=states.POWERING_OFF)
        self.host.reconcile()
        self.assertEqual("SHUTOFF", self.cloud.show(guest)["status"])
        self.assert_clean()

    def test_an_operation_in_the_middle_waits_for_room(self):
        self.host.hook = gate = Gate("define")
        guest = self.cloud.create("middle")["id"]
        gate.wait()
        journal = self.host.agent.journal
        original, journal.record = journal.record, self._full
        gate.open = True
        wait_until(lambda: not self.host.agent.manager.running())
        journal.record = original
        [row] = self.host.operations(guest)
        self.assertEqual((rows.RUNNING, "domain"), (row.state, row.step))
        self.host.reconcile()
        self.assertEqual("ACTIVE", self.cloud.show(guest)["status"])
        self.assert_clean()

    @staticmethod
    def _full(*args, **kwargs):
        raise sa.exc.OperationalError("UPDATE", {}, Exception("database or disk is full"))


class ProcessTest(testtools.TestCase):
    """``magnetar up`` as it is run, killed and stopped."""

    def setUp(self):
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir()).path
        self.state = os.path.join(self.dir, "state")

    def prepared(self, client) -> None:
        path = os.path.join(self.dir, "tiny")
        with open(path, "wb") as file:
            file.truncate(1 << 20)
        with open(path, "rb") as file:
            client.upload("image.create", file, 1 << 20, lambda done: None, name="tiny",
                          disk_format="raw")
        client.call("flavor.create", name="small", vcpus=1, ram=64, disk=1)

    def settled(self, client, server: str) -> dict:
        """Wait until nothing goes on with a server."""
        def there():
            shown = client.call("server.show", server=server)
            return shown if shown["task_state"] is None else None

        return wait_until(there)

    def test_killed_in_the_middle_and_stopped_in_order(self):
        process = self.useFixture(Process(self.state, audit_interval=5))
        client = process.start().serves()
        self.prepared(client)
        first = client.call("server.create", name="one", image="tiny", flavor="small",
                            networks="none")["id"]
        process.kill()  # somewhere between the request and the guest
        client = process.start().serves()
        shown = self.settled(client, first)
        self.assertEqual("ACTIVE", shown["status"])
        client.call("server.stop", server=first)
        wait_until(lambda: len(client.call("op.list", guest=first, all=True)) == 2)
        process.kill()  # somewhere between its acceptance and its end
        client = process.start().serves()
        self.assertEqual("SHUTOFF", self.settled(client, first)["status"])
        audit = client.call("audit")
        self.assertEqual([], audit["findings"])

        second = Process(self.state)
        self.useFixture(second).start()
        self.assertEqual(1, second.ends())
        self.assertIn("uses the state directory", second.said())
        self.assertIn("Stop the other agent first", second.said())
        self.assertEqual("serving", client.health()["status"])

        self.assertEqual(0, process.stop())
        self.assertFalse(os.path.exists(os.path.join(self.state, "s.sock")))
