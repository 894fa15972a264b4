"""Our table of RPC methods against the signatures of Nova's own agent (fixtures/rpc_methods.json).

The fixture is recorded from the released Nova by `tests/contract/run --record`.
"""

import json

import testtools

from compute.rpc.contract import METHODS
from tests.contract import record, wire


class RpcMethodsTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.nova = json.loads(record.METHODS.read_text())

    def test_every_method_that_novas_client_sends_is_in_the_table(self) -> None:
        self.assertEqual([], sorted(set(self.nova) - set(METHODS)))

    def test_every_argument_that_novas_agent_takes_is_taken(self) -> None:
        problems = []
        for name in sorted(set(self.nova) & set(METHODS)):
            served = METHODS[name]
            wanted = {*self.nova[name]["args"], *self.nova[name]["optional"]}
            unknown = wanted - {*served.args, *served.optional}
            if unknown:
                problems.append(f"{name} would refuse {sorted(unknown)}")
        self.assertEqual([], problems)

    def test_nothing_is_demanded_that_novas_client_may_leave_out(self) -> None:
        problems = []
        for name in sorted(set(self.nova) & set(METHODS)):
            demanded = set(METHODS[name].args) - set(self.nova[name]["args"])
            if demanded:
                problems.append(f"{name} demands {sorted(demanded)}")
        self.assertEqual([], problems)

    def test_what_is_sent_without_waiting_is_known_as_a_cast(self) -> None:
        problems = [
            f"{name}: {METHODS[name].kind}, Nova has {self.nova[name]['kinds']}"
            for name in sorted(set(self.nova) & set(METHODS))
            if METHODS[name].kind not in self.nova[name]["kinds"]
        ]
        self.assertEqual([], problems)

    def test_captured_messages_pass_the_check_of_arguments(self) -> None:
        seen = set()
        for name in wire.names():
            for message in wire.load(name).to_compute():
                METHODS[message.method].check(message.args)
                seen.add(message.method)
        self.assertIn("build_and_run_instance", seen)
        self.assertIn("external_instance_event", seen)
