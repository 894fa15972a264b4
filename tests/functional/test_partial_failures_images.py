"""Guests whose disks become images, and what kills agent and hypervisor on the way.

A test or more for each row of the list of partial failures that is about snapshots and backups.
"""

from __future__ import annotations

import os
import signal

from compute.engine.clock import SystemClock
from compute.errors import Failed, Retryable
from compute.model import states
from compute.recovery.observe import observe
from compute.recovery.timers import Timers
from compute.steps.inside import FROZEN
from db.journal import rows
from tests import fakes
from tests.crash.matrix import (
    CONTEXT,
    GUEST,
    OLD_IDS,
    PREPARED,
    SNAPSHOT_ID,
    _describe_images,
    child,
    run_now,
)
from tests.functional import test_partial_failures_sleep as sleep
from tests.waiting import wait_until
from virt.fake_copy import COPY, COPYING

TASKS = {**sleep.TASKS, "snapshot": states.IMAGE_SNAPSHOT_PENDING, "backup": states.IMAGE_BACKUP}
ARGS = {"snapshot": {"image_id": SNAPSHOT_ID},
        "backup": {"image_id": SNAPSHOT_ID, "backup_type": "daily", "rotation": 2}}


class ImageFailureTest(sleep.PartialFailureTest):
    """One guest, two backups of it, and an image that waits for its disk."""

    def build(self, device: bool = False) -> None:
        super().build(device)
        _describe_images(self.world)

    def asked(self, verb: str) -> dict:
        prim = self.world.conductor.set(GUEST, task_state=TASKS.get(verb))
        return {"instance": prim, **ARGS.get(verb, {})}

    def images(self) -> dict[str, str]:
        return {image: kept["status"] for image, kept in self.world.images.all().items()}

    def assert_image(self) -> None:
        """It is active, it holds what the disk held, and nothing else is left of the copy."""
        kept = self.world.images.all()[SNAPSHOT_ID]
        self.assertEqual("active", kept["status"])
        self.assertGreaterEqual(kept["content"]["count"], self.counted)
        self.assert_tidy()

    def assert_tidy(self) -> None:
        directory = self.world.driver._dir(GUEST)
        self.assertEqual([], [n for n in (COPY, COPYING) if (directory / n).exists()])
        self.assertNotIn("copy", self.world.driver._read(GUEST))
        self.assertEqual([], self.findings())


class Row14Test(ImageFailureTest):
    """Killed in a snapshot of a guest whose memory is saved."""

    def test_row_14_the_memory_stays_and_the_guest_goes_on_from_it(self):
        for step in ("image", "copy", "upload", "tidy"):
            for moment in sleep.MOMENTS:
                self.build()
                self.do("suspend")
                self.killed("snapshot", f"{step}.{moment}")
                self.recovered()
                self.assert_is(states.SUSPENDED, states.SHUTDOWN, saved=True)
                self.assert_image()
                self.do("resume")
                self.assert_went_on()


class Row20Test(ImageFailureTest):
    """Killed while the block job of a live snapshot runs."""

    def killed_in_the_copy(self, looks: int = 3) -> None:
        self.build()
        self.world.driver.fabric.set(copy_looks=looks)
        self.killed("snapshot", "copy.after_intent")

    def test_row_20_it_goes_on_and_the_definition_was_never_away(self):
        for moment in sleep.MOMENTS:
            self.build()
            self.world.driver.fabric.set(copy_looks=3)
            self.killed("snapshot", f"copy.{moment}")
            self.open()
            self.assertTrue(self.state().persistent)
            self.recovered()
            self.assert_is(states.ACTIVE, states.RUNNING)
            self.assert_image()

    def test_row_20_told_to_stop_after_the_kill_nothing_of_it_is_left(self):
        self.killed_in_the_copy()
        self.open()
        self.world.driver.begin_copy(GUEST)  # the job that goes on without the agent
        [row] = self.world.journal.find(active=True)
        self.world.journal.update(row.id, abort="not wanted")
        self.recovered()
        self.assertEqual(rows.UNDONE, self.world.journal.row(row.id).state)
        self.assert_is(states.ACTIVE, states.RUNNING)
        self.assertNotIn(SNAPSHOT_ID, self.images())
        self.assert_tidy()

    def test_row_20_the_host_went_down_meanwhile(self):
        self.killed_in_the_copy()
        self.open()
        self.world.driver.begin_copy(GUEST)
        self.down()
        self.recovered()
        self.assert_is(states.STOPPED, states.SHUTDOWN)
        self.assert_image()


