"""Guests that are built or deleted, and what kills the agent, or fails, on the way.

A test or more for each row of the list of partial failures that is about spawn and delete, as far
as there is something of it here.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import fixtures

from compute.errors import Failed, Retryable
from compute.model import states
from compute.operations import OPERATIONS
from db.journal import rows
from tests import fakes
from tests.crash.matrix import CONTEXT, GUEST, MEMORY, PREPARED, run_now
from tests.functional import test_partial_failures_sleep as sleep
from tests.functional.test_partial_failures_images import Hasty
from tests.waiting import wait_until


def away(*methods: str, times: int = 2) -> Callable[..., None]:
    """A hook: each of these does not answer that often."""
    left = dict.fromkeys(methods, times)

    def hook(method: str, when: str = "before") -> None:
        if when == "before" and left.get(method, 0) > 0:
            left[method] -= 1
            raise Retryable(f"{method} is not answered.", now="Nothing was changed.",
                            next="It is tried again.", code="away")

    return hook


class BuildFailureTest(sleep.PartialFailureTest):
    """A guest that is asked for, on files that outlive the agent's process."""

    def ask(self) -> None:
        """There is its record, and nothing else."""
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir(rootdir=MEMORY)).path)
        self.boot_id.write_text("first\n")
        self.open()
        self.world.conductor.add(fakes.instance(uuid=GUEST))

    def asked(self, verb: str) -> dict:
        if verb == "spawn":
            return fakes.build_args(self.world.conductor.instance(CONTEXT, GUEST))
        vm_state, task, args = PREPARED[verb]
        return {"instance": self.world.conductor.set(GUEST, task_state=task), **args}

    def world_with(self, **hooks) -> None:
        """The same world, in which others do not answer."""
        self.open()
        self.world = fakes.world(self.root, clock=Hasty(), **hooks)
        self.addCleanup(self.world.journal.engine.dispose)
        self.manager.world = self.world

    def do_delete(self) -> None:
        run_now(self.world, "delete", self.asked("delete"), {**CONTEXT, "request_id": "req-d"})

    def assert_deleted(self) -> None:
        self.assertEqual(rows.DONE, self.world.journal.find()[-1].state)
        self.assertTrue(self.fields()["deleted"])
        self.assert_nothing_left()

    def assert_nothing_left(self, quarantined: int = 0) -> None:
        """Of the guest, on this host."""
        driver = self.world.driver
        aside = driver.root / "_quarantine"
        self.assertEqual((None, [], [], False, quarantined), (
            driver.state(GUEST), self.world.journal.claims(guest=GUEST),
            list((self.root / "ports").iterdir()), driver._dir(GUEST).exists(),
            len(list(aside.iterdir())) if aside.exists() else 0))
        self.assertEqual([], self.findings())


class Row1Test(BuildFailureTest):
    """Killed while a guest is built."""

    def test_row_1_killed_anywhere_it_is_built(self):
        for step in OPERATIONS["spawn"].steps:
            for moment in sleep.MOMENTS[1:3]:  # the others are in the kill matrix
                self.ask()
                self.killed("spawn", f"{step.name}.{moment}")
                self.recovered()
                self.assert_is(states.ACTIVE, states.RUNNING)

    def test_row_1_told_to_stop_after_the_kill_nothing_of_it_is_left(self):
        for step in OPERATIONS["spawn"].undoable():
            self.ask()
            self.killed("spawn", f"{step.name}.after_effect")
            self.open()
            [row] = self.world.journal.find(active=True)
            self.world.journal.update(row.id, abort="not wanted")
            self.recovered()
            self.assertEqual(rows.UNDONE, self.world.journal.row(row.id).state)
            self.assert_nothing_left()
            self.assertEqual((states.ERROR, None, None), tuple(
                self.fields()[name] for name in ("vm_state", "task_state", "host")))


class Row2Test(BuildFailureTest):
    """Killed before the control plane knows the host."""

    def test_row_2_the_journal_knows_and_it_is_built(self):
        for moment in sleep.MOMENTS[:3]:
            self.ask()
            self.killed("spawn", f"claim.{moment}")
            if moment != "after_effect":
                self.open()
                self.assertIsNone(self.fields()["host"])
            self.recovered()
            self.assert_is(states.ACTIVE, states.RUNNING)


