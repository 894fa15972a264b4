"""Our agent under a stock Nova control plane: it leaves the rows that Nova's own agent leaves.

The environment is started once; the scenario's steps run in their order on one host; then one test
for each step compares what it left with the recorded reference (fixtures/rows, made by
`tests/contract/run --record` with Nova's own agent).
"""

from tests.contract import compared, environment, record, scenario

HOST = "magnetar-host"
OPTIONS = "report_interval = 2\n"


def run(env: environment.Environment) -> scenario.Scenario:
    """Run the scenario with our agent."""
    env.start_agent(HOST, OPTIONS)
    one = scenario.OneHost(env, HOST)
    one.run()
    return one


class NovaConductorTest(compared.ComparedTest):
    """See compared."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.run_scenario(run)

    def test_register_leaves_the_rows_of_a_service_and_its_node(self) -> None:
        self.check(scenario.REGISTER)

    def test_ping_is_answered_over_the_base_api(self) -> None:
        answer = self.result(scenario.REGISTER)["answer"]
        self.assertEqual({"service": "compute", "arg": "contract"}, answer)

    def test_build(self) -> None:
        self.check(scenario.BUILD)

    def test_node_counts_the_guest(self) -> None:
        self.check(scenario.HOST_WITH_GUEST)

    def test_stop(self) -> None:
        self.check("stop")

    def test_start(self) -> None:
        self.check("start")

    def test_soft_reboot(self) -> None:
        self.check("reboot_soft")

    def test_hard_reboot(self) -> None:
        self.check("reboot_hard")

    def test_pause(self) -> None:
        self.check("pause")

    def test_unpause(self) -> None:
        self.check("unpause")

    def test_suspend(self) -> None:
        self.check("suspend")

    def test_resume(self) -> None:
        self.check("resume")

    def test_crash_dump(self) -> None:
        self.check("trigger_crash_dump")

    def test_password_is_set_when_the_call_returns(self) -> None:
        self.check("set_admin_password")

    def test_rescue(self) -> None:
        self.check("rescue")

    def test_unrescue(self) -> None:
        self.check("unrescue")

    def test_resize_on_the_same_host(self) -> None:
        self.check("resize")

    def test_revert_resize(self) -> None:
        self.check("revert_resize")

    def test_resize_of_a_stopped_server(self) -> None:
        self.check("resize_stopped")

    def test_confirmed_resize_of_a_stopped_server_leaves_it_stopped(self) -> None:
        self.check("confirm_resize_stopped")

    def test_console_output_is_text_and_changes_nothing(self) -> None:
        self.check("get_console_output")
        self.assertIsInstance(self.result("get_console_output")["answer"], str)

    def test_diagnostics_are_numbers_and_change_nothing(self) -> None:
        self.check("get_diagnostics")
        answer = self.result("get_diagnostics")["answer"]
        wanted = record.load("get_diagnostics")["answer"]
        self.assertIn("memory", set(answer) & set(wanted))
        self.assertEqual({int}, {type(value) for value in answer.values()})

    def test_stop_after_all_this(self) -> None:
        self.check("stop_again")

    def test_hard_reboot_of_a_stopped_server_starts_it(self) -> None:
        self.check("reboot_hard_stopped")

    def test_terminate(self) -> None:
        self.check("terminate")

    def test_build_that_does_not_fit_goes_back_to_the_conductor(self) -> None:
        self.check(scenario.NO_ROOM)

    def test_terminate_of_a_server_that_never_ran(self) -> None:
        self.check(scenario.TERMINATE_ERROR)

    def test_node_counts_nothing_at_the_end(self) -> None:
        self.check(scenario.HOST_EMPTY)

    def test_host_uptime_is_a_line_of_text(self) -> None:
        result = self.result("get_host_uptime")
        self.assertNotIn("error", result)
        self.assertIn("load average", result["answer"])

    def test_host_is_disabled_and_enabled(self) -> None:
        self.assertEqual("disabled", self.result("set_host_disabled")["answer"])
        self.assertEqual("enabled", self.result("set_host_enabled")["answer"])

    def test_every_step_of_the_scenario_has_a_reference(self) -> None:
        self.assertEqual(list(scenario.NAMES), list(self.results))
        for name in scenario.NAMES:
            self.assertTrue(record.load(name), name)
