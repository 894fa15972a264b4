"""Guests that their owners tend to: crash dumps and rescue, through RPC and fake driver."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import fixtures

from compute.errors import Failed, Refused, Unknown
from compute.model import states
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import Once, SharedTest
from tests.waiting import wait_until


class TendingTest(SharedTest):
    def fault(self, uuid: str) -> str:
        with self.control.store.begin() as connection:
            return instances.faults(connection, [uuid])[0]["message"]

    def kept(self, uuid: str, name: str):
        """What the hypervisor has of a guest."""
        return self.host.driver._read(uuid).get(name)

    def refused(self, code: str, call, *args, **kwargs) -> Refused:
        error = self.assertRaises(Refused, call, *args, **kwargs)
        self.assertEqual(code, error.code)
        self.assert_speaks(error)
        return error

    def newest_event(self, uuid: str) -> tuple[str, str, str, str | None]:
        """(action, event, result, details) of what was asked last."""
        action = self.control.server_actions(uuid)[-1]
        [event] = action["events"]
        return action["action"], event["event"], event["result"], event["details"]


class CrashDumpTest(TendingTest):
    def dump(self, uuid: str, state: str):
        self.control.server_dump(uuid)
        wait_until(lambda: self.host.operations(uuid, "crash_dump"))
        return self.assert_ended(state, uuid, "crash_dump")

    def test_a_guest_is_interrupted_and_its_states_stay(self):
        uuid = self.cloud.boot("dump")
        self.dump(uuid, rows.DONE)
        self.assertEqual(1, self.kept(uuid, "interrupts"))
        self.assertEqual(("trigger_crash_dump", "compute_trigger_crash_dump", "Success", None),
                         self.newest_event(uuid))
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_under_novas_name(self):
        uuid = self.cloud.boot("dump-cast")
        self.cloud.cast(uuid, "trigger_crash_dump")
        wait_until(lambda: self.host.operations(uuid, "crash_dump"))
        self.assert_ended(rows.DONE, uuid, "crash_dump")
        self.assertEqual(1, self.kept(uuid, "interrupts"))

    def test_the_same_request_twice_is_one_interrupt(self):
        uuid = self.cloud.boot("dump-twice")
        for _ in range(2):
            self.control.server_dump(uuid, request_id="req-dump")
        wait_until(lambda: self.host.operations(uuid, "crash_dump"))
        self.assert_ended(rows.DONE, uuid, "crash_dump")
        self.assertEqual(1, self.kept(uuid, "interrupts"))

    def test_one_whose_answer_is_lost_is_not_sent_again(self):
        uuid = self.cloud.boot("dump-lost")
        self.host.hook = Once("inject_nmi", lambda: Unknown("No answer.", code="libvirt_timeout"),
                              "after")
        row = self.dump(uuid, rows.UNDONE)
        self.assertEqual("nmi_unknown", row.error["code"])
        self.assert_speaks(row.error)
        self.assertEqual(1, self.kept(uuid, "interrupts"))
        self.assertIn("not known", self.fault(uuid))
        self.assertEqual("Error", self.newest_event(uuid)[2])
        self.assertEqual(states.ACTIVE, self.cloud.show(uuid)["vm_state"])

    def test_one_that_fails_is_told(self):
        uuid = self.cloud.boot("dump-fails")
        self.host.hook = Once("inject_nmi", lambda: Failed("It cannot.", code="unsupported"))
        self.dump(uuid, rows.UNDONE)
        self.assertEqual("It cannot.", self.fault(uuid))
        self.assert_clean()

    def test_a_guest_that_is_off(self):
        uuid = self.cloud.boot("dump-off")
        self.host.driver.power_off(uuid)
        self.assertEqual("not_running", self.dump(uuid, rows.UNDONE).error["code"])
        self.host.reconcile()
        self.refused("bad_state", self.control.server_dump, uuid)
        self.assert_clean()

    def test_while_something_goes_on_it_is_refused(self):
        uuid = self.cloud.boot("dump-busy")
        self.cloud.change(uuid, task_state=states.PAUSING)
        self.refused("busy", self.control.server_dump, uuid)
        self.cloud.change(uuid, task_state=None)
        self.refused("server_not_found", self.control.server_dump, "nobody")


class RescueTest(TendingTest):
    options = {"rescue_timeout": 0}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        path = os.path.join(cls.shared.root, "tools.raw")
        with open(path, "wb") as file:
            file.truncate(2 << 20)
        for name, properties in (("tools", {}), ("stick", {"hw_rescue_bus": "usb"}),
                                 ("disc", {"hw_rescue_device": "cdrom"}),
                                 ("odd", {"hw_rescue_bus": "floppy"})):
            cls.shared.control.image_create(name, path, disk_format="raw", properties=properties)

    def disks(self, uuid: str) -> list[str]:
        """What the domain has, in its order."""
        return self.kept(uuid, "disks")

    def files(self, uuid: str) -> set[str]:
        return set(os.listdir(self.host.driver.place / uuid))

    def rescue(self, uuid: str, image: str | None = None, **more) -> dict:
        answer = self.control.server_rescue(uuid, image, **more)
        self.cloud.wait_for(uuid, states.RESCUED)
        self.assert_ended(rows.DONE, uuid, "rescue")
        return answer

    def unrescue(self, uuid: str) -> None:
        self.control.server_unrescue(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_ended(rows.DONE, uuid, "unrescue")

    def whole(self, uuid: str, *own: str) -> None:
        """It runs its own system, and nothing of another is left."""
        self.host.at_rest()
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assertEqual(list(own) or ["disk"], self.disks(uuid))
        self.assertEqual([], [name for name in self.files(uuid) if "rescue" in name])
        self.assert_clean()
        self.assertEqual([], self.host.driver.fabric.violations())

    def test_an_iso_image_rescues_and_makes_no_server(self):
        path = os.path.join(self.cloud.root, "live.iso")
        with open(path, "wb") as file:
            file.write(b"\0" * 0x8000 + b"\1CD001")
            file.truncate(1 << 20)
        iso = self.control.image_create("live", path, disk_format="iso")["id"]
        uuid = self.cloud.boot("iso")
        self.rescue(uuid, "live")
        self.assertEqual(["disk.rescue", "disk"], self.disks(uuid))
        self.assertEqual("cdrom", self.host.driver.rescue_disks(uuid)[0].device)
        self.unrescue(uuid)
        self.whole(uuid)
        for make in (lambda: self.control.server_create("x", "live", "small", networks="none"),
                     lambda: self.control.server_rebuild(uuid, image="live")):
            self.refused("bad_image_format", make)
        self.assertIn("ISO", self.built_by_another(iso))

    def built_by_another(self, image: str) -> str:
        """What a control plane that lets it through hears of a build."""
        with fixtures.MonkeyPatch("control.images.Images._bootable_image",
                                  lambda plane, key: plane._image(key)):
            made = self.control.server_create("other", image, "small", networks="none")["id"]
        self.cloud.wait_for(made, states.ERROR)
        return self.assert_ended(rows.UNDONE, made, "spawn").error["what"]

    def test_the_image_that_is_configured(self):
        wanted = self.control.image_show("stick")["id"]
        self.cloud.set(libvirt__rescue_image_id=wanted)
        self.addCleanup(self.cloud.set, libvirt__rescue_image_id="")
        uuid = self.cloud.boot("configured")
        self.rescue(uuid)
        self.assertEqual(["disk", "disk.rescue"], self.disks(uuid))
        [row] = self.host.operations(uuid, "rescue")
        steps = {step.name: step for step in self.host.agent.journal.steps(row.id)}
        self.assertEqual(wanted, steps["image"].outcome["image"]["id"])
        self.unrescue(uuid)
        self.whole(uuid)

    def test_classic_and_back(self):
        uuid = self.cloud.boot("classic", config_drive=True)
        before = self.files(uuid)
        answer = self.rescue(uuid, "tools", password="opensesame")
        self.assertEqual("opensesame", answer["admin_pass"])
        self.assertEqual(["disk.rescue", "disk", "disk.config.rescue"], self.disks(uuid))
        drive = json.loads((self.host.driver.place / uuid / "disk.config.rescue").read_text())
        self.assertEqual("opensesame", drive["admin_pass"])
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assertEqual(("rescue", "compute_rescue_instance", "Success", None),
                         self.newest_event(uuid))
        self.assertEqual("RESCUE", self.cloud.show(uuid)["status"])
        self.assertNotIn("opensesame", str(self.host.operations(uuid, "rescue")))
        self.assert_clean()
        self.host.reconcile()
        self.assertEqual("settled", self.host.agent.reconciler.verdicts[uuid].row)
        self.unrescue(uuid)
        self.assertEqual(("unrescue", "compute_unrescue_instance", "Success", None),
                         self.newest_event(uuid))
        self.whole(uuid, "disk", "disk.config")
        self.assertEqual(before, self.files(uuid))

    def test_without_an_image_it_is_the_guests_own_and_a_password_is_made_up(self):
        uuid = self.cloud.boot("own")
        first, second = self.rescue(uuid)["admin_pass"], None
        self.assertGreaterEqual(len(first), 12)
        self.control.server_unrescue(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        first = self.rescue(uuid, request_id="req-rescue")["admin_pass"]
        self.assertNotIn("admin_pass", self.control.server_rescue(uuid, request_id="req-rescue"))
        found = json.loads((self.host.driver.place / uuid / "disk.rescue").read_text())
        self.assertIn(self.cloud.show(uuid)["image_id"], found["base"])
        self.unrescue(uuid)
        second = self.rescue(uuid)["admin_pass"]
        self.assertNotEqual(first, second)
        self.unrescue(uuid)
        self.whole(uuid)

    def test_stable_disks_stay_where_they_are(self):
        uuid = self.cloud.boot("stable", config_drive=True)
        for image, device, bus in (("stick", "disk", "usb"), ("disc", "cdrom", "")):
            self.rescue(uuid, image)
            self.assertEqual(["disk", "disk.config.rescue", "disk.rescue"], self.disks(uuid))
            system = self.host.driver.rescue_disks(uuid)[-1]
            self.assertEqual(("rescue", device, bus), (system.role, system.device, system.bus))
            self.unrescue(uuid)
        self.whole(uuid, "disk", "disk.config")

    def test_a_wish_that_is_none_ends_it_before_the_guest_is_stopped(self):
        uuid = self.cloud.boot("odd")
        seen: list[str] = []
        self.host.hook = lambda method, when: seen.append(method)
        self.control.server_rescue(uuid, "odd")
        wait_until(lambda: self.host.operations(uuid, "rescue"))
        row = self.assert_ended(rows.UNDONE, uuid, "rescue")
        self.assertEqual("image_unacceptable", row.error["code"])
        self.assert_speaks(row.error)
        self.assertNotIn("power_off", seen)
        self.assertIn("hw_rescue_bus=floppy", self.fault(uuid))
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.whole(uuid)

    def test_a_stopped_guest_and_one_in_error(self):
        uuid = self.cloud.boot("stopped")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.rescue(uuid)
        self.unrescue(uuid)  # active, as Nova has it
        self.cloud.change(uuid, vm_state=states.ERROR)
        self.rescue(uuid, "tools")
        self.unrescue(uuid)
        self.whole(uuid)

    def test_a_stopped_guest_that_cannot_be_rescued_stays_stopped(self):
        uuid = self.cloud.boot("stays")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.host.hook = Once("power_on", lambda: Failed("No.", code="broken"))
        self.control.server_rescue(uuid)
        wait_until(lambda: self.host.operations(uuid, "rescue"))
        self.assert_ended(rows.UNDONE, uuid, "rescue")
        self.cloud.wait_for(uuid, states.STOPPED)
        self.assertEqual((states.SHUTDOWN, ["disk"]), (self.host.power(uuid), self.disks(uuid)))
        self.assert_clean()

    def test_four_conductor_calls_each(self):
        uuid = self.cloud.boot("rescue-calls")
        with self.host.asked() as asked:
            for verb, method, task, more in (
                    ("rescue", "rescue_instance", states.RESCUING, {"rescue_password": "x"}),
                    ("unrescue", "unrescue_instance", states.UNRESCUING, {})):
                self.cloud.change(uuid, task_state=task)
                self.cloud.cast(uuid, method, f"req-{verb}", **more)
                wait_until(lambda verb=verb: self.host.operations(uuid, verb))
                self.assert_ended(rows.DONE, uuid, verb)
                mine = [doing for request, doing in asked if request == f"req-{verb}"]
                self.assertLessEqual(len(mine), 4, mine)
        self.whole(uuid)

    def test_lost_messages(self):
        """What the record does not tell cannot be done; it is told."""
        uuid = self.cloud.boot("lost")
        self.cloud.change(uuid, task_state=states.RESCUING)
        self.host.reconcile()
        row = self.assert_ended(rows.UNDONE, uuid, "rescue")
        self.assertEqual("request_lost", row.error["code"])
        self.assert_speaks(row.error)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.whole(uuid)
        self.rescue(uuid)
        self.cloud.change(uuid, task_state=states.UNRESCUING)
        self.host.reconcile()
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.whole(uuid)

    def test_one_that_cannot_be_unrescued_stays_rescued(self):
        uuid = self.cloud.boot("stuck")
        self.rescue(uuid)
        disks = self.disks(uuid)
        self.host.hook = Once("power_on", lambda: Failed("No.", code="broken"))
        self.control.server_unrescue(uuid)
        wait_until(lambda: self.host.operations(uuid, "unrescue"))
        self.assert_ended(rows.UNDONE, uuid, "unrescue")
        self.cloud.wait_for(uuid, states.RESCUED)
        self.assertEqual("No.", self.fault(uuid))
        self.assertEqual((states.RUNNING, disks), (self.host.power(uuid), self.disks(uuid)))
        self.assert_clean()
        self.unrescue(uuid)
        self.whole(uuid)

    def test_rescued_too_long(self):
        uuid = self.cloud.boot("long")
        self.rescue(uuid)
        self.host.reconcile()
        self.assertEqual(states.RESCUED, self.cloud.show(uuid)["vm_state"])
        self.cloud.set(rescue_timeout=600)
        self.host.reconcile()
        self.assertEqual(states.RESCUED, self.cloud.show(uuid)["vm_state"])
        self.cloud.change(uuid, launched_at=datetime.now(UTC) - timedelta(seconds=700))
        self.host.reconcile()
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.whole(uuid)
        self.cloud.set(rescue_timeout=0)

    def test_a_hard_reboot_forgets_a_rescue_that_came_to_no_end(self):
        uuid = self.cloud.boot("reset")
        self.rescue(uuid)
        self.cloud.change(uuid, vm_state=states.ERROR)  # as an operator resets it
        self.control.server_reboot(uuid, hard=True)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.whole(uuid)

    def test_deleted_while_it_is_rescued(self):
        uuid = self.cloud.boot("deleted")
        self.rescue(uuid)
        self.control.server_delete(uuid)
        wait_until(lambda: self.host.operations(uuid, "delete"))
        self.assert_ended(rows.DONE, uuid, "delete")
        self.assertFalse((self.host.driver.place / uuid).exists())
        self.assert_clean()

    def test_when_it_is_refused(self):
        uuid = self.cloud.boot("refused")
        self.refused("bad_state", self.control.server_unrescue, uuid)
        self.refused("image_not_found", self.control.server_rescue, uuid, "nothing")
        self.rescue(uuid)
        self.refused("bad_state", self.control.server_rescue, uuid)
        self.refused("bad_state", self.control.server_pause, uuid)
        self.control.server_dump(uuid)
        wait_until(lambda: self.host.operations(uuid, "crash_dump"))
        self.assert_ended(rows.DONE, uuid, "crash_dump")
        self.unrescue(uuid)
        self.whole(uuid)

    def test_gone_behind_our_back(self):
        uuid = self.cloud.boot("gone")
        self.rescue(uuid)
        self.host.driver.undefine(uuid)
        self.host.reconcile()
        verdict = self.host.agent.reconciler.verdicts[uuid]
        self.assertEqual("missing-domain", verdict.row)
        self.assertIn("An unrescue", verdict.reason)
        self.assertIn("rescued and does not run", str(self.host.findings()))
        self.unrescue(uuid)
        self.whole(uuid)
