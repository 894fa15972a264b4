"""snapshot and backup through RPC, agent and fake driver."""

from __future__ import annotations

import json

from compute.errors import Failed, Refused, Retryable
from compute.model import states
from compute.rpc.serializer import admin_context
from compute.services import images
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import Gate, Once, SharedTest
from tests.waiting import wait_until


class SnapshotTest(SharedTest):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.host.driver.fabric.set, copy_looks=0, disk_full=[])
        # The fake's disks are JSON; what is uploaded as qcow2 is looked into elsewhere.
        self.patch(images, "_inspect", lambda path, image: None)

    def imaged(self, uuid: str, name: str = "copy", **more) -> dict:
        """Ask for an image and wait until it is over; returns the image, empty if there is none."""
        image = self.control.server_image_create(uuid, name, **more)
        self.assertEqual("queued", image["status"])
        return self.ended(uuid, image)

    def ended(self, uuid: str, image: dict) -> dict:
        wait_until(lambda: self.cloud.show(uuid)["task_state"] is None,
                   lambda: self.cloud.story(uuid))
        self.host.at_rest()
        found = [one for one in self.control.image_list() if one["id"] == image["id"]]
        return found[0] if found else {}

    def content(self, image: dict) -> dict:
        """What the fake's disk held when it was copied."""
        path = f"{self.cloud.images._directory}/{image['id']}"
        with open(path, "rb") as file:
            return json.loads(file.read())

    def fault(self, uuid: str) -> str:
        with self.control.store.begin() as connection:
            return instances.faults(connection, [uuid])[0]["message"]

    def assert_untouched(self, uuid: str, vm_state: str = states.ACTIVE) -> None:
        """The guest is what it was, and nothing is left of a copy."""
        self.assertEqual(vm_state, self.cloud.show(uuid)["vm_state"])
        left = [p.name for p in self.host.driver._dir(uuid).iterdir() if "cop" in p.name]
        self.assertEqual([], left)
        self.assertNotIn("copy", self.host.driver._read(uuid))
        self.assertEqual([], self.host.driver.fabric.violations())
        self.assert_clean()


