"""rebuild through RPC, agent and fake driver."""

from __future__ import annotations

import json

from compute.errors import Failed, Refused, Retryable
from compute.model import states
from compute.rpc import primitives
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import Gate, Once, SharedTest
from tests.waiting import wait_until


class RebuildTest(SharedTest):
    def setUp(self) -> None:
        super().setUp()
        if not [one for one in self.control.image_list() if one["name"] == "other"]:
            self.control.image_create("other", f"{self.cloud.root}/tiny.raw", disk_format="raw",
                                      properties={"hw_disk_bus": "scsi"})
        self.other = self.control.image_show("other")["id"]

    def boot(self, name: str, **more) -> str:
        self.cloud.network()
        return self.cloud.boot(name, networks=["net"], config_drive=True,
                               properties={"role": "front"}, **more)

    def rebuild(self, uuid: str, **more) -> None:
        self.control.server_rebuild(uuid, **more)
        wait_until(lambda: self.cloud.show(uuid)["task_state"] is None,
                   lambda: self.cloud.story(uuid))
        self.host.at_rest()

    def fields(self, uuid: str) -> dict:
        return primitives.data(self.cloud.instance(uuid))

    def disk(self, uuid: str) -> dict:
        return json.loads((self.host.driver._dir(uuid) / "disk").read_bytes())

    def drive(self, uuid: str) -> dict:
        return json.loads((self.host.driver._dir(uuid) / "disk.config").read_bytes())

    def macs(self, uuid: str) -> list[str]:
        return self.host.driver._read(uuid)["nics"]

    def fault(self, uuid: str) -> str:
        with self.control.store.begin() as connection:
            return instances.faults(connection, [uuid])[0]["message"]

    def assert_tidy(self, uuid: str) -> None:
        self.assertFalse(self.host.driver._aside(uuid).exists())
        self.assertEqual({"resources", "disks", "domain", "ports"}, {
            claim.kind for claim in self.host.agent.journal.claims(guest=uuid)})
        self.assert_clean()

    def broken_at(self, method: str, uuid: str) -> None:
        """A rebuild from another image that fails there."""
        self.host.hook = Once(method, lambda: Failed("It is broken.", code="broken"))
        self.rebuild(uuid, image=self.other)
        self.assert_ended(rows.UNDONE, uuid, "rebuild")
        self.assertIn("It is broken", self.fault(uuid))


class InPlaceTest(RebuildTest):
    def test_from_its_own_image_and_from_another(self):
        uuid = self.boot("own")
        before, shown = self.fields(uuid), self.cloud.show(uuid)
        macs, count = self.macs(uuid), self.disk(uuid)["count"]
        for image, password in ((None, "first"), (self.other, "second")):
            self.rebuild(uuid, image=image, password=password)
            self.assert_ended(rows.DONE, uuid, "rebuild")
            self.assertLessEqual(self.disk(uuid)["count"], count)
            self.assertEqual(password, self.drive(uuid)["admin_pass"])
            self.assertEqual(macs, self.macs(uuid))
            self.assertEqual(states.RUNNING, self.host.power(uuid))
            self.assert_tidy(uuid)
        after, now = self.fields(uuid), self.cloud.show(uuid)
        for key in ("metadata", "hostname", "host", "flavor", "info_cache"):
            self.assertEqual(before[key], after[key], key)
        self.assertEqual((shown["addresses"], "own", "other"), (
            now["addresses"], now["name"], now["image"]))
        self.assertEqual(("scsi", "fake-1.0"), tuple(
            after["system_metadata"][f"image_hw_{key}"] for key in ("disk_bus", "machine_type")))
        action = self.control.server_actions(uuid)[-1]
        self.assertEqual(("rebuild", "compute_rebuild_instance", "Success"), (
            action["action"], action["events"][0]["event"], action["events"][0]["result"]))
        self.assertNotIn("second", str(self.host.operations(uuid, "rebuild")[-1].request))

    def test_name_and_metadata_change_when_they_are_given(self):
        uuid = self.boot("former")
        self.rebuild(uuid, name="latter", properties={"role": "back"})
        shown = self.cloud.show(uuid)
        self.assertEqual(("latter", {"role": "back"}), (shown["name"], shown["properties"]))

    def test_a_stopped_one_stays_stopped(self):
        uuid = self.boot("stopped")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.rebuild(uuid, image=self.other)
        self.assertEqual((states.STOPPED, states.SHUTDOWN), (
            self.cloud.show(uuid)["vm_state"], self.host.power(uuid)))
        self.assert_tidy(uuid)

    def test_one_in_error_without_disks_is_made_anew(self):
        uuid = self.boot("broken")
        driver = self.host.driver
        driver.power_off(uuid)
        driver.undefine(uuid)
        driver.delete_disks(uuid)
        self.cloud.change(uuid, vm_state=states.ERROR)
        self.rebuild(uuid)
        self.assertEqual(states.ACTIVE, self.cloud.show(uuid)["vm_state"])
        self.assert_tidy(uuid)

    def test_one_in_error_with_a_saved_memory_boots(self):
        uuid = self.boot("asleep")
        self.host.driver.save(uuid, 1)
        self.cloud.change(uuid, vm_state=states.ERROR)
        self.rebuild(uuid)
        self.assertFalse(self.host.driver.state(uuid).saved)
        self.assertEqual([], self.host.driver.fabric.violations())
        self.assert_tidy(uuid)

    def test_tasks_are_those_of_nova(self):
        uuid, conductor, seen = self.boot("tasks"), self.host.agent.conductor, []
        save = conductor.save

        def noting(context, prim, changes, **expected):
            seen.extend(v for k, v in changes.items() if k == "task_state")
            return save(context, prim, changes, **expected)

        self.patch(conductor, "save", noting)
        self.rebuild(uuid)
        self.assertEqual([states.REBUILD_BLOCK_DEVICE_MAPPING, states.REBUILD_SPAWNING, None], seen)