class Row3Test(BuildFailureTest):
    """A message to build that comes after the guest was given up."""

    def test_row_3_it_is_stale_and_the_guest_stays_as_it_is(self):
        self.ask()
        args = self.asked("spawn")
        self.world.conductor.set(GUEST, vm_state=states.ERROR, task_state=None)
        run_now(self.world, "spawn", args)
        [row] = self.world.journal.find()
        self.assertEqual((rows.UNDONE, "stale"), (row.state, row.error["code"]))
        self.assertEqual((states.ERROR, None, None), tuple(
            self.fields()[name] for name in ("vm_state", "task_state", "host")))
        self.assert_nothing_left()


class Row5Test(BuildFailureTest):
    """The guest is gone and its ports cannot be given back."""

    def test_row_5_it_is_tried_again_until_they_are(self):
        self.build(device=False)
        self.world_with(network_hook=away("deallocate"))
        self.do_delete()
        self.assert_deleted()

    def test_row_5_and_after_a_kill_as_well(self):
        for moment in sleep.MOMENTS:
            self.build(device=False)
            self.killed("delete", f"ports.{moment}")
            self.recovered()
            self.assert_deleted()


class Row7Test(BuildFailureTest):
    """The guest is gone and what was claimed for it cannot be given back."""

    def test_row_7_it_is_tried_again_until_it_is(self):
        self.build(device=False)
        self.world_with(fail=away("save", "destroy_instance"))
        self.do_delete()
        self.assert_deleted()

    def test_row_7_and_after_a_kill_as_well(self):
        for step in ("release", "record"):
            for moment in sleep.MOMENTS:
                self.build(device=False)
                self.killed("delete", f"{step}.{moment}")
                self.recovered()
                self.assert_deleted()


class Row8Test(BuildFailureTest):
    """A guest that is deleted while its host's agent is away."""

    def test_row_8_it_goes_when_the_agent_is_back_and_its_disks_to_quarantine(self):
        self.build(device=False)
        self.world.conductor.set(GUEST, deleted=True, vm_state=states.DELETED)
        self.open()
        self.reconciler.run_pass()
        wait_until(lambda: not self.manager.running())
        self.assert_nothing_left(quarantined=1)

    def test_row_8_one_that_the_control_plane_merely_does_not_know_is_left(self):
        self.build(device=False)
        self.world.conductor._change("forget", lambda state: state["instances"].pop(GUEST))
        self.open()
        self.assertEqual("unclaimed", self.passes())
        self.assertEqual(states.RUNNING, self.state().power_state)


class Row9Test(BuildFailureTest):
    """The directory of a guest cannot be removed."""

    def test_row_9_it_is_tried_until_it_is(self):
        self.build(device=False)
        self.world_with(hook=away("delete_disks", times=8))
        self.do_delete()
        self.assert_deleted()


class Row10Test(BuildFailureTest):
    """A build that fails, and so does the first try to give its ports back."""

    def test_row_10_nothing_of_it_is_on_the_host_that_hands_it_back(self):
        self.ask()
        self.world_with(network_hook=away("deallocate"))
        self.world.driver.hook = broken
        args = {**self.asked("spawn"), "filter_properties": {
            "retry": {"num_attempts": 1, "hosts": [[fakes.HOST, fakes.HOST]]}}}
        run_now(self.world, "spawn", args)
        self.assertEqual([GUEST], self.world.conductor.read()["rescheduled"])
        self.assertEqual((states.BUILDING, states.SCHEDULING, None), tuple(
            self.fields()[name] for name in ("vm_state", "task_state", "host")))
        self.assert_nothing_left()


def broken(method: str, when: str) -> None:
    """A hypervisor that starts nothing."""
    if (method, when) == ("power_on", "before"):
        raise Failed("QEMU does not start.", now="Nothing runs.", next="See its log.",
                     code="start_failed")