class ImageTest(SnapshotTest):
    def quiet(self, name: str, **properties: str) -> tuple[str, list[bool]]:
        """A server of an image with these properties; and whether its file systems stood still in
        the moment of each copy."""
        path = f"{self.cloud.root}/tiny.raw"
        image = self.control.image_create(name, path, disk_format="raw",
                                          properties=properties)["id"]
        uuid = self.control.server_create(name, image, "small", networks="none")["id"]
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        stood: list[bool] = []

        def look(method: str, when: str) -> None:
            if (method, when) == ("finish_copy", "before"):
                stood.append(bool(self.host.driver._read(uuid).get("frozen")))

        self.host.hook = look
        return uuid, stood

    def assert_goes_on(self, uuid: str) -> None:
        self.assertFalse(self.host.driver._read(uuid).get("frozen"))
        self.assertEqual([], self.host.agent.journal.claims(kind="frozen", guest=uuid))
        self.assert_untouched(uuid)

    def test_the_format_that_images_have_here(self):
        uuid = self.cloud.boot("format")
        self.addCleanup(self.cloud.set, libvirt__snapshot_image_format="",
                        libvirt__snapshot_compression=False)
        for format_, compress, shapes in (("raw", False, 1), ("qcow2", False, 0),
                                          ("", True, 1), ("raw", True, 1)):
            self.cloud.set(libvirt__snapshot_image_format=format_,
                           libvirt__snapshot_compression=compress)
            before = self.host.driver.calls.get("shape_copy", 0)
            image = self.imaged(uuid, f"as-{format_ or 'it-is'}-{compress}")
            self.assertEqual(("active", format_ or "qcow2", shapes), (
                image["status"], image["disk_format"],
                self.host.driver.calls.get("shape_copy", 0) - before))
            self.assert_untouched(uuid)

    def test_file_systems_stand_still_for_the_moment(self):
        uuid, stood = self.quiet("still", hw_qemu_guest_agent="yes")
        self.assertEqual("active", self.imaged(uuid)["status"])
        self.assertEqual([True], stood)
        self.assert_goes_on(uuid)

    def test_an_agent_that_is_not_there_matters_only_if_the_image_says_so(self):
        self.patch(self.host.driver, "agent", False)
        uuid, stood = self.quiet("silent", hw_qemu_guest_agent="yes")
        self.assertEqual("active", self.imaged(uuid)["status"])
        self.assert_goes_on(uuid)
        other, stood_other = self.quiet("strict", hw_qemu_guest_agent="yes",
                                        os_require_quiesce="yes")
        self.assertEqual({}, self.imaged(other))
        self.assertIn("No agent runs", self.fault(other))
        self.assertEqual(([False], []), (stood, stood_other))
        self.assert_goes_on(other)

    def test_an_image_that_says_nothing_of_an_agent_asks_none(self):
        uuid, stood = self.quiet("plain")
        self.assertEqual("active", self.imaged(uuid)["status"])
        self.assertEqual([False], stood)

    def test_who_had_them_stand_still_lets_them_go(self):
        uuid, stood = self.quiet("frozen", hw_qemu_guest_agent="yes")
        client = self.cloud.client()
        client.call(admin_context(), "quiesce_instance", instance=self.cloud.instance(uuid))
        self.assertEqual("active", self.imaged(uuid)["status"])
        self.assertEqual(([True], True), (stood, self.host.driver._read(uuid)["frozen"]))
        client.cast(admin_context(), "unquiesce_instance", instance=self.cloud.instance(uuid),
                    mapping=None)
        wait_until(lambda: not self.host.driver._read(uuid).get("frozen"))
        self.host.at_rest()
        self.assert_goes_on(uuid)

    def test_of_a_guest_that_runs(self):
        uuid = self.cloud.boot("runs")
        count = self.host.driver.count_on_disk(uuid)
        image = self.imaged(uuid, properties={"mine": "yes"})
        self.assertEqual(("active", "qcow2", 1), tuple(
            image[key] for key in ("status", "disk_format", "min_disk")))
        self.assertEqual(count, self.content(image)["count"])
        self.assertEqual(
            ("yes", "snapshot", uuid, "fake-1.0"), tuple(image["properties"][key] for key in (
                "mine", "image_type", "instance_uuid", "hw_machine_type")))
        action = self.control.server_actions(uuid)[-1]
        self.assertEqual(("createImage", "compute_snapshot_instance", "Success"), (
            action["action"], action["events"][0]["event"], action["events"][0]["result"]))
        self.assert_untouched(uuid)

    def test_of_guests_that_do_not_run(self):
        for verb, vm_state in (("stop", states.STOPPED), ("pause", states.PAUSED),
                               ("suspend", states.SUSPENDED)):
            uuid = self.cloud.boot(verb)
            getattr(self.control, f"server_{verb}")(uuid)
            self.cloud.wait_for(uuid, vm_state)
            self.assertEqual("active", self.imaged(uuid, verb)["status"])
            self.assertEqual(vm_state == states.SUSPENDED, self.host.driver.state(uuid).saved)
            self.assert_untouched(uuid, vm_state)

    def test_tasks_are_those_of_nova(self):
        uuid = self.cloud.boot("tasks")
        conductor, seen = self.host.agent.conductor, []
        save = conductor.save

        def noting(context, prim, changes, **expected):
            seen.extend(v for k, v in changes.items() if k == "task_state")
            return save(context, prim, changes, **expected)

        self.patch(conductor, "save", noting)
        with self.host.asked() as asked:
            self.imaged(uuid)
        self.assertEqual([states.IMAGE_SNAPSHOT, states.IMAGE_PENDING_UPLOAD,
                          states.IMAGE_UPLOADING, None], seen)
        mine = [doing for _, doing in asked if "Compute" not in doing and "Service" not in doing]
        self.assertLessEqual(len(mine), 9, mine)  # Nova's agent asks nine times

    def test_a_server_is_made_from_it(self):
        uuid = self.cloud.boot("first")
        image = self.imaged(uuid, "golden")
        made = self.control.server_create("second", image["id"], "small", networks="none")["id"]
        self.cloud.wait_for(made, states.ACTIVE)
        self.assertIn(image["id"], str(self.host.driver.count_on_disk(made)) + image["id"])

    def test_no_server_is_made_before_it_is_whole(self):
        uuid = self.cloud.boot("early")
        self.host.hook = gate = Gate("begin_copy")
        image = self.control.server_image_create(uuid, "early-copy")
        gate.wait()
        error = self.assertRaises(Refused, self.control.server_create, "x", image["id"], "small",
                                  networks="none")
        self.assertEqual("image_not_active", error.code)
        self.assert_speaks(error)
        gate.open = True
        self.assertEqual("active", self.ended(uuid, image)["status"])

    def test_a_large_disk_is_waited_for(self):
        uuid = self.cloud.boot("large")
        self.host.driver.fabric.set(copy_looks=5)
        self.assertEqual("active", self.imaged(uuid)["status"])
        self.assert_untouched(uuid)

    def test_a_copy_that_never_gets_level_is_stopped(self):
        uuid = self.cloud.boot("busy")
        self.host.driver.fabric.set(copy_looks=10**6)
        image = self.control.server_image_create(uuid, "never")
        [row] = wait_until(lambda: [row for row in self.host.operations(uuid, "snapshot")
                                    if row.step == "copy"])
        self.host.agent.manager.abort(row.id, "it is not wanted any more")
        self.assertEqual({}, self.ended(uuid, image))
        self.assert_ended(rows.UNDONE, uuid, "snapshot")
        self.assert_untouched(uuid)

    def test_no_room(self):
        uuid = self.cloud.boot("full")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.host.driver.fabric.set(disk_full=[self.host.name])
        self.assertEqual({}, self.imaged(uuid))
        self.assertIn("no room", self.fault(uuid))
        self.assert_untouched(uuid, states.STOPPED)

    def test_a_guest_that_goes_off_meanwhile_is_copied_as_it_is_then(self):
        uuid = self.cloud.boot("dies")
        self.host.hook = Once("finish_copy", lambda: Retryable("It is lost.", code="copy_lost"))
        self.host.driver.fabric.set(copy_looks=2)
        image = self.control.server_image_create(uuid, "dead")
        self.host.driver.stop_domain(uuid)
        image = self.ended(uuid, image)
        self.assertEqual("active", image["status"])
        self.assertEqual(self.host.driver.count_on_disk(uuid), self.content(image)["count"])
        self.host.reconcile()
        self.assert_untouched(uuid, states.STOPPED)

    def test_a_failure_leaves_no_image(self):
        uuid = self.cloud.boot("fails")
        self.host.hook = Once("begin_copy", lambda: Failed("It cannot be copied.", code="broken"))
        self.assertEqual({}, self.imaged(uuid))
        self.assert_ended(rows.UNDONE, uuid, "snapshot")
        self.assertIn("cannot be copied", self.fault(uuid))
        self.assertEqual("Error", self.control.server_actions(uuid)[-1]["events"][0]["result"])
        self.assert_untouched(uuid)

    def test_a_delete_takes_the_copy_and_the_image_along(self):
        uuid = self.cloud.boot("goes")
        self.host.driver.fabric.set(copy_looks=10**6)
        image = self.control.server_image_create(uuid, "gone")
        wait_until(lambda: self.host.driver._read(uuid).get("copy"))
        self.control.server_delete(uuid)
        wait_until(lambda: self.host.driver.state(uuid) is None)
        self.host.at_rest()
        self.assertNotIn(image["id"], [one["id"] for one in self.control.image_list()])
        self.assertEqual([], self.host.findings())

    def test_a_lost_message_is_done_all_the_same(self):
        uuid = self.cloud.boot("lost")
        image = self.cloud.images.reserve(name="x", min_disk=0, min_ram=0,
                                          properties={"instance_uuid": uuid})
        self.cloud.change(uuid, task_state=states.IMAGE_SNAPSHOT_PENDING)
        self.host.reconcile()
        self.assertEqual("active", self.cloud.images.show(image.id).status)
        self.assert_untouched(uuid)

    def test_a_lost_message_without_an_image_only_clears_the_task(self):
        uuid = self.cloud.boot("without")
        self.cloud.change(uuid, task_state=states.IMAGE_SNAPSHOT_PENDING)
        self.host.reconcile()
        self.assertIsNone(self.cloud.show(uuid)["task_state"])
        self.assertIn("is not there", self.fault(uuid))
        self.assert_untouched(uuid)

    def test_an_image_that_is_active_is_never_written_to(self):
        uuid = self.cloud.boot("twice")
        image = self.imaged(uuid)
        before = self.content(image)
        self.cloud.change(uuid, task_state=states.IMAGE_SNAPSHOT_PENDING)
        self.cloud.cast(uuid, "snapshot_instance", image_id=image["id"])
        self.assertEqual("active", self.ended(uuid, image)["status"])
        self.assert_ended(rows.UNDONE, uuid, "snapshot")
        self.assertIn("is active already", self.fault(uuid))
        self.assertEqual(before, self.content(image))

    def test_a_stale_message_takes_its_image_along_and_nothing_else(self):
        uuid = self.cloud.boot("stale")
        image = self.cloud.images.reserve(name="x", min_disk=0, min_ram=0, properties={})
        prim = self.cloud.instance(uuid)
        prim["nova_object.data"]["task_state"] = states.IMAGE_SNAPSHOT_PENDING
        self.cloud.cast(uuid, "snapshot_instance", image_id=image.id, instance=prim)
        wait_until(lambda: self.cloud.images.status({}, image.id) is None)
        self.assert_ended(rows.UNDONE, uuid, "snapshot")
        self.assert_untouched(uuid)

    def test_the_same_request_is_one_image(self):
        uuid = self.cloud.boot("once")
        first = self.control.server_image_create(uuid, "one", request_id="req-one")
        again = self.control.server_image_create(uuid, "one", request_id="req-one")
        self.assertEqual(first["id"], again["id"])
        self.ended(uuid, first)
        self.assertEqual(1, len(self.host.operations(uuid, "snapshot")))

    def test_refused_and_nothing_is_left(self):
        uuid = self.cloud.boot("refused")
        images_before = self.control.image_list()
        for values, code, words in (
                ({"vm_state": states.RESIZED}, "bad_state", "while it is resized"),
                ({"vm_state": states.ERROR}, "bad_state", "while it is error"),
                ({"task_state": states.PAUSING}, "busy", "make an image of")):
            self.cloud.change(uuid, vm_state=states.ACTIVE, task_state=None)
            self.cloud.change(uuid, **values)
            error = self.assertRaises(Refused, self.control.server_image_create, uuid, "no")
            self.assertEqual(code, error.code)
            self.assertIn(words, error.what)
            self.assert_speaks(error)
        self.cloud.change(uuid, vm_state=states.ACTIVE, task_state=None)
        self.assertEqual("bad_name", self.assertRaises(
            Refused, self.control.server_image_create, uuid, "\n").code)
        for rotation in (-1, "two", True, None):
            self.assertEqual("bad_value", self.assertRaises(
                Refused, self.control.server_backup_create, uuid, rotation=rotation).code)
        self.assertEqual(images_before, self.control.image_list())


