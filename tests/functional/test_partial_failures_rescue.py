"""Guests that are rescued, and agents that are killed in it.

A test or more for each row of the list of partial failures that is about rescue.
"""

from __future__ import annotations

import pathlib

import fixtures
import testtools

from compute.errors import Failed
from compute.manager import Manager
from compute.model import states
from compute.recovery.invariants import check
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler
from tests import fakes
from tests.crash.matrix import CONTEXT, GUEST, MEMORY, Case, child, first_life, next_life, run_now
from tests.functional.agent_support import Once
from tests.modes import EVENTLET, ROWS, once
from tests.waiting import PATIENCE, wait_until

TASKS = {"rescue": states.RESCUING, "unrescue": states.UNRESCUING}
MOMENTS = ("after_intent", "after_effect")  # the kill matrix has all of them
OWN = ["disk", "disk.config"]
RESCUED = ["disk.rescue", "disk", "disk.config.rescue"]


@once(ROWS, EVENTLET)
class RescueFailureTest(testtools.TestCase):
    """One guest, on files that outlive the agent's process."""

    def build(self, rescued: bool = False) -> None:
        """A guest that runs its own system, or another."""
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir(rootdir=MEMORY)).path)
        self.open()
        prim = fakes.instance(uuid=GUEST)
        self.world.conductor.add(prim)
        run_now(self.world, "spawn", fakes.build_args(prim), {**CONTEXT, "request_id": "req-0"})
        if rescued:
            self.do("rescue")

    def open(self) -> None:
        """The world as an agent that starts now finds it."""
        self.world = fakes.world(self.root)
        self.addCleanup(self.world.journal.engine.dispose)
        self.manager = Manager(self.world, workers=1)
        self.addCleanup(self.manager.park, PATIENCE)
        self.reconciler = Reconciler(self.manager, CONTEXT, lost_after=0)

    def asked(self, verb: str) -> dict:
        more = {"rescue_password": "word", "clean_shutdown": True} if verb == "rescue" else {}
        return {"instance": self.world.conductor.set(GUEST, task_state=TASKS[verb]), **more}

    def do(self, verb: str) -> None:
        run_now(self.world, verb, self.asked(verb), {**CONTEXT, "request_id": f"req-{verb}"})

    def killed(self, verb: str, point: str) -> None:
        """An agent carries it out and is killed; the next one goes on."""
        case = Case(verb, f"{verb}.{point}")
        args = self.asked(verb)
        self.world.journal.engine.dispose()
        self.assertNotEqual(0, child(first_life(self.root, case, args)))
        self.assertEqual(0, child(next_life(self.root, case)))
        self.open()

    def assert_is(self, vm_state: str, disks: list[str], power: int = states.RUNNING) -> None:
        """What record, hypervisor and directory say of it, all of which agree."""
        fields = self.world.conductor.fields(GUEST)
        self.assertEqual((vm_state, None), (fields["vm_state"], fields["task_state"]))
        self.assertEqual(disks, self.world.driver._read(GUEST)["disks"])
        self.assertEqual(power, self.world.driver.state(GUEST).power_state)
        left = sorted(path.name for path in (self.world.driver.place / GUEST).glob("*rescue*"))
        wanted = ["disk.config.rescue", "disk.rescue", "rescue.json"] \
            if vm_state == states.RESCUED else []
        self.assertEqual(wanted, left)
        self.assertEqual([], check(observe(self.world, CONTEXT)))
        self.assertEqual([], self.world.driver.fabric.violations())


class Row15Test(RescueFailureTest):
    """Killed while the task is rescuing or unrescuing."""

    def test_row_15_killed_anywhere_in_a_rescue_it_ends_rescued(self):
        for step in ("rescue", "shutdown", "off", "domain", "power", "record"):
            for moment in MOMENTS:
                self.build()
                self.killed("rescue", f"{step}.{moment}")
                self.assert_is(states.RESCUED, RESCUED)

    def test_row_15_killed_anywhere_in_an_unrescue_it_ends_with_its_own_system(self):
        for step in ("off", "domain", "power", "record", "rescue"):
            for moment in MOMENTS:
                self.build(rescued=True)
                self.killed("unrescue", f"{step}.{moment}")
                self.assert_is(states.ACTIVE, OWN)

    def test_row_15_told_to_stop_after_the_kill_it_is_as_before(self):
        for verb, vm_state, disks in (("rescue", states.ACTIVE, OWN),
                                      ("unrescue", states.RESCUED, RESCUED)):
            for step in ("off", "domain", "power"):
                self.build(rescued=verb == "unrescue")
                case = Case(verb, f"{verb}.{step}.after_effect")
                args = self.asked(verb)
                self.world.journal.engine.dispose()
                child(first_life(self.root, case, args))
                self.open()
                [row] = self.world.journal.find(active=True)
                self.world.journal.update(row.id, abort="an operator stopped it")
                self.world.journal.engine.dispose()
                self.assertEqual(0, child(next_life(self.root, case)))
                self.open()
                self.assert_is(vm_state, disks)

    def test_row_15_reset_by_an_operator_a_hard_reboot_makes_it_whole(self):
        self.build(rescued=True)
        prim = self.world.conductor.set(GUEST, vm_state=states.ERROR,
                                        task_state=states.REBOOTING_HARD)
        run_now(self.world, "reboot", {"instance": prim, "reboot_type": "HARD"},
                {**CONTEXT, "request_id": "req-reboot"})
        self.assert_is(states.ACTIVE, OWN)

    def test_row_15_lost_before_it_was_journalled(self):
        self.build(rescued=True)
        self.asked("unrescue")
        self.reconciler.run_pass()
        wait_until(lambda: not self.manager.running())
        self.assert_is(states.ACTIVE, OWN)


class Row16Test(RescueFailureTest):
    """A rescue that fails after the guest was powered off."""

    def test_row_16_the_guest_runs_its_own_system_again(self):
        for method in ("power_off", "plug", "define", "power_on"):
            self.build()
            self.world.driver.clean_shutdown = method != "power_off"
            self.world.conf.timeouts.shutdown = 0
            self.world.driver.hook = Once(method, lambda: Failed("No.", code="broken"))
            self.do("rescue")
            self.assert_is(states.ACTIVE, OWN)
            self.assertEqual("No.", self.world.conductor.read()["faults"][-1][1].split(" ")[0])

    def test_row_16_what_cannot_run_again_needs_an_operator_who_is_told_the_command(self):
        self.build()
        self.world.driver.hook = Once("power_on", lambda: Failed("No.", code="broken"), times=2)
        self.do("rescue")
        [row] = self.world.journal.find(active=True)
        self.assertIn(f"magnetar op resolve {row.id} --as retry", row.error["next"])
        self.reconciler.manager.world.driver.hook = lambda method, when: None
        self.world.journal.update(row.id, state="undoing", attempts=0)
        self.manager.start(self.world.journal.row(row.id))
        wait_until(lambda: not self.manager.running())
        self.assert_is(states.ACTIVE, OWN)
