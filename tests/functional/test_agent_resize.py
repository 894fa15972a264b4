"""Resize and cold migration: two agents, each with its half, and the record between them."""

from __future__ import annotations

from compute.model import states
from compute.rpc.primitives import data
from tests.functional.resize_support import LARGE, LARGE_ROOM, ROOM, ResizeTest, disk_info
from tests.waiting import wait_until


class BetweenHostsTest(ResizeTest):
    def test_resize_and_confirm(self):
        guest = self.boot()
        id = self.resized(guest)
        fields = self.conductor.fields(guest)
        self.assertEqual(("host2", "host2", states.RUNNING),
                         (fields["host"], fields["node"], fields["power_state"]))
        self.assertEqual((2, 128, 2), self.sizes(guest))
        self.assertEqual((2, 128, 2, 2), tuple(
            fields[key] for key in ("vcpus", "memory_mb", "root_gb", "instance_type_id")))
        self.assertEqual(1, data(fields["old_flavor"])["id"])
        self.assertTrue(fields["launched_at"])
        self.assertEqual("active", fields["system_metadata"]["old_vm_state"])
        moving = self.conductor.migration_fields(id)
        self.assertEqual(("finished", "host2", "host2", 1), tuple(
            moving[key] for key in ("status", "dest_compute", "dest_node", "dest_compute_id")))
        self.assertTrue(moving["dest_host"])
        self.assert_sound()

        self.assertEqual({"resources-move", "aside"}, set(self.claims(self.one, guest)))
        self.assertEqual(ROOM, {k: self.claims(self.one, guest)["resources-move"][k]
                                for k in ROOM})
        self.assertEqual(LARGE_ROOM, self.claims(self.two, guest)["resources"])
        self.assertNotIn("resources-move", self.claims(self.two, guest))
        self.assertIsNone(self.power(self.one, guest))
        self.assertTrue(self.one.world.driver.aside_disks(guest))
        self.assertEqual(2, self.root_gb(self.two, guest))
        self.assertEqual(2, self.two.world.driver.state(guest).generation)

        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual("confirmed", self.status(id))
        self.assertEqual({}, self.claims(self.one, guest))
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assertEqual(states.RUNNING, self.power(self.two, guest))
        self.assert_forgotten(guest)
        self.assert_operations(self.one, guest, "resize_out", "resize_confirm")
        self.assert_operations(self.two, guest, "resize_prep", "resize_in")
        self.assertEqual([
            ("prep_resize", "Success"), ("resize_instance", "Success"),
            ("finish_resize", "Success"), ("confirm_resize", "Success")],
            sorted(self.events(guest), key=lambda event: (
                "prep_resize", "resize_instance", "finish_resize", "confirm_resize",
            ).index(event[0])))
        self.assertEqual([], self.faults(guest))
        self.assert_sound()

    def test_resize_and_revert(self):
        guest = self.boot()
        id = self.resized(guest)
        self.revert(guest, id)
        fields = self.until(guest, states.ACTIVE)
        self.assertEqual(("host1", "host1", states.RUNNING),
                         (fields["host"], fields["node"], fields["power_state"]))
        self.assertEqual("reverted", self.status(id))
        self.assertEqual((1, 64, 1), self.sizes(guest))
        self.assertEqual(1, self.root_gb(self.one, guest))
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assertEqual(3, self.one.world.driver.state(guest).generation)
        self.assertEqual(ROOM, self.claims(self.one, guest)["resources"])
        self.assertEqual({"resources", "disks", "domain", "ports"},
                         set(self.claims(self.one, guest)))
        self.assertEqual({}, self.claims(self.two, guest))
        self.assertIsNone(self.power(self.two, guest))
        self.assertNotIn(guest, self.two.world.driver.guest_dirs())
        self.assert_forgotten(guest)
        self.assert_operations(self.one, guest, "resize_out", "resize_back")
        self.assert_operations(self.two, guest, "resize_prep", "resize_in", "resize_revert")
        self.assertEqual("host1", self.one.world.networks.host(guest))
        self.assert_sound(reverted=True)

    def test_a_stopped_guest_stays_stopped_there_and_back(self):
        guest = self.boot()
        self.one.world.driver.power_off(guest)
        self.conductor.set(guest, vm_state=states.STOPPED, power_state=states.SHUTDOWN)
        id = self.resized(guest)
        self.assertEqual(states.SHUTDOWN, self.power(self.two, guest))
        self.revert(guest, id)
        self.until(guest, states.STOPPED)
        self.assertEqual(states.SHUTDOWN, self.power(self.one, guest))
        id = self.resized(guest)
        self.confirm(guest, id)
        self.until(guest, states.STOPPED)
        self.assertEqual(states.SHUTDOWN, self.power(self.two, guest))
        self.assert_sound(reverted=True)

    def test_a_guest_that_shut_itself_down_is_stopped_when_confirmed(self):
        guest = self.boot()
        id = self.resized(guest)
        self.two.world.driver.power_off(guest)
        self.pass_of(self.two)
        self.confirm(guest, id)
        self.until(guest, states.STOPPED)

    def test_a_cold_migration_keeps_the_size(self):
        guest = self.boot()
        id = self.resized(guest, flavor={})
        self.assertEqual((1, 64, 1), self.sizes(guest))
        self.confirm(guest, id)
        fields = self.until(guest, states.ACTIVE)
        self.assertEqual("host2", fields["host"])
        self.assert_sound()

    def test_back_again_by_a_second_migration(self):
        guest = self.boot()
        self.confirm(guest, self.resized(guest))
        self.until(guest, states.ACTIVE)
        id = self.resized(guest, dest=self.one, flavor=LARGE)
        self.confirm(guest, id, source=self.two)
        fields = self.until(guest, states.ACTIVE)
        self.assertEqual("host1", fields["host"])
        self.assertEqual(3, self.one.world.driver.state(guest).generation)
        self.assertEqual({}, self.claims(self.two, guest))
        self.assert_sound()

    def test_the_source_says_how_its_disks_are_reached(self):
        guest = self.boot()
        self.resized(guest)
        [row] = self.two.operations(guest, "resize_in")
        told = disk_info(row)
        self.assertEqual(("fake://host1", 1, False),
                         (told["uri"], told["generation"], told["live"]))
        self.assertIn("root", [disk["role"] for disk in told["disks"]])

    def test_progress_is_in_the_migration(self):
        guest = self.boot()
        moving = self.conductor.migration_fields(self.resized(guest))
        self.assertIsNotNone(moving["disk_total"])
        self.assertEqual(moving["disk_total"],
                         moving["disk_processed"] + moving["disk_remaining"])

    def test_a_message_that_comes_twice_has_one_effect(self):
        guest = self.boot()
        cast = self.two.world.peers.cast

        def twice(context, host, method, **args):
            cast(context, host, method, **args)
            cast(context, host, method, **args)

        for agent in (self.one, self.two):
            agent.world.peers.cast = twice
        self.resized(guest)
        self.assert_operations(self.one, guest, "resize_out")
        self.assert_operations(self.two, guest, "resize_prep", "resize_in")


