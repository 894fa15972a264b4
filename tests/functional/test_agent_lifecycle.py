"""The tenant's verbs through embedded control plane, RPC, agent and fake driver."""

from __future__ import annotations

import os
import threading

from compute.errors import Failed, MagnetarError, Refused
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import admin_context
from db.control import instances, records, services
from db.journal import rows
from tests.functional.agent_support import (
    FAR,
    AgentTest,
    Gate,
    Once,
    SharedTest,
    network_info,
)
from tests.waiting import wait_until


class LifeTest(SharedTest):
    def test_create_show_and_delete(self):
        self.cloud.network()
        uuid = self.cloud.boot("life", networks=["net"], config_drive=True,
                               properties={"role": "web"})
        shown = self.cloud.show(uuid)
        self.assertEqual(("ACTIVE", "host1", states.RUNNING, {"role": "web"}),
                         (shown["status"], shown["host"], self.host.power(uuid),
                          shown["properties"]))
        [address] = shown["addresses"]["net"]
        [nic] = network_info(self.cloud.instance(uuid))
        self.assertEqual(address, nic["network"]["subnets"][0]["ips"][0]["address"])
        self.assert_clean()

        self.control.server_delete(uuid)
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.host.at_rest()
        self.assertIsNone(self.host.power(uuid))
        self.assertEqual([], self.host.agent.journal.claims(guest=uuid))
        self.assertNotIn(uuid, self.host.driver.guest_dirs())
        self.assertEqual(0, self.control.network_show("net")["ports"])
        self.assert_clean()

    def test_the_instance_has_what_novas_agent_writes(self):
        uuid = self.cloud.boot("fields")
        fields = primitives.data(self.cloud.instance(uuid))
        self.assertEqual(
            ("host1", "host1", "host1", states.ACTIVE, None, states.RUNNING, "/dev/vda"),
            tuple(fields[name] for name in ("host", "node", "launched_on", "vm_state",
                                            "task_state", "power_state", "root_device_name")))
        self.assertIsNotNone(fields["launched_at"])
        self.assertEqual("fake-1.0", fields["system_metadata"]["image_hw_machine_type"])
        node = primitives.data(self.host.agent.tracker.record)
        self.assertEqual(node["id"], fields["compute_id"])
        with self.control.store.begin() as connection:
            [device] = records.devices(connection, [uuid])
        self.assertEqual("/dev/vda", device["device_name"])

    def test_stop_start_and_both_reboots(self):
        uuid = self.cloud.boot("power")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.assertEqual(states.SHUTDOWN, self.host.power(uuid))
        self.control.server_start(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        for hard in (False, True):
            before = self.host.driver.calls.get("power_on", 0)
            self.control.server_reboot(uuid, hard=hard)
            self.cloud.wait_for(uuid, states.ACTIVE)
            self.host.at_rest()
            self.assertEqual(before + 1, self.host.driver.calls["power_on"])
            self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assert_clean()

    def test_what_was_asked_and_done_is_shown(self):
        uuid = self.cloud.boot("actions")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.host.at_rest()
        actions = self.control.server_actions(uuid)
        self.assertEqual(["create", "stop"], [a["action"] for a in actions])
        events = [event for action in actions for event in action["events"]]
        self.assertEqual([("compute__do_build_and_run_instance", "Success", "host1"),
                          ("compute_stop_instance", "Success", "host1")],
                         [(e["event"], e["result"], e["host"]) for e in events])

    def test_a_guest_that_ignores_the_shutdown_is_forced(self):
        uuid = self.cloud.boot("deaf")
        self.host.driver.clean_shutdown = False
        self.addCleanup(setattr, self.host.driver, "clean_shutdown", True)
        self.cloud.set(timeouts__shutdown=0)
        self.addCleanup(self.cloud.set, timeouts__shutdown=60)
        before = self.host.driver.calls.get("power_off", 0)
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.assertEqual(before + 1, self.host.driver.calls["power_off"])

    def test_console(self):
        uuid = self.cloud.boot("console")
        with open(self.host.driver.root / uuid / "console.log", "w") as log:
            log.write("one\ntwo\nthree\n")
        self.assertEqual("one\ntwo\nthree\n", self.control.console_log(uuid))
        self.assertEqual("two\nthree\n", self.control.console_log(uuid, 2))
        self.assertEqual("", self.control.console_log(uuid, 0))

    def test_a_failed_start_leaves_the_guest_stopped_and_says_why(self):
        uuid = self.cloud.boot("broken")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.host.hook = Once("power_on", lambda: Failed("The machine is broken.", code="broken"))
        self.control.server_start(uuid)
        wait_until(lambda: self.host.operations(uuid, "start"))
        self.assert_ended(rows.UNDONE, uuid, "start")
        self.cloud.wait_for(uuid, states.STOPPED)
        with self.control.store.begin() as connection:
            [fault] = instances.faults(connection, [uuid])
        self.assertEqual("The machine is broken.", fault["message"])
        self.assert_clean()
        self.control.server_start(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)

    def test_a_reboot_that_loses_the_guest_puts_it_in_error_and_a_hard_one_repairs_it(self):
        uuid = self.cloud.boot("repair")
        self.host.hook = Once("define", lambda: Failed("It cannot be defined.", code="broken"))
        self.control.server_reboot(uuid)
        shown = self.cloud.wait_for(uuid, states.ERROR)
        self.assertIn("It cannot be defined.", shown["fault"]["message"])
        self.host.at_rest()
        self.control.server_reboot(uuid, hard=True)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_the_password_is_in_the_config_drive_and_nowhere_else(self):
        given = []
        def hook(method, when):
            if (method, when) == ("create_disks", "before"):
                operation = self.host.operations(verb="spawn")[-1]
                given.append(self.host.agent.world.secrets.load(operation.id, "guest"))
        self.host.hook = hook
        self.cloud.boot("secret", config_drive=True)
        [password] = [found["admin_pass"] for found in given]
        self.host.agent.journal.engine.dispose()
        for name in os.listdir(self.host.root):
            path = self.host.root / name
            if path.is_file():
                self.assertNotIn(password.encode(), path.read_bytes(), name)
        self.assertEqual([], os.listdir(self.host.root / "secrets"))
        self.assertNotIn(password, self.log.output)

    def test_how_often_the_conductor_is_asked(self):
        """Goals of the performance page: at most 10 calls for a build, 6 for a delete, with the
        inventory's one. The network service is asked through the conductor here, once for each."""
        self.cloud.network()
        asked = self.enterContext(self.host.asked())
        for networks, most in (("none", (10, 6)), (["net"], (10, 7))):
            uuid = self.cloud.boot("counted", networks=networks, request_id=f"req-build-{most[1]}")
            self.control.server_delete(uuid, request_id=f"req-delete-{most[1]}")
            wait_until(lambda uuid=uuid: self.cloud.show(uuid)["status"] == "DELETED")
            self.host.at_rest()
            built = [doing for request, doing in asked if request == f"req-build-{most[1]}"]
            deleted = [doing for request, doing in asked if request == f"req-delete-{most[1]}"]
            self.assertLessEqual(len(built) + 1, most[0], built)
            self.assertLessEqual(len(deleted) + 1, most[1], deleted)
            asked.clear()

    def test_the_inventory_is_told_once_after_each_change(self):
        uuid = self.cloud.boot("inventory")
        free = wait_until(lambda: self._free_memory() if self._told() else None)
        self.control.server_delete(uuid)
        wait_until(lambda: self._free_memory() == free + 64)

    def _told(self):
        """Whether the control plane's record says what the host claims."""
        wanted = self.host.agent.tracker.fields()["memory_mb_used"]
        return self.host.agent.tracker.record["nova_object.data"]["memory_mb_used"] == wanted

    def _free_memory(self):
        with self.control.store.begin() as connection:
            [node] = services.nodes(connection)
        return node["free_ram_mb"]


class ConflictTest(SharedTest):
    def test_delete_while_the_guest_is_being_built(self):
        gate = self.host.hook = Gate("define")
        uuid = self.cloud.create("early")["id"]
        gate.wait()
        self.control.server_delete(uuid)
        waiting = wait_until(lambda: self.host.operations(uuid, "delete"))[0]
        self.assertEqual(self.host.operations(uuid, "spawn")[0].id, waiting.waits_for)
        gate.open = True
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.assert_ended(rows.UNDONE, uuid, "spawn")
        self.assert_ended(rows.DONE, uuid, "delete")
        self.assertIsNone(self.host.power(uuid))
        self.assert_clean()

    def test_delete_while_the_guest_is_busy(self):
        """The stop would wait much longer than this test does."""
        uuid = self.cloud.boot("busy")
        self.host.driver.clean_shutdown = False
        self.addCleanup(setattr, self.host.driver, "clean_shutdown", True)
        self.cloud.set(timeouts__shutdown=FAR)
        self.addCleanup(self.cloud.set, timeouts__shutdown=60)
        self.control.server_stop(uuid)
        wait_until(lambda: [row.step for row in self.host.operations(uuid, "stop")] == ["shutdown"])
        self.control.server_delete(uuid)
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.assert_ended(rows.UNDONE, uuid, "stop")
        self.assert_clean()

    def test_of_two_conflicting_requests_the_second_is_told_who_is_first(self):
        uuid = self.cloud.boot("two")
        gate = self.host.hook = Gate("define")
        self.control.server_reboot(uuid, hard=True)
        gate.wait()
        error = self.assertRaises(Refused, self.control.server_stop, uuid)
        self.assertIn("busy with reboot", str(error))
        self.assert_speaks(error)
        # and one who speaks to the agent itself, past the control plane's own check
        manager = self.host.agent.manager
        error = self.assertRaises(
            Refused, manager.accept, "stop", uuid, "req-other",
            {"instance": self.cloud.instance(uuid)}, {"request_id": "req-other"})
        self.assertEqual("busy", error.code)
        self.assertIn("is busy with reboot, at step domain (operation", str(error))
        self.assert_speaks(error)
        gate.open = True
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual([], self.host.operations(uuid, "stop"))
        self.assert_clean()

    def test_many_at_once_have_one_winner(self):
        uuid = self.cloud.boot("crowd")
        answers = []
        def ask(verb):
            try:
                verb(uuid)
                answers.append("taken")
            except MagnetarError as error:
                answers.append(error.code)
        verbs = [self.control.server_stop, self.control.server_reboot] * 4
        threads = [threading.Thread(target=ask, args=(verb,)) for verb in verbs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(["taken"], [a for a in answers if a not in ("busy", "bad_state")][:1])
        wait_until(lambda: self.cloud.show(uuid)["task_state"] is None)
        self.assert_clean()

    def test_a_repeated_message_has_one_effect(self):
        uuid = self.cloud.boot("again")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.control.server_start(uuid, request_id="req-same")
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.cloud.cast(uuid, "start_instance", "req-same")
        self._answered(uuid)
        self.assertEqual(1, len(self.host.operations(uuid, "start")))
        self.assert_clean()

    def test_a_late_message_does_nothing(self):
        uuid = self.cloud.boot("late")
        late = primitives.patch(self.cloud.instance(uuid), {"task_state": states.POWERING_OFF})
        self.cloud.client().cast(admin_context("req-late"), "stop_instance",
                                 instance=late, clean_shutdown=True)
        wait_until(lambda: self.host.operations(uuid, "stop"))
        row = self.assert_ended(rows.UNDONE, uuid, "stop")
        self.assertEqual("stale", row.error["code"])
        self.assertEqual((states.RUNNING, "ACTIVE", None),
                         (self.host.power(uuid), self.cloud.show(uuid)["status"],
                          self.cloud.show(uuid)["fault"]))
        self.assert_clean()

    def test_a_late_build_message_leaves_the_guest_alone(self):
        uuid = self.cloud.boot("built")
        self.cloud.cast(uuid, "build_and_run_instance", "req-late-build", image={},
                        request_spec=None, filter_properties={})
        wait_until(lambda: len(self.host.operations(uuid, "spawn")) == 2)
        row = self.assert_ended(rows.UNDONE, uuid, "spawn")
        self.assertEqual("stale", row.error["code"])
        self.assertEqual(("ACTIVE", states.RUNNING),
                         (self.cloud.show(uuid)["status"], self.host.power(uuid)))
        self.assert_clean()

    def _answered(self, uuid):
        """Wait until all messages sent before were taken: the broker keeps their order."""
        self.cloud.client().call(admin_context(), "get_console_output",
                                 instance=self.cloud.instance(uuid), tail_length=0)
        self.host.at_rest()


class TwoHostsTest(AgentTest):
    hosts = 2

    def test_a_build_that_does_not_fit_goes_to_the_other_host(self):
        other, _ = self.cloud.hosts
        full = self.cloud.add_host("large", memory_mb=10**6)  # the scheduler's first choice
        full.agent.journal.claim("resources", "filler", "filler", "none",
                                 {"vcpus": 0, "memory_mb": 10**6, "disk_gb": 0})
        self.control.host_disable("host2")
        uuid = self.cloud.create("moved")["id"]
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual(other.name, self.cloud.show(uuid)["host"])
        row = self.assert_ended(rows.UNDONE, uuid, "spawn", full)
        self.assertEqual("no_room", row.error["code"])
        self.assertIn(f"does not fit on host {full.name}: 64 MiB of memory asked for, 0 of",
                      row.error["what"])
        self.assert_speaks(row.error)
        self.assertIsNone(full.power(uuid))
        self.assertEqual(states.RUNNING, other.power(uuid))
        full.agent.journal.release(guest="filler")
        for host in self.cloud.hosts:
            self.assert_clean(host)

    def test_a_build_that_fits_nowhere_says_so(self):
        for host in self.cloud.hosts:
            host.agent.journal.claim("resources", "filler", "filler", "none",
                                     {"vcpus": 10**6, "memory_mb": 0, "disk_gb": 0})
        uuid = self.cloud.create("nowhere")["id"]
        shown = self.cloud.wait_for(uuid, states.ERROR)
        self.assertIn("No valid host", shown["fault"]["message"])
        for host in self.cloud.hosts:
            self.assert_ended(rows.UNDONE, uuid, "spawn", host)
            host.agent.journal.release(guest="filler")
            self.assertIsNone(host.power(uuid))
            self.assert_clean(host)

    def test_guests_of_other_hosts_are_left_to_them(self):
        uuid = self.cloud.boot("mine")
        owner = next(h for h in self.cloud.hosts if h.power(uuid) is not None)
        other = next(h for h in self.cloud.hosts if h is not owner)
        other.reconcile()
        self.cloud.change(uuid, task_state=states.POWERING_OFF)
        stray = self.cloud.instance(uuid)
        self.cloud.client(host=other.name).cast(
            admin_context("req-stray"), "stop_instance", instance=stray, clean_shutdown=True)
        wait_until(lambda: other.operations(uuid, "stop"))
        row = self.assert_ended(rows.UNDONE, uuid, "stop", other)
        self.assertIn(f"belongs to host {owner.name}", row.error["what"])
        self.assertEqual(states.RUNNING, owner.power(uuid))
        self.cloud.change(uuid, task_state=None)
        for host in self.cloud.hosts:
            self.assert_clean(host)


class SmallCloudTest(AgentTest):
    def test_two_builds_at_once_do_not_share_the_last_room(self):
        """The scheduler is passed by: both messages are at the agent at the same time."""
        driver = self.host.driver
        self.cloud.set(cpu_allocation_ratio=1.0)
        room = driver.vcpus
        self.host.agent.journal.claim("resources", "filler", "filler", "none",
                                      {"vcpus": room - 1, "memory_mb": 0, "disk_gb": 0})
        made = [self.cloud.create(name)["id"] for name in ("one", "two")]
        for uuid in made:
            wait_until(lambda uuid=uuid: self.cloud.show(uuid)["vm_state"] in (
                states.ACTIVE, states.ERROR))
        self.host.at_rest()
        ended = sorted(self.cloud.show(uuid)["vm_state"] for uuid in made)
        self.assertEqual([states.ACTIVE, states.ERROR], ended)
        used = self.host.agent.tracker.used()
        self.assertEqual(room, used["vcpus"])
        self.host.agent.journal.release(guest="filler")
        self.assert_clean()


