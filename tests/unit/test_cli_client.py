"""Where the CLI looks for the agent, and what it makes of odd answers."""

import io
import os
import socket
import tempfile
import threading

import fixtures
import testtools

from compute import errors
from compute.conf import agent as agent_conf
from compute.operator.socket import ControlSocket
from control.cli import client
from control.cli.client import Client, socket_path
from tests.waiting import PATIENCE


class SocketPathTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir()).path
        for name in ("MAGNETAR_SOCKET", "MAGNETAR_CONFIG"):
            self.useFixture(fixtures.EnvironmentVariable(name))
        self.patch(client, "CONFIG_FILES", ())

    def conf(self, text: str) -> str:
        path = os.path.join(self.dir, "m.conf")
        with open(path, "w") as file:
            file.write(text)
        return path

    def test_the_defaults_are_the_agents(self):
        defaults = {opt.name: opt.default for opt in agent_conf.OPTS}
        self.assertEqual(defaults["state_path"], client.STATE_PATH)
        self.assertEqual(defaults["socket"], client.SOCKET)
        self.assertEqual("/var/lib/magnetar/control.sock", socket_path(None, None))

    def test_what_is_named_first_wins(self):
        conf = self.conf("[DEFAULT]\nsocket = /c\n")
        self.useFixture(fixtures.EnvironmentVariable("MAGNETAR_CONFIG", conf))
        self.assertEqual("/c", socket_path(None, None))
        self.useFixture(fixtures.EnvironmentVariable("MAGNETAR_SOCKET", "/b"))
        self.assertEqual("/b", socket_path(None, conf))
        self.assertEqual("/a", socket_path("/a", conf))

    def test_state_path_is_filled_in(self):
        for text, wanted in (
            ("[DEFAULT]\nstate_path = /s\n", "/s/control.sock"),
            ("[DEFAULT]\nstate_path = '/s'\nsocket = ${state_path}/x\n", "/s/x"),
            ("[DEFAULT]\nsocket = $state_path/x\n", "/var/lib/magnetar/x"),
            ("[other]\nsocket = /no\n", "/var/lib/magnetar/control.sock"),
            ("[DEFAULT]\nstate_path = /1\nstate_path = /2\n", "/2/control.sock"),
        ):
            self.assertEqual(wanted, socket_path(None, self.conf(text)))

    def test_files_in_etc_are_only_read_when_they_can_be(self):
        self.patch(client, "CONFIG_FILES", ("/nonexistent", self.conf("[DEFAULT]\nsocket=/e\n")))
        self.assertEqual("/e", socket_path(None, None))

    def test_broken_files_are_refused(self):
        self.assertRaises(errors.Refused, socket_path, None, self.conf("state_path = /s\n"))
        self.assertRaises(errors.Refused, socket_path, None, "/nonexistent")


class ClientTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        directory = self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path
        self.path = os.path.join(directory, "s")
        self.client = Client(self.path, timeout=PATIENCE)
        self.addCleanup(self.client.close)

    def answering(self, *answers: bytes) -> None:
        """A listener that gives these bytes, one connection each, whatever it is asked."""
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.path)
        listener.listen()

        def run() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

        threading.Thread(target=run, daemon=True).start()

    def test_nobody_is_there(self):
        error = self.assertRaises(errors.Refused, self.client.call, "x")
        self.assertEqual("no_agent", error.code)
        self.assertIn(f"{self.path} is not there", error.what)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
        error = self.assertRaises(errors.Refused, self.client.call, "x")
        self.assertIn("nobody listens", error.what)

    def test_paths_that_are_no_socket(self):
        for path in ("/dev/null", "/dev/null/x", "/" + "x" * 200):
            error = self.assertRaises(errors.Refused, Client(path).call, "x")
            self.assertEqual("no_agent", error.code)
            self.assertIn(path, error.what)

    def test_strange_answers_are_unknown_not_failed(self):
        self.answering(
            b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        )  # fmt: skip
        for _ in range(5):
            error = self.assertRaises(errors.Unknown, self.client.call, "x")
            self.assertEqual("no_answer", error.code)

    def test_no_answer_in_time_is_unknown(self):
        gate = threading.Event()
        self.addCleanup(gate.set)
        self.serve({"wait": lambda: gate.wait(PATIENCE)})
        self.client.timeout = 0.1
        error = self.assertRaises(errors.Unknown, self.client.call, "wait")
        self.assertIn("no answer within", error.what)

    def serve(self, methods, **options) -> ControlSocket:
        server = ControlSocket(self.path, methods, **options)
        server.start()
        self.addCleanup(server.stop, grace=0.1)
        return server

    def test_a_connection_that_was_closed_meanwhile_is_made_again(self):
        calls = []
        server = self.serve({"x": lambda: calls.append(1)})
        self.client.call("x")
        server.stop()
        again = ControlSocket(self.path, server.methods)
        again.start()
        self.addCleanup(again.stop)
        self.client.call("x")
        self.assertEqual([1, 1], calls)

    def test_a_file_that_shrinks_is_not_sent_as_a_whole(self):
        got = []

        def create(*, stream):
            got.append(stream.read())

        self.serve({"image.create": create})
        sent = []
        self.assertRaises(errors.Failed, self.client.upload, "image.create", io.BytesIO(b"abc"), 5,
                          sent.append)  # fmt: skip
        self.assertEqual(([], [3]), (got, sent))
        self.client.upload("image.create", io.BytesIO(b"abc"), None, sent.append)
        self.client.upload("image.create", io.BytesIO(b"abcdef"), 5, sent.append)
        self.assertEqual([b"abc", b"abcde"], got)