class UndoneTest(RebuildTest):
    def test_it_goes_on_as_before(self):
        for method in ("cached_image", "power_off", "set_aside_disks", "create_disks", "define",
                       "power_on"):
            uuid = self.boot(method)
            before, disk = self.fields(uuid), self.disk(uuid)
            self.host.driver.clean_shutdown = method != "power_off"
            self.addCleanup(setattr, self.host.driver, "clean_shutdown", True)
            if method == "power_off":
                self.cloud.set(timeouts__shutdown=0)
            self.broken_at(method, uuid)
            after = self.fields(uuid)
            for key in ("vm_state", "image_ref", "metadata", "system_metadata"):
                self.assertEqual(before[key], after[key], f"{method}: {key}")
            self.assertGreaterEqual(self.disk(uuid)["count"], disk["count"], method)
            self.assertEqual(states.RUNNING, self.host.power(uuid), method)
            self.assertEqual([], self.host.driver.fabric.violations())
            self.assert_tidy(uuid)

    def test_an_image_that_does_not_fit_touches_nothing(self):
        uuid = self.boot("small")
        self.host.hook = Once("check_image", lambda: Failed(
            "It does not fit.", code="flavor_disk_too_small"))
        count = self.host.driver._read(uuid)["count"]
        self.rebuild(uuid, image=self.other)
        self.assertEqual(count, self.host.driver._read(uuid)["count"], "it was booted")
        self.assert_tidy(uuid)

    def test_ephemeral_disks_cannot_be_kept(self):
        self.control.flavor_create("eph", vcpus=1, ram=64, disk=1, ephemeral=1)
        uuid = self.control.server_create("eph", "tiny", "eph", networks="none")["id"]
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.cloud.change(uuid, task_state=states.REBUILDING)
        self.cloud.cast(uuid, "rebuild_instance", new_pass="x", injected_files=[], image_ref=None,
                        orig_image_ref=None, orig_sys_metadata=None, bdms=None, recreate=False,
                        on_shared_storage=False, preserve_ephemeral=True, migration=None,
                        scheduled_node=None, limits={}, request_spec=None)
        wait_until(lambda: self.cloud.show(uuid)["task_state"] is None)
        self.assert_ended(rows.UNDONE, uuid, "rebuild")
        self.assertIn("cannot be kept", self.fault(uuid))
        self.assertEqual(states.ACTIVE, self.cloud.show(uuid)["vm_state"])

    def test_a_delete_takes_old_and_new_disks_along(self):
        uuid = self.boot("goes")
        self.host.hook = gate = Gate("create_disks")
        self.control.server_rebuild(uuid)
        gate.wait()
        self.control.server_delete(uuid)
        gate.open = True
        wait_until(lambda: self.host.driver.state(uuid) is None)
        self.host.at_rest()
        for path in (self.host.driver._dir(uuid), self.host.driver._aside(uuid)):
            self.assertFalse(path.exists())
        self.assertEqual([], self.host.findings())