class BackupTest(SnapshotTest):
    def backup(self, uuid: str, kind: str, rotation: int) -> dict:
        image = self.control.server_backup_create(uuid, f"{kind}", kind, rotation)
        return self.ended(uuid, image)

    def kept(self, uuid: str) -> list[str]:
        return [one["id"] for one in self.control.image_list()
                if one["properties"].get("instance_uuid") == uuid]

    def test_rotation(self):
        uuid = self.cloud.boot("rotates")
        other = self.backup(uuid, "weekly", 1)
        snapshot = self.imaged(uuid)
        made = [self.backup(uuid, "daily", 2)["id"] for _ in range(3)]
        self.assertEqual([other["id"], snapshot["id"], *made[1:]], self.kept(uuid))
        self.assertEqual(("createBackup", "compute_backup_instance"), (
            self.control.server_actions(uuid)[-1]["action"],
            self.control.server_actions(uuid)[-1]["events"][0]["event"]))
        self.assertEqual({}, self.backup(uuid, "daily", 0))  # none at all, as in Nova
        self.assertEqual([other["id"], snapshot["id"]], self.kept(uuid))
        self.assert_untouched(uuid)

    def test_a_failed_backup_costs_no_older_one(self):
        uuid = self.cloud.boot("keeps")
        first = self.backup(uuid, "daily", 1)
        self.host.hook = Once("begin_copy", lambda: Failed("It cannot be copied.", code="broken"))
        self.assertEqual({}, self.backup(uuid, "daily", 1))
        self.assertEqual([first["id"]], self.kept(uuid))
        self.assert_untouched(uuid)

    def test_a_message_that_makes_no_sense_changes_nothing(self):
        uuid = self.cloud.boot("nonsense")
        first = self.backup(uuid, "daily", 1)
        for rotation, image_id in ((-1, first["id"]), (1, "")):
            self.cloud.cast(uuid, "backup_instance", image_id=image_id, backup_type="daily",
                            rotation=rotation)
        wait_until(lambda: self.log.output.count("A backup needs") == 2)
        self.assertEqual([first["id"]], self.kept(uuid))
        self.assert_untouched(uuid)

    def test_a_lost_message_removes_nothing(self):
        uuid = self.cloud.boot("lost-backup")
        first = self.backup(uuid, "daily", 1)
        second = self.cloud.images.reserve(name="x", min_disk=0, min_ram=0, properties={
            "instance_uuid": uuid, "image_type": "backup", "backup_type": "daily"})
        self.cloud.change(uuid, task_state=states.IMAGE_BACKUP)
        self.host.reconcile()
        self.assertEqual([first["id"], second.id], self.kept(uuid))
        self.assertIsNone(self.cloud.show(uuid)["task_state"])
