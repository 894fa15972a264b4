"""A small agent for tests of the command line: a method table with made-up guests, served on a
real unix socket. Each call is checked against the signatures of the real control plane."""

import contextlib
import io
import os
import tempfile
import threading
from typing import Any

import fixtures
import testtools

from compute.errors import Failed, NeedsOperator, Refused
from compute.operator.socket import ControlSocket, method_table
from compute.operator.socket_calls import bind
from compute.operator.verbs import OperatorVerbs
from control.api import ControlPlane
from control.cli.main import main

WEB = "6e5a6c2e-0c0d-4a8c-9df5-4a5f7f2f5b01"
IMAGE = {
    "id": "11111111-0c0d-4a8c-9df5-4a5f7f2f5b01", "name": "tiny", "disk_format": "qcow2",
    "container_format": "bare", "size": 3 << 19, "min_disk": 1, "min_ram": 0,
    "hash_value": "0123456789abcdef" * 8,
    "properties": {"hw_disk_bus": "virtio"}, "status": "active",
}  # fmt: skip
OP = {
    "id": "0f0f0f0f-0c0d-4a8c-9df5-4a5f7f2f5b01", "verb": "spawn", "guest": WEB,
    "state": "running", "step": "disks", "steps_done": 2, "steps_total": 6,
    "started_at": "2026-11-20T10:00:00.000+00:00", "message": None,
}  # fmt: skip


def server(**changes: Any) -> dict[str, Any]:
    """A server as the control plane shows it, in short."""
    return {
        "id": WEB, "name": "web", "status": "ACTIVE", "vm_state": "active", "task_state": None,
        "power_state": "running", "addresses": {"lan": ["10.0.0.2", "10.0.0.3"]},
        "image": "tiny", "flavor": "small", "ram": 512, "disk": 0, "vcpus": 1, "host": "h1",
        "availability_zone": "nova", "created_at": "2026-11-20T10:00:00Z", "fault": None,
        "properties": {"role": "front"},
        **changes,
    }  # fmt: skip


class FakePlane:
    """What is served: ``answers`` holds a value, an error or a function for each method."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.uploaded = b""
        self.answers: dict[str, Any] = {
            "server.list": [server()],
            "server.show": server(),
            "image.list": [IMAGE],
            "image.show": IMAGE,
            "op.list": [OP],
        }
        self.real = method_table(
            ControlPlane.__new__(ControlPlane), OperatorVerbs.__new__(OperatorVerbs)
        )

    def table(self) -> dict[str, Any]:
        """The table: a function for each real method, with its real name."""
        return {name: self._method(name) for name in self.real}

    def _method(self, name: str) -> Any:
        if name == "image.create":

            def upload(*, stream: Any, **args: Any) -> Any:
                bind(self.real, name, args, stream)
                self.uploaded = stream.read()
                return self._answer(name, args)

            return upload

        def call(**args: Any) -> Any:
            bind(self.real, name, args)
            return self._answer(name, args)

        return call

    def _answer(self, name: str, args: dict[str, Any]) -> Any:
        self.calls.append((name, args))
        answer = self.answers.get(name)
        if callable(answer):
            answer = answer(args)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def script(self, name: str, *answers: Any) -> None:
        """Give these answers one after another; the last one for ever."""
        left, guard = list(answers), threading.Lock()

        def next_answer(args: dict[str, Any]) -> Any:
            with guard:
                return left.pop(0) if len(left) > 1 else left[0]

        self.answers[name] = next_answer


class CliCase(testtools.TestCase):
    """Runs commands against a :class:`FakePlane`."""

    def setUp(self) -> None:
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path
        self.path = os.path.join(self.dir, "s")
        for name in ("MAGNETAR_SOCKET", "MAGNETAR_CONFIG", "CLIFF_FIT_WIDTH"):
            self.useFixture(fixtures.EnvironmentVariable(name))
        self.plane = FakePlane()

    def serve(self) -> None:
        """Start the agent, and point commands to it."""
        agent = ControlSocket(self.path, self.plane.table(), lambda: {"version": "9.9"})
        agent.start()
        self.addCleanup(agent.stop, grace=0.2)
        self.useFixture(fixtures.EnvironmentVariable("MAGNETAR_SOCKET", self.path))

    def run_cli(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(words))
            except SystemExit as end:
                code = end.code or 0
        return code, out.getvalue(), err.getvalue()

    def ok(self, *words: str) -> str:
        """The output of a command that has to succeed without a word on stderr."""
        code, out, err = self.run_cli(*words)
        self.assertEqual((0, ""), (code, err))
        return out

    def file(self, name: str, data: bytes) -> str:
        """A file for a command to read."""
        path = os.path.join(self.dir, name)
        with open(path, "wb") as file:
            file.write(data)
        return path


NOT_FOUND = Refused(
    "There is no server nix.", now="Nothing was done.", next="See 'magnetar server list'.",
    code="server_not_found",
)  # fmt: skip
FAILED = Failed("It broke.", now="It is as before.", next="Mend it.", code="broken")
NEEDS = NeedsOperator("Two copies run.", now="Both run.", next="virsh destroy x", code="two")