class LostTest(RebuildTest):
    def evacuated(self, uuid: str, status: str) -> None:
        conductor = self.host.agent.world.conductor
        real = conductor.migrations
        self.patch(conductor, "migrations", lambda context, filters: real(context, filters) + (
            [primitives.make("Migration", {"instance_uuid": uuid})]
            if status in filters["status"] else []))

    def test_a_lost_message_makes_an_error_and_keeps_the_disks(self):
        uuid = self.boot("lost")
        disk = self.disk(uuid)
        self.cloud.change(uuid, task_state=states.REBUILDING)
        self.host.reconcile()
        shown = self.cloud.show(uuid)
        self.assertEqual((states.ERROR, None), (shown["vm_state"], shown["task_state"]))
        self.assertIn("message was lost", shown["fault"]["message"])
        self.assertEqual(disk, self.disk(uuid))
        self.rebuild(uuid)
        self.assert_tidy(uuid)

    def test_nothing_is_said_while_it_may_be_evacuated(self):
        uuid = self.boot("taken")
        self.evacuated(uuid, "accepted")
        self.cloud.change(uuid, task_state=states.REBUILDING)
        self.host.reconcile()
        self.assertEqual("taken", self.host.agent.reconciler.verdicts[uuid].row)
        self.assertEqual(states.REBUILDING, self.cloud.show(uuid)["task_state"])
        self.cloud.change(uuid, task_state=None)

    def test_an_agent_that_was_stopped_in_the_middle_goes_on(self):
        uuid = self.boot("restart")
        self.host.hook = Once("define", lambda: Retryable("Not now.", code="unreachable"), times=2)
        self.control.server_rebuild(uuid, image=self.other, password="kept")
        self.host.restart()
        self.host.reconcile()
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual("kept", self.drive(uuid)["admin_pass"])
        self.assert_tidy(uuid)


class RefusedTest(RebuildTest):
    def test_refused_and_nothing_is_changed(self):
        uuid = self.boot("refused")
        before = self.fields(uuid)
        large = self.control.image_create("large", f"{self.cloud.root}/tiny.raw",
                                          disk_format="raw", min_disk=50)["id"]
        for args, change, code in (
                ({"image": "none"}, {}, "image_not_found"),
                ({"image": large}, {}, "flavor_too_small"),
                ({"name": "\n"}, {}, "bad_name"),
                ({}, {"vm_state": states.PAUSED}, "bad_state"),
                ({}, {"vm_state": states.RESIZED}, "bad_state"),
                ({}, {"task_state": states.PAUSING}, "busy")):
            self.cloud.change(uuid, **{"vm_state": states.ACTIVE, "task_state": None, **change})
            error = self.assertRaises(Refused, self.control.server_rebuild, uuid, **args)
            self.assertEqual(code, error.code)
            self.assert_speaks(error)
        self.cloud.change(uuid, vm_state=states.ACTIVE, task_state=None)
        after = self.fields(uuid)
        for key in ("image_ref", "system_metadata", "metadata", "display_name"):
            self.assertEqual(before[key], after[key], key)

    def test_a_message_that_cannot_be_sent_leaves_the_record_as_it_was(self):
        uuid = self.boot("unsent")
        before = self.fields(uuid)

        def cast(*args, **kwargs):
            raise Retryable("The broker is away.", code="broker_unreachable")

        self.patch(self.control.computes, "cast", cast)
        self.assertRaises(Retryable, self.control.server_rebuild, uuid, image=self.other,
                          name="no", properties={"a": "b"})
        after = self.fields(uuid)
        for key in ("image_ref", "system_metadata", "metadata", "display_name", "task_state"):
            self.assertEqual(before[key], after[key], key)
