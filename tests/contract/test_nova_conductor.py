"""Our agent under a stock Nova control plane: it leaves the rows that Nova's own agent leaves.

The environment is started once; the scenario's steps run in their order on one host; then one test
for each step compares what it left with the recorded reference (fixtures/rows, made by
`tests/contract/run --record` with Nova's own agent).
"""

import typing

import testtools

from tests.contract import environment, record, rows, scenario

HOST = "magnetar-host"
OPTIONS = "report_interval = 2\n"
# Where we differ from Nova's own agent on purpose: (step, table) -> why.
DIFFERENT = {
    ("get_diagnostics_not_implemented", "instance_faults"):
        "a question that cannot be answered is no fault of the server",
}


class NovaConductorTest(testtools.TestCase):
    """One run of the scenario; each test reads the result of its step."""

    results: typing.ClassVar[dict[str, scenario.Result]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        reason = environment.missing()
        if reason:
            raise cls.skipException(reason)
        with environment.Environment() as env:
            agent = env.start_agent(HOST, OPTIONS)
            cls.results = scenario.Scenario(env, HOST).run()
            cls.log = agent.tail(60)

    def _result(self, step: str) -> scenario.Result:
        result = self.results[step]
        if "skipped" in result:
            self.skipTest(result["skipped"])
        if "failed" in result:
            self.fail(f"{step}: {result['failed']}\nThe agent's log ends:\n{self.log}")
        return result

    def _check(self, step: str) -> None:
        found, wanted = self._result(step), record.load(step)
        self.assertEqual(wanted.get("error"), found.get("error"), f"{step}: the error differs")
        same = {table: wanted_rows for table, wanted_rows in wanted.get("rows", {}).items()
                if (step, table) not in DIFFERENT}
        problems = rows.differences(same, found.get("rows", {}))
        if problems:
            self.fail(f"{step}: not the rows of Nova's own agent:\n" + "\n".join(problems))

    def test_register_leaves_the_rows_of_a_service_and_its_node(self) -> None:
        self._check(scenario.REGISTER)

    def test_ping_is_answered_over_the_base_api(self) -> None:
        answer = self._result(scenario.REGISTER)["answer"]
        self.assertEqual({"service": "compute", "arg": "contract"}, answer)

    def test_build(self) -> None:
        self._check(scenario.BUILD)

    def test_node_counts_the_guest(self) -> None:
        self._check(scenario.HOST_WITH_GUEST)

    def test_stop(self) -> None:
        self._check("stop")

    def test_start(self) -> None:
        self._check("start")

    def test_soft_reboot(self) -> None:
        self._check("reboot_soft")

    def test_hard_reboot(self) -> None:
        self._check("reboot_hard")

    def test_pause_is_refused_as_a_driver_that_cannot_does(self) -> None:
        self._check("pause_not_implemented")

    def test_console_output_is_text_and_changes_nothing(self) -> None:
        self._check("get_console_output")
        self.assertIsInstance(self._result("get_console_output")["answer"], str)

    def test_diagnostics_raise_not_implemented_at_the_caller(self) -> None:
        self._check("get_diagnostics_not_implemented")

    def test_diagnostics_leave_no_fault(self) -> None:
        result = self._result("get_diagnostics_not_implemented")
        self.assertEqual([], result["rows"]["instance_faults"])

    def test_stop_after_all_this(self) -> None:
        self._check("stop_again")

    def test_hard_reboot_of_a_stopped_server_starts_it(self) -> None:
        self._check("reboot_hard_stopped")

    def test_terminate(self) -> None:
        self._check("terminate")

    def test_build_that_does_not_fit_goes_back_to_the_conductor(self) -> None:
        self._check(scenario.NO_ROOM)

    def test_terminate_of_a_server_that_never_ran(self) -> None:
        self._check(scenario.TERMINATE_ERROR)

    def test_node_counts_nothing_at_the_end(self) -> None:
        self._check(scenario.HOST_EMPTY)

    def test_host_uptime_is_a_line_of_text(self) -> None:
        result = self._result("get_host_uptime")
        self.assertNotIn("error", result)
        self.assertIn("load average", result["answer"])

    def test_host_is_disabled_and_enabled(self) -> None:
        self.assertEqual("disabled", self._result("set_host_disabled")["answer"])
        self.assertEqual("enabled", self._result("set_host_enabled")["answer"])

    def test_every_step_of_the_scenario_has_a_reference(self) -> None:
        self.assertEqual(list(scenario.NAMES), list(self.results))
        for name in scenario.NAMES:
            self.assertTrue(record.load(name), name)
