"""Captured messages of a stock Nova 34, reduced: wire.load("stop").cast("stop_instance").

Made by tests/contract/reduce.py. Every message holds `args`; a call to the conductor also holds
`result` or `failure` (class, module, message), and a message to a compute host its `context`.
"""

import copy
import dataclasses
import functools
import json
import pathlib
import typing

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures" / "wire"
COMPUTE = ("compute", "compute-alt")


@dataclasses.dataclass(frozen=True)
class Message:
    """One message. `what` is "Object.method" for conductor calls, else the RPC method's name."""

    kind: str
    to: str
    method: str
    version: str
    namespace: str | None
    what: str
    args: dict[str, typing.Any]
    context: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    result: typing.Any = None
    failure: dict[str, str] | None = None

    @property
    def changes(self) -> dict[str, typing.Any]:
        """The changed fields of a saved or created object, as primitives."""
        primitive = self.args.get("objinst", {})
        data = primitive.get("nova_object.data", {})
        return {name: data[name] for name in primitive.get("nova_object.changes", ())}

    @property
    def expected_task_state(self) -> typing.Any:
        """What a save demands of the stored task_state; None means that it does not ask."""
        return self.args.get("kwargs", {}).get("expected_task_state")


@dataclasses.dataclass(frozen=True)
class Capture:
    """The messages of one scenario in order of time."""

    name: str
    messages: tuple[Message, ...]

    def to_compute(self) -> list[Message]:
        """Return the messages that a compute host received."""
        return [m for m in self.messages if m.to.partition(".")[0] in COMPUTE]

    def cast(self, method: str) -> Message:
        """Return a fresh copy of the message with this method that a compute host received."""
        found = [m for m in self.to_compute() if m.method == method]
        if not found:
            raise KeyError(f"{self.name} has no {method} to a compute host")
        return copy.deepcopy(found[0])

    def calls(self, to: str = "conductor", what: str | None = None) -> list[Message]:
        """Return the calls to a topic, of all kinds or of one, e.g. what="Instance.save"."""
        return [m for m in self.messages
                if m.kind == "call" and m.to == to and what in (None, m.what)]


@functools.cache
def load(name: str) -> Capture:
    """Return the capture of this name. Raises FileNotFoundError if there is none."""
    path = FIXTURES / f"{name}.json"
    return Capture(name, tuple(Message(**m) for m in json.loads(path.read_text())))


def names() -> list[str]:
    """Return the names of all captures."""
    return sorted(path.stem for path in FIXTURES.glob("*.json"))
