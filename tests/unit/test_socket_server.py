"""The control socket as a server: answers, limits, clients that misbehave, stopping."""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import tempfile
import threading
import time

import fixtures
import testtools
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import errors
from compute.operator.socket import ControlSocket, method_table, status_of
from tests.waiting import PATIENCE, wait_until


class Thing:
    """A target as the control plane is one."""

    def __init__(self):
        self.calls: list = []
        self.gate = threading.Event()

    def echo(self, *, text: str, times: int = 1) -> str:
        self.calls.append(text)
        return text * times

    def server_show(self, server: str) -> dict:
        raise errors.Refused(f"No {server}.", now="N.", next="X.", code="server_not_found")

    def server_stop(self, kind: str):
        raise errors.KINDS[kind]("It happened.", now="It is so.", next="Do it.", code=f"a_{kind}")

    def image_create(self, *, name: str, stream) -> dict:
        digest, count = hashlib.sha256(), 0
        while piece := stream.read(1 << 16):
            digest.update(piece)
            count += len(piece)
        self.calls.append(name)
        return {"bytes": count, "sha256": digest.hexdigest()}

    def wait(self) -> str:
        self.gate.wait(PATIENCE)
        return "waited"

    def boom(self):
        raise KeyError("x")

    def odd(self):
        return object()


