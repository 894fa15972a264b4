"""Two of our agents under a stock Nova control plane: servers move between them.

Every move is asked for through Nova's API layer and carried out by Nova's conductor and our agents,
whose fake hypervisors are in one fabric. What is left is compared with what two of Nova's own
agents leave (fixtures/rows, made by `tests/contract/run --record`).
"""

import json

from compute.model import states
from tests.contract import compared, environment, moves, record
from virt.fake_state import Fabric

HOSTS = ("magnetar-one", "magnetar-two")
OPTIONS = "report_interval = 2\naudit_interval = 5\n"
ABORTED = "a migration's event lasts as long as it, and says Error when it was aborted"


def lose_power(fabric: Fabric, host: str) -> None:
    """Stop all guests of a host, as when its power fails; elsewhere they begin with new disks."""
    for path in (fabric.root(host) / "domains").glob("*.json"):
        domain = json.loads(path.read_bytes())
        path.write_text(json.dumps({**domain, "power_state": states.SHUTDOWN}))
        fabric.set_written(path.stem, 0)


def give_device(fabric: Fabric, host: str, uuid: str) -> None:
    """Give a guest a device that cannot move."""
    path = fabric.root(host) / "domains" / f"{uuid}.json"
    if path.exists():  # else its build failed, which is told by then
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "devices": ["vgpu"]}))


def run(env: environment.Environment) -> moves.TwoHosts:
    """Run the scenario with our agents."""
    fabric = Fabric(env.fabric)
    two = moves.TwoHosts(
        env, HOSTS, lambda host: env.start_moving_agent(host, OPTIONS),
        hold=lambda held: fabric.set(converges=not held),
        burden=lambda host, uuid: give_device(fabric, host, uuid),
        lost=lambda host: lose_power(fabric, host))
    two.run()
    two.results["violations"] = {"answer": fabric.violations()}
    two.results["left"] = {"answer": [
        str(path.relative_to(env.home)) for host in HOSTS
        for path in fabric.root(host).glob("????????-*")]}
    return two


class NovaMovesTest(compared.ComparedTest):
    """See compared."""

    different = {
        ("migrate_live_abort", "instance_actions"): ABORTED,
        ("migrate_live_abort", "instance_actions_events"): ABORTED,
        ("migrate_live_refused", "instance_actions_events"):
            "our destination hears the source before it refuses",
    }

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.run_scenario(run)

    def test_cold_migration(self) -> None:
        self.check("migrate_cold")

    def test_cold_migration_is_reverted(self) -> None:
        self.check("migrate_cold_revert")

    def test_cold_migration_after_one_that_was_reverted(self) -> None:
        self.check("migrate_cold_again")

    def test_cold_migration_is_confirmed(self) -> None:
        self.check("migrate_cold_confirm")

    def test_resize_to_another_host(self) -> None:
        self.check("resize_back")

    def test_resize_to_another_host_is_confirmed(self) -> None:
        self.check("resize_back_confirm")

    def test_live_migration(self) -> None:
        self.check("migrate_live")

    def test_live_migration_of_a_paused_server(self) -> None:
        self.check("pause_before")
        self.check("migrate_live_paused")
        self.check("unpause_after")

    def test_live_migration_is_aborted(self) -> None:
        self.check("migrate_live_abort")

    def test_aborted_live_migration_is_shown_as_such(self) -> None:
        self.assertEqual({
            "conductor_migrate_server": "Success",
            "compute_check_can_live_migrate_destination": "Success",
            "compute_check_can_live_migrate_source": "Success",
            "compute_live_migration": "Error",
            "compute_pre_live_migration": "Error",
            "compute_live_migration_abort": "Success",
        }, self.events("migrate_live_abort"))

    def test_live_migration_is_forced_to_complete(self) -> None:
        self.check("migrate_live_force_complete")

    def test_live_migration_that_a_host_refuses(self) -> None:
        self.check("migrate_live_refused")
        self.assertEqual({
            "conductor_migrate_server": "Error",
            "compute_check_can_live_migrate_destination": "Error",
            "compute_check_can_live_migrate_source": "Success",
        }, self.events("migrate_live_refused"))
        self.check("immovable_terminate")

    def test_server_that_has_moved_is_deleted(self) -> None:
        self.check("held_terminate")

    def test_evacuation(self) -> None:
        self.check("evacuate")

    def test_host_that_was_evacuated_returns(self) -> None:
        self.check("source_returns")

    def test_evacuated_server_is_deleted(self) -> None:
        self.check("move_terminate")

    def test_nodes_count_nothing_at_the_end(self) -> None:
        self.check("source_empty")
        self.check("destination_empty")

    def test_no_guest_ran_twice_or_lost_what_it_wrote(self) -> None:
        self.assertEqual([], self.result("violations")["answer"])

    def test_no_disks_are_left_on_either_host(self) -> None:
        self.result("destination_empty")
        self.assertEqual([], self.result("left")["answer"])

    def test_every_step_of_the_scenario_has_a_reference(self) -> None:
        for name in moves.NAMES:
            self.assertIn(name, self.results)
            self.assertTrue(record.load(name), name)
