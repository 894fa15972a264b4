"""What Nova's agent leaves half done with volumes, and what is left here: rows 2, 6, 29 to 35."""

from __future__ import annotations

import os
import pathlib

import fixtures
import testtools

from compute.errors import Failed, Retryable
from compute.manager import Manager
from compute.model import states
from compute.operator.verbs import OperatorVerbs
from compute.recovery import reconcile
from compute.recovery.reconcile import Reconciler
from compute.recovery.timers import Timers
from db.journal import rows
from tests import fakes
from tests.crash import matrix, volumes
from tests.crash.matrix import CONTEXT, GUEST, MEMORY, Case, child, first_life, next_life
from tests.crash.volumes import OTHER, VOLUME
from tests.waiting import PATIENCE, wait_until

MOMENTS = ("before_intent", "after_intent", "after_effect", "after_record")


class VolumeFailureTest(testtools.TestCase):
    """One guest, on files that outlive the agent's process."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        boot_id = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / "boot_id"
        boot_id.write_text("first\n")
        self.patch(reconcile, "BOOT_ID", boot_id)
        self.build()

    def build(self) -> None:
        """A guest that runs without volumes."""
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir(rootdir=MEMORY)).path)
        self.open()
        prim = fakes.instance(uuid=GUEST)
        self.world.conductor.add(prim)
        self.run_now("spawn", fakes.build_args(prim))

    def open(self, volume_hook=None) -> None:
        """The world as an agent that starts now finds it."""
        self.world = fakes.world(self.root, volume_hook=volume_hook)
        self.addCleanup(self.world.journal.engine.dispose)
        self.world.conf.libvirt.device_detach_attempts = 2
        self.world.conf.libvirt.device_detach_timeout = 0.1
        self.manager = Manager(self.world, workers=1)
        self.addCleanup(self.manager.park, PATIENCE)
        self.reconciler = Reconciler(self.manager, CONTEXT, lost_after=0)

    def run_now(self, verb: str, args: dict) -> str:
        """Carry it out; how it ended."""
        request = f"req-{verb}-{len(self.world.journal.find())}"
        matrix.run_now(self.world, verb, args, {**CONTEXT, "request_id": request})
        return self.world.journal.find()[-1].state

    def asked(self, verb: str, **more) -> dict:
        return {"instance": self.world.conductor.instance(CONTEXT, GUEST),
                **volumes.asked(self.world, verb, GUEST), **more}

    def attached(self) -> None:
        """The guest has a volume."""
        self.assertEqual(rows.DONE, self.run_now("attach_volume", self.asked("attach_volume")))

    def killed(self, verb: str, point: str, args: dict) -> None:
        """An agent carries it out and is killed; the next one starts, to rest."""
        case = Case(verb, f"{verb}.{point}")
        self.world.journal.engine.dispose()
        self.assertTrue(os.WIFSIGNALED(child(first_life(self.root, case, args))), case.point)
        self.assertEqual(0, child(next_life(self.root, Case("", ""))))
        self.open()

    def seen(self) -> volumes.Seen:
        return volumes.seen(self.world, GUEST)

    def assert_has(self, *wanted: str, note: str = "") -> None:
        """Every part of the world has these volumes of the guest, and nothing else is left."""
        found = self.seen()
        paths = {f"/volumes/{volume}" for volume in wanted}
        self.assertEqual({part: paths for part in found.paths}, found.paths, note)
        self.assertEqual([], found.left, note)
        self.assertEqual([], self.audit(), note)

    def audit(self) -> list[str]:
        return [f["what"] for f in OperatorVerbs(self.reconciler, {}).audit()["findings"]]


class Row2Test(VolumeFailureTest):
    """A build that ends early had volumes made."""

    def test_row_2_they_stay_the_guests_and_end_with_it(self):
        guest = "aaaaaaaa-0000-4000-8000-00000000000b"
        prim = fakes.instance(uuid=guest)
        self.world.conductor.add(prim)
        args = volumes.with_blank(self.world.conductor, fakes.build_args(prim))

        def fails(method: str, when: str) -> None:
            if (method, when) == ("power_on", "before"):
                raise Failed("It does not start.", code="hypervisor_error")

        self.world.driver.hook = fails
        self.assertEqual(rows.UNDONE, self.run_now("spawn", args))
        self.world.driver.hook = lambda method, when: None
        [made] = self.world.volumes.read()["volumes"]
        found = volumes.seen(self.world, guest)
        self.assertEqual([], found.left)
        self.assertEqual(set(), found.paths["connected"])
        prim = self.world.conductor.set(guest, task_state=states.DELETING)
        self.assertEqual(rows.DONE, self.run_now("delete", {"instance": prim, "bdms": None}))
        self.assertNotIn(made, self.world.volumes.read()["volumes"])


class Row6Test(VolumeFailureTest):
    """The volume service fails while a guest is deleted."""

    def test_row_6_it_is_asked_until_nothing_is_left(self):
        self.attached()
        failed = []

        def away(method: str, when: str) -> None:
            if (method, when) == ("attachment_delete", "before") and len(failed) < 3:
                failed.append(method)
                raise Failed("The volume service is broken.", code="remote_error")

        self.open(volume_hook=away)
        prim = self.world.conductor.set(GUEST, task_state=states.DELETING)
        self.assertEqual(rows.DONE, self.run_now("delete", {"instance": prim, "bdms": {}}))
        self.assertEqual(3, len(failed))
        self.assertEqual(({}, "available"), (self.world.volumes.read()["attachments"],
                                             self.seen().there[VOLUME]))


class Row29Test(VolumeFailureTest):
    """A name was reserved, and the attach never came."""

    def test_row_29_it_is_given_back_after_a_while(self):
        self.killed("reserve_device", "mapping.after_effect", self.asked("reserve_device"))
        self.assertEqual({"reserved"}, self.seen().kinds)
        now = self.world.clock.now() + self.world.conf.timeouts.reserved_volume + 1
        self.patch(self.world.clock, "now", lambda: now)
        timers = Timers(self.manager, CONTEXT)
        timers.run_pass(self.reconciler.run_pass())
        wait_until(lambda: not self.manager.running())
        self.assertEqual(frozenset(), self.seen().kinds)
        self.assert_has()


class Row30Test(VolumeFailureTest):
    """Killed while a volume is attached."""

    def test_row_30_it_is_done_when_the_agent_is_back(self):
        for step in ("connection", "volume", "complete", "record"):
            for moment in MOMENTS:
                self.build()
                self.killed("attach_volume", f"{step}.{moment}", self.asked("attach_volume"))
                self.assert_has(VOLUME, note=f"{step}.{moment}")


class Row31Test(VolumeFailureTest):
    """The volume service does not complete the attachment."""

    def test_row_31_nothing_is_left_of_it(self):
        def fails(method: str, when: str) -> None:
            if (method, when) == ("attachment_complete", "before"):
                raise Failed("It said no.", code="remote_error")

        self.open(volume_hook=fails)
        self.assertEqual(rows.UNDONE, self.run_now("attach_volume", self.asked("attach_volume")))
        self.assert_has()

    def test_row_31_a_guest_that_does_not_let_go_of_it_then_keeps_it_whole(self):
        self.world.driver.clinging = frozenset({VOLUME})
        failed = []

        def once(method: str, when: str) -> None:
            if (method, when) == ("attachment_complete", "before") and not failed:
                failed.append(method)
                raise Failed("It said no.", code="remote_error")

        self.world.volumes.hook = once
        self.assertEqual(rows.DONE, self.run_now("attach_volume", self.asked("attach_volume")))
        self.assert_has(VOLUME)

    def test_row_31_one_that_is_away_is_asked_again(self):
        failed = []

        def away(method: str, when: str) -> None:
            if (method, when) == ("attachment_complete", "after") and len(failed) < 2:
                failed.append(method)
                raise Retryable("It does not answer.", code="unreachable")

        self.open(volume_hook=away)
        self.attached()
        self.assert_has(VOLUME)


class Row32Test(VolumeFailureTest):
    """The guest refuses to let go of a volume."""

    def test_row_32_it_keeps_the_volume_everywhere_and_can_be_asked_again(self):
        self.attached()
        self.world.driver.clinging = frozenset({VOLUME})
        self.assertEqual(rows.UNDONE, self.run_now("detach_volume", self.asked("detach_volume")))
        self.assertIn("does not let go", self.world.conductor.read()["faults"][-1][1])
        self.assertEqual("in-use", self.seen().there[VOLUME])
        self.assert_has(VOLUME)
        self.world.driver.clinging = frozenset()
        self.assertEqual(rows.DONE, self.run_now("detach_volume", self.asked("detach_volume")))
        self.assert_has()


class Row33Test(VolumeFailureTest):
    """Killed while a volume is detached."""

    def test_row_33_it_is_done_when_the_agent_is_back(self):
        for step in ("volume", "connection", "attachment", "record"):
            for moment in MOMENTS:
                self.build()
                self.attached()
                self.killed("detach_volume", f"{step}.{moment}", self.asked("detach_volume"))
                self.assert_has(note=f"{step}.{moment}")
                self.assertEqual("available", self.seen().there[VOLUME])


class Row35Test(VolumeFailureTest):
    """Killed while one volume takes another one's place."""

    def test_row_35_it_is_done_when_the_agent_is_back(self):
        for step in ("copy", "pivot", "complete", "old", "record"):
            for moment in MOMENTS:
                self.build()
                self.attached()
                self.killed("swap_volume", f"{step}.{moment}", self.asked("swap_volume"))
                self.assert_has(OTHER, note=f"{step}.{moment}")

    def test_row_35_of_a_volume_that_its_service_moves_the_id_stays(self):
        self.attached()
        args = self.asked("swap_volume")
        self.world.volumes.set(VOLUME, status="migrating")
        self.assertEqual(rows.DONE, self.run_now("swap_volume", args))
        self.assertNotIn(OTHER, self.world.volumes.read()["volumes"])
        self.assertEqual({f"/volumes/{OTHER}"}, self.seen().paths["guest"])
        self.assert_has(OTHER)  # what it is, under the old id

    def test_row_35_a_service_that_does_not_hear_of_its_end_is_told_again(self):
        self.attached()
        args = self.asked("swap_volume")
        self.world.volumes.set(VOLUME, status="retyping")
        failed = []

        def away(method: str, when: str) -> None:
            if (method, when) == ("migrate_completion", "before") and len(failed) < 2:
                failed.append(method)
                raise Retryable("It does not answer.", code="unreachable")

        self.world.volumes.hook = away
        self.assertEqual(rows.DONE, self.run_now("swap_volume", args))
        self.assert_has(OTHER)

    def test_row_35_a_guest_that_goes_off_in_the_copy_keeps_the_old_one(self):
        self.attached()
        self.world.driver.fabric.set(copy_looks=5)

        def off(method: str, when: str) -> None:
            if (method, when) == ("swap_state", "after"):
                self.world.driver.hook = lambda method, when: None
                self.world.driver.stop_domain(GUEST)

        self.world.driver.hook = off
        self.assertEqual(rows.UNDONE, self.run_now("swap_volume", self.asked("swap_volume")))
        found = self.seen()
        self.assertEqual({f"/volumes/{VOLUME}"}, found.paths["definition"])
        self.assertEqual([], found.left)