class Row21Test(ImageFailureTest):
    """Killed while file systems stand still, or just before or after."""

    def test_row_21_they_are_let_go(self):
        for moment in sleep.MOMENTS:
            self.build()
            self.killed("quiesce", f"freeze.{moment}")
            self.recovered()
            self.world.conf.timeouts.frozen = 0  # the time is over
            timers = Timers(self.manager, CONTEXT)
            timers.run_pass(observe(self.world, CONTEXT))
            wait_until(lambda: not self.manager.running())
            self.assertFalse(self.world.driver._read(GUEST).get("frozen"), moment)
            self.assertEqual([], self.world.journal.claims(kind=FROZEN))
            self.assert_tidy()
            self.assert_went_on()


    def test_row_21_killed_in_the_moment_of_a_snapshot(self):
        for method in ("freeze", "finish_copy"):
            self.build()
            args = self.asked("snapshot")
            self.world.conductor.set(GUEST, system_metadata={"image_hw_qemu_guest_agent": "yes"})
            self.world.journal.engine.dispose()

            def work(method=method, args=args) -> None:
                def hook(name: str, when: str) -> None:
                    if (name, when) == (method, "after"):
                        os.kill(os.getpid(), signal.SIGKILL)

                run_now(fakes.world(self.root, hook=hook), "snapshot", args)

            self.assertTrue(os.WIFSIGNALED(child(work)), method)
            self.open()
            self.assertTrue(self.world.driver._read(GUEST)["frozen"])
            self.recovered()
            self.assertFalse(self.world.driver._read(GUEST).get("frozen"), method)
            self.assertEqual([], self.world.journal.claims(kind=FROZEN))
            self.assert_image()


class Row23Test(ImageFailureTest):
    """Killed in the upload."""

    def test_row_23_it_is_uploaded_again_and_no_image_stays_half(self):
        for moment in sleep.MOMENTS:
            self.build()
            self.killed("snapshot", f"upload.{moment}")
            self.recovered()
            self.assert_image()

    def test_row_23_a_guest_that_is_deleted_leaves_no_half_image(self):
        self.build()
        self.killed("snapshot", "upload.after_intent")
        self.open()
        self.world.conductor.set(GUEST, task_state=states.DELETING)
        self.recovered()
        self.assertTrue(self.fields()["deleted"])
        self.assertEqual({"active"}, set(self.images().values()))

    def test_row_23_an_image_service_that_fails_leaves_no_image(self):
        self.build()
        self.world.images.hook = fails("upload")
        self.world.clock = Hasty()
        run_now(self.world, "snapshot", self.asked("snapshot"), {**CONTEXT, "request_id": "r"})
        self.assert_is(states.ACTIVE, states.RUNNING)
        self.assertNotIn(SNAPSHOT_ID, self.images())
        self.assert_tidy()


class Row24Test(ImageFailureTest):
    """Killed in a backup."""

    def test_row_24_it_is_done_and_as_many_stay_as_were_asked_for(self):
        for step in ("copy", "upload", "rotation", "record"):
            for moment in sleep.MOMENTS:
                self.build()
                self.killed("backup", f"{step}.{moment}")
                self.recovered()
                self.assert_is(states.ACTIVE, states.RUNNING)
                self.assert_image()
                self.assertEqual({OLD_IDS[1], SNAPSHOT_ID}, set(self.images()))