class Base(testtools.TestCase):
    def setUp(self):
        super().setUp()
        directory = self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path
        self.path = os.path.join(directory, "s")
        self.thing = Thing()
        self.useFixture(fixtures.FakeLogger(level=100))  # tracebacks of boom() are wanted, unseen

    def serve(self, **options) -> ControlSocket:
        server = ControlSocket(
            self.path, method_table(self.thing), lambda: {"version": "1"}, **options
        )
        server.start()
        self.addCleanup(server.stop, grace=0.2)
        self.addCleanup(self.thing.gate.set)
        return server

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(timeout)
        client.connect(self.path)
        self.addCleanup(client.close)
        return client

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes until the server closes."""
        client = self.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                answer += piece
        client.close()
        return answer

    def post(self, target: str, body, headers=None, **options):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connect()
        connection.request("POST", target, body, headers or {}, **options)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def call(self, method: str, **args):
        return self.post("/v1/call", json.dumps({"method": method, "args": args}))

    def assert_alive(self):
        self.assertEqual((200, {"result": "alive"}), self.call("echo", text="alive"))


class AnswersTest(Base):
    def setUp(self):
        super().setUp()
        self.serve()

    def test_result(self):
        self.assertEqual((200, {"result": "aa"}), self.call("echo", text="a", times=2))

    def test_health(self):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connect()
        connection.request("GET", "/v1/health")
        response = connection.getresponse()
        self.assertEqual({"status": "serving", "version": "1"}, json.loads(response.read()))
        connection.request("GET", "/v1/health")  # on the same connection
        self.assertEqual(200, connection.getresponse().status)

    def test_each_kind_has_its_status(self):
        expected = {
            "refused": 409, "retryable": 503, "failed": 500, "unknown": 504, "needs_operator": 500,
        }  # fmt: skip
        for kind, wanted in expected.items():
            status, answer = self.call("server.stop", kind=kind)
            self.assertEqual(wanted, status)
            self.assertEqual(
                {"kind": kind, "code": f"a_{kind}", "what": "It happened.", "now": "It is so.",
                 "next": "Do it."},
                answer["error"],
            )  # fmt: skip

    def test_refusals_by_code(self):
        self.assertEqual(404, self.call("server.show", server="x")[0])
        self.assertEqual(400, self.call("echo", text=1)[0])
        self.assertEqual(400, status_of(errors.Refused("", code="bad_json")))
        self.assertEqual([], self.thing.calls)

    def test_unforeseen_errors_and_answers(self):
        for method in ("boom", "odd"):
            status, answer = self.call(method)
            error = answer["error"]
            self.assertEqual((500, "unknown", "internal"), (status, error["kind"], error["code"]))
        self.assert_alive()

    def test_bodies_that_are_no_calls(self):
        for body in (b"", b"{", b"[]", b'{"method": 5}', b'{"method": "echo", "arguments": {}}'):
            status, answer = self.post("/v1/call", body)
            self.assertEqual((400, "refused"), (status, answer["error"]["kind"]))
            self.assertIn("Nothing was done", answer["error"]["now"])

    def test_too_large_a_call(self):
        text = "x" * (1 << 20)
        status, answer = self.call("echo", text=text)
        self.assertEqual((400, "bad_size"), (status, answer["error"]["code"]))
        self.assertEqual([], self.thing.calls)
        self.assert_alive()

    def test_unknown_paths_and_verbs(self):
        self.assertEqual(404, self.post("/v2/call", b"{}")[0])
        self.assertIn(b" 501 ", self.raw(b"DELETE /v1/call HTTP/1.1\r\n\r\n").split(b"\r\n")[0])

    def test_the_table_names_nouns_and_verbs(self):
        self.assertEqual(
            {"boom", "echo", "image.create", "odd", "server.show", "server.stop", "wait"},
            set(method_table(self.thing)),
        )


class UploadTest(Base):
    def setUp(self):
        super().setUp()
        self.serve()
        self.data = os.urandom(700_000)
        self.wanted = {"bytes": len(self.data), "sha256": hashlib.sha256(self.data).hexdigest()}

    def args(self, **args):
        return {"X-Magnetar-Args": json.dumps(args)}

    def test_with_a_length(self):
        status, answer = self.post("/v1/upload", self.data, self.args(name="b\u00fcld"))
        self.assertEqual((200, self.wanted), (status, answer["result"]))
        self.assertEqual(["b\u00fcld"], self.thing.calls)

    def test_in_chunks(self):
        headers = {**self.args(name="b"), "Transfer-Encoding": "chunked"}
        pieces = iter([self.data[:10], self.data[10:]])
        status, answer = self.post("/v1/upload", pieces, headers, encode_chunked=True)
        self.assertEqual((200, self.wanted), (status, answer["result"]))

    def test_bad_arguments_are_refused_before_the_body_is_read(self):
        for headers in (self.args(), self.args(nme="b"), {"X-Magnetar-Args": "{"}, {}):
            status, _ = self.post("/v1/upload", b"12345", headers)
            self.assertEqual(400, status)
        self.assertEqual([], self.thing.calls)

    def test_a_client_that_goes_away_fails_the_method(self):
        head = (
            b'POST /v1/upload HTTP/1.1\r\nX-Magnetar-Args: {"name": "b"}\r\n'
            b"Content-Length: 100\r\n\r\n"
        )
        self.assertIn(b"upload_cut", self.raw(head + b"only this"))
        self.assertEqual([], self.thing.calls)
        self.assert_alive()


class MisbehaviourTest(Base):
    def test_idle_clients_are_dropped(self):
        server = self.serve(idle_timeout=0.2)
        client = self.connect()
        self.assertEqual(b"", client.recv(1))
        client = self.connect()
        client.sendall(b"POST /v1/ca")
        self.assertEqual(b"", client.recv(1000))
        server.idle_timeout = PATIENCE
        self.assert_alive()

    def test_one_client_too_many_is_turned_away(self):
        server = self.serve(max_connections=2)
        held = [self.connect(), self.connect()]
        answer = self.raw(b"GET /v1/health HTTP/1.1\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 503 "), answer)
        self.assertIn(b'"busy"', answer)
        for client in held:
            client.close()
        wait_until(lambda: not server._open)
        self.assert_alive()

    def test_long_heads(self):
        self.serve()
        long = b"x" * 70_000
        for head in (
            b"GET /" + long + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: " + long + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 12_000 + b"\r\n",
        ):
            self.assertIn(b" 431 ", self.raw(head).split(b"\r\n")[0])
        self.assert_alive()

    def test_going_away_before_the_answer(self):
        self.serve()
        for _ in range(20):
            client = self.connect()
            body = b'{"method": "echo", "args": {"text": "x", "times": 500000}}'
            client.sendall(
                b"POST /v1/call HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            client.close()
        self.assert_alive()

    @settings(max_examples=60)
    @given(
        st.binary(max_size=200)
        | st.builds(
            lambda verb, path, headers, body: b"%s %s HTTP/1.1\r\n%s\r\n%s"
            % (verb, path, headers, body),
            st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"get"]),
            st.sampled_from([b"/v1/call", b"/v1/upload", b"/v1/health", b"*", b"//", b""]),
            st.sampled_from([
                b"", b"Content-Length: 5\r\n", b"Content-Length: x\r\n", b"Host\r\n",
                b"Transfer-Encoding: chunked\r\n", b"X-Magnetar-Args: {}\r\n", b": \r\n",
                b"Expect: 100-continue\r\nContent-Length: 2\r\n",
            ]),
            st.binary(max_size=60),
        )
    )  # fmt: skip
    def test_any_bytes_leave_it_serving(self, data):
        if not hasattr(self, "_served"):
            self._served = self.serve(idle_timeout=PATIENCE)
        answer = self.raw(data)
        if answer.startswith(b"HTTP/1.1 200"):
            self.assertIn(b"/v1/health", data)
        self.assert_alive()
        self.assertEqual({"alive"}, set(self.thing.calls))


class StopTest(Base):
    def test_running_requests_are_let_finish(self):
        server = self.serve()
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.call("wait")))
        thread.start()
        wait_until(lambda: any(server._open.values()))
        threading.Timer(0.3, self.thing.gate.set).start()
        server.stop(grace=PATIENCE)
        thread.join(PATIENCE)
        self.assertEqual([(200, {"result": "waited"})], answers)
        self.assertFalse(os.path.exists(self.path))

    def test_idle_and_stuck_clients_do_not_hold_it_up(self):
        server = self.serve()
        self.connect()
        stuck = self.connect()
        stuck.sendall(b'POST /v1/call HTTP/1.1\r\nContent-Length: 18\r\n\r\n{"method": "wait"}')
        wait_until(lambda: any(server._open.values()))
        begin = time.monotonic()
        server.stop(grace=0.3)
        self.assertGreater(time.monotonic() - begin, 0.2)
        self.assertFalse(self.thing.gate.is_set(), "the stuck one still waits")

    def test_it_can_be_started_again_elsewhere(self):
        self.serve().stop()
        again = ControlSocket(self.path, method_table(self.thing))
        again.start()
        self.addCleanup(again.stop)
        self.assert_alive()