class SharedStorageTest(ResizeTest):
    shared = True

    def test_resize_and_confirm(self):
        guest = self.boot()
        self.confirm(guest, self.resized(guest))
        self.until(guest, states.ACTIVE)
        self.assertEqual(2, self.root_gb(self.two, guest))
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assertEqual([], self.hosts.fabric.violations())

    def test_resize_and_revert(self):
        guest = self.boot()
        self.revert(guest, self.resized(guest))
        self.until(guest, states.ACTIVE)
        self.assertEqual(1, self.root_gb(self.one, guest))
        self.assertEqual([], self.violations(reverted=True))


class SameHostTest(ResizeTest):
    def test_resize_and_confirm(self):
        guest = self.boot()
        id = self.resized(guest, dest=self.one)
        self.assertEqual((2, 128, 2), self.sizes(guest))
        held = self.claims(self.one, guest)
        self.assertEqual(LARGE_ROOM, held["resources"])
        self.assertEqual(ROOM, {k: held["resources-move"][k] for k in ROOM})
        self.assertEqual({"vcpus": 3, "memory_mb": 192, "disk_gb": 3},
                         self.one.world.inventory.used())
        self.assertEqual(1, self.one.world.inventory.fields()["running_vms"])
        self.assertEqual(1, self.one.world.driver.state(guest).generation)
        self.assert_sound()
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual({"resources", "disks", "domain", "ports"},
                         set(self.claims(self.one, guest)))
        self.assertEqual(LARGE_ROOM, self.one.world.inventory.used())
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assert_forgotten(guest)
        self.assert_operations(self.one, guest, "resize_prep", "resize_out", "resize_in",
                               "resize_confirm")
        self.assert_sound()

    def test_resize_and_revert(self):
        guest = self.boot()
        id = self.resized(guest, dest=self.one)
        self.revert(guest, id, dest=self.one)
        self.until(guest, states.ACTIVE)
        self.assertEqual((1, 64, 1), self.sizes(guest))
        self.assertEqual(1, self.root_gb(self.one, guest))
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assertEqual(ROOM, self.one.world.inventory.used())
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assert_forgotten(guest)
        self.assert_operations(self.one, guest, "resize_prep", "resize_out", "resize_in",
                               "resize_revert", "resize_back")
        self.assert_sound(reverted=True)

    def test_a_cold_migration_to_its_own_host_is_refused(self):
        guest = self.boot()
        id = self.ask(guest, dest=self.one, flavor={})
        self.until(guest, states.ACTIVE)
        self.assertEqual("error", self.status(id))
        self.assertIn("already", self.faults(guest)[0])
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assert_sound()

    def test_a_deleted_guest_leaves_nothing(self):
        guest = self.boot()
        self.resized(guest, dest=self.one)
        prim = self.conductor.set(guest, task_state=states.DELETING)
        self.say(self.one, "terminate_instance", instance=prim, bdms=None)
        wait_until(lambda: self.conductor.fields(guest)["deleted"])
        self.one.at_rest()
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assertEqual({}, self.claims(self.one, guest))
        self.assert_sound()