class ShelveFailureTest(ImageFailureTest):
    """The guest is shelved, offloaded and unshelved."""

    def asked(self, verb: str) -> dict:
        if verb not in ("shelve", "shelve_offload", "unshelve"):
            return super().asked(verb)
        _, task, args = PREPARED[verb]
        return {"instance": self.world.conductor.set(GUEST, task_state=task), **args}

    def shelved(self, offload: bool) -> None:
        self.build()
        self.world.conf.shelved_offload_time = 0 if offload else -1
        run_now(self.world, "shelve", self.asked("shelve"), {**CONTEXT, "request_id": "req-s"})

    def assert_offloaded(self) -> None:
        fields = self.fields()
        self.assertEqual((states.SHELVED_OFFLOADED, None, None), (
            fields["vm_state"], fields["task_state"], fields["host"]))
        self.assertIsNone(self.state())
        self.assertFalse(self.world.driver._dir(GUEST).exists())
        self.assertEqual([], self.world.journal.claims(guest=GUEST))
        self.assertEqual("active", self.images()[SNAPSHOT_ID])
        self.assertEqual([], self.findings())

    def told_to_stop(self) -> None:
        self.open()
        [row] = self.world.journal.find(active=True)
        self.world.journal.update(row.id, abort="not wanted")
        self.recovered()
        self.assertEqual(rows.UNDONE, self.world.journal.row(row.id).state)


class Row25Test(ShelveFailureTest):
    """Killed in a shelving."""

    def test_row_25_it_is_shelved(self):
        for step in ("shutdown", "copy", "upload", "record", "disks", "offloaded"):
            self.build()
            self.killed("shelve", f"{step}.after_effect")
            self.recovered()
            self.assert_offloaded()

    def test_row_25_told_to_stop_it_runs_again_and_there_is_no_image(self):
        for step in ("shutdown", "off", "copy"):
            self.build()
            self.killed("shelve", f"{step}.after_record")
            self.told_to_stop()
            self.assert_is(states.ACTIVE, states.RUNNING)
            self.assertNotIn(SNAPSHOT_ID, self.images())
            self.assert_tidy()


class Row26Test(ShelveFailureTest):
    """Killed in an offloading."""

    def test_row_26_it_leaves_the_host_whole(self):
        for step in ("image", "domain", "disks", "offloaded"):
            for moment in sleep.MOMENTS:
                self.shelved(offload=False)
                self.killed("shelve_offload", f"{step}.{moment}")
                self.recovered()
                self.assert_offloaded()


class Row27Test(ShelveFailureTest):
    """An unshelving that fails."""

    def test_row_27_nothing_of_it_is_on_the_host(self):
        self.shelved(offload=True)
        self.world.driver.hook = broken("power_on")
        run_now(self.world, "unshelve", self.asked("unshelve"), {**CONTEXT, "request_id": "r"})
        self.world.driver.hook = lambda method, when: None
        self.assert_offloaded()


class Row28Test(ShelveFailureTest):
    """Killed in an unshelving."""

    def test_row_28_it_runs(self):
        for step in ("claim", "disks", "power", "record", "former"):
            for moment in sleep.MOMENTS[1:]:
                self.shelved(offload=True)
                self.killed("unshelve", f"{step}.{moment}")
                self.recovered()
                self.assert_is(states.ACTIVE, states.RUNNING)
                self.assertNotIn(SNAPSHOT_ID, self.images())

    def test_row_28_told_to_stop_it_is_offloaded_and_its_image_is_kept(self):
        for step in ("claim", "disks", "power"):
            self.shelved(offload=True)
            self.killed("unshelve", f"{step}.after_record")
            self.told_to_stop()
            self.assert_offloaded()


class Hasty(SystemClock):
    """Nobody waits."""

    def wait(self, seconds, wake=None):
        super().wait(min(seconds, 0.001), wake)


def fails(method: str):
    """A hook that makes a method fail as a full image service does, each time."""
    def hook(name: str, when: str) -> None:
        if (name, when) == (method, "before"):
            raise Retryable("The image service is full.", now="Nothing was stored.",
                            next="Free space there.", code="disk_full")

    return hook


def broken(method: str):
    """A hook that makes a method fail for good."""
    def hook(name: str, when: str) -> None:
        if (name, when) == (method, "before"):
            raise Failed("It is broken.", code="broken")

    return hook
