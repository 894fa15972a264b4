"""Resizes without a restart, refused ones, those that are confirmed by themselves, and whole agents
with the embedded control plane."""

from __future__ import annotations

import dataclasses
import types

from compute.model import states
from compute.recovery.resizes import Resizes
from db.journal import rows
from tests import fakes
from tests.functional.agent_support import AgentTest
from tests.functional.live_support import CONTEXT
from tests.functional.resize_support import LARGE, ResizeTest
from tests.waiting import wait_until


class LiveResizeTest(ResizeTest):
    """With live_resize, on one host."""

    def setUp(self):
        super().setUp()
        self.one.world.conf.live_resize = True
        self.one.world.driver.headroom = 4

    def boot(self):
        guest = super().boot()
        self.one.world.driver.calls.clear()
        return guest

    def assert_never_stopped(self):
        for call in ("shutdown", "power_off", "power_on", "set_aside_disks"):
            self.assertNotIn(call, self.one.world.driver.calls)

    def test_the_guest_runs_on(self):
        guest = self.boot()
        id = self.resized(guest, dest=self.one, flavor={**LARGE, "root_gb": 1})
        self.assertEqual((2, 128, 1), self.sizes(guest))
        self.assert_never_stopped()
        self.assertEqual({"vcpus": 2, "memory_mb": 128},
                         self.one.world.driver._read(guest)["size"])
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assert_never_stopped()
        self.assertIn(guest, self.one.world.driver.guest_dirs())
        self.assert_sound()

    def test_it_goes_back_without_a_stop(self):
        guest = self.boot()
        id = self.resized(guest, dest=self.one, flavor={**LARGE, "root_gb": 1})
        self.revert(guest, id, dest=self.one)
        self.until(guest, states.ACTIVE)
        self.assert_never_stopped()
        self.assertEqual({"vcpus": 1, "memory_mb": 64},
                         self.one.world.driver._read(guest)["size"])
        self.assertEqual((1, 64, 1), self.sizes(guest))
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assertEqual(1, len(self.one.world.driver.disks(guest)[:1]))
        self.assert_sound()

    def test_a_guest_that_cannot_give_it_back_is_restarted_on_its_disks(self):
        guest = self.boot()
        id = self.resized(guest, dest=self.one, flavor={**LARGE, "root_gb": 1})
        self.one.world.driver.headroom = 0
        self.revert(guest, id, dest=self.one)
        self.until(guest, states.ACTIVE)
        self.assertIn("shutdown", self.one.world.driver.calls)
        self.assertEqual((1, 64, 1), self.sizes(guest))
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assert_sound()

    def test_it_is_restarted_when_its_disks_change(self):
        guest = self.boot()
        self.resized(guest, dest=self.one)
        self.assertIn("set_aside_disks", self.one.world.driver.calls)
        self.assertEqual(2, self.root_gb(self.one, guest))
        self.assert_sound()

    def test_it_is_restarted_when_it_was_started_for_less(self):
        guest = self.boot()
        self.one.world.driver.headroom = 1
        self.resized(guest, dest=self.one, flavor={**LARGE, "root_gb": 1})
        self.assertIn("set_aside_disks", self.one.world.driver.calls)
        self.assert_sound()


class RefusedTest(ResizeTest):
    def test_no_room_and_no_other_host(self):
        guest = self.boot()
        id = self.ask(guest, flavor={**LARGE, "memory_mb": 1 << 30})
        self.until(guest, states.ACTIVE)
        self.assertEqual("error", self.status(id))
        self.assertIn("does not fit", self.faults(guest)[0])
        self.assertEqual([("prep_resize", "Error")], self.events(guest))
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assertEqual({}, self.claims(self.two, guest))
        self.assertEqual([], self.conductor.read()["rescheduled"])
        self.assert_forgotten(guest)
        self.assert_sound()

    def test_no_room_and_another_host(self):
        guest = self.boot()
        id = self.ask(guest, flavor={**LARGE, "memory_mb": 1 << 30},
                      host_list=[{"service_host": "host3"}])
        wait_until(lambda: self.conductor.read()["rescheduled"])
        self.two.at_rest()
        self.assertEqual([guest], self.conductor.read()["rescheduled"])
        self.assertEqual(states.RESIZE_PREP, self.conductor.fields(guest)["task_state"])
        self.assertEqual("error", self.status(id))
        self.assertEqual([("prep_resize", "Success")], self.events(guest))
        self.assertEqual({}, self.claims(self.two, guest))

    def test_disks_that_would_shrink(self):
        guest = self.boot()
        self.confirm(guest, self.resized(guest))
        self.until(guest, states.ACTIVE)
        id = self.ask(guest, dest=self.one, flavor={"id": 3, "root_gb": 1})
        self.until(guest, states.ACTIVE)
        self.assertEqual("error", self.status(id))
        self.assertIn("root", self.faults(guest)[0])
        self.assertEqual(states.RUNNING, self.power(self.two, guest))
        self.assertEqual((2, 128, 2), self.sizes(guest))
        self.assert_forgotten(guest)
        self.pass_of(self.one)  # what the destination held is cleared
        self.one.at_rest()
        self.assertEqual({}, self.claims(self.one, guest))
        self.assert_sound()

    def test_stale_messages_do_nothing(self):
        guest = self.boot()
        id = self.resized(guest)
        prim = self.conductor.instance(None, guest)
        for agent, method, args in (
                (self.two, "prep_resize", {
                    "image": None, "flavor": fakes.flavor(**LARGE), "request_spec": None,
                    "filter_properties": {}, "node": "host2", "clean_shutdown": True,
                    "host_list": []}),
                (self.one, "resize_instance", {
                    "image": None, "flavor": fakes.flavor(**LARGE), "clean_shutdown": True}),
                (self.two, "finish_resize", {"image": None, "disk_info": "{}"}),
                (self.one, "finish_revert_resize", {}),
                (self.two, "revert_resize", {})):
            self.say(agent, method, instance=prim, migration=self.moving(id), **args)
            agent.at_rest()
            row = agent.operations(guest)[-1]
            self.assertEqual((rows.UNDONE, "stale"), (row.state, row.error["code"]), method)
        self.assertEqual("finished", self.status(id))
        self.assertEqual(states.RESIZED, self.conductor.fields(guest)["vm_state"])
        self.assertEqual(states.RUNNING, self.power(self.two, guest))
        self.assertEqual([], self.faults(guest))
        self.assert_sound()

    def test_confirmed_twice(self):
        guest = self.boot()
        id = self.resized(guest)
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.say(self.one, "confirm_resize", migration=self.moving(id),
                 instance=self.conductor.instance(None, guest))
        self.one.at_rest()
        self.assertEqual((rows.UNDONE, "stale"),
                         (self.one.operations(guest)[-1].state,
                          self.one.operations(guest)[-1].error["code"]))
        self.assertEqual("confirmed", self.status(id))
        self.assert_sound()

    def test_a_revert_without_the_former_disks_keeps_the_guest(self):
        guest = self.boot()
        id = self.resized(guest)
        self.one.world.driver.delete_aside_disks(guest)
        self.revert(guest, id)
        self.until(guest, states.RESIZED)
        self.assertEqual("finished", self.status(id))
        self.assertIn("former disks", self.faults(guest)[0])
        self.assertEqual(states.RUNNING, self.power(self.two, guest))
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assert_sound()


class ByItselfTest(ResizeTest):
    def later(self, seconds: float) -> Resizes:
        """The passes of the destination, at a later time."""
        for agent in (self.one, self.two):
            agent.world.conf.resize_confirm_window = 100
        passes = Resizes(self.two.manager, CONTEXT)
        now = passes.world.clock.now() + seconds
        passes.world = fakes_at(passes.world, now)
        return passes

    def test_confirmed_when_the_window_is_over(self):
        guest = self.boot()
        id = self.resized(guest)
        self.later(50).run_pass()
        self.assertEqual("finished", self.status(id))
        self.later(200).run_pass()
        self.until(guest, states.ACTIVE)
        self.assertEqual("confirmed", self.status(id))
        self.assert_operations(self.one, guest, "resize_out", "resize_confirm")
        self.assert_sound()

    def test_never_without_a_window(self):
        guest = self.boot()
        id = self.resized(guest)
        passes = self.later(10_000_000)
        self.two.world.conf.resize_confirm_window = 0
        passes.run_pass()
        self.assertEqual("finished", self.status(id))

    def test_a_guest_with_a_task_is_left(self):
        guest = self.boot()
        id = self.resized(guest)
        self.conductor.set(guest, task_state=states.RESIZE_REVERTING)
        self.later(200).run_pass()
        self.assertEqual("finished", self.status(id))


def fakes_at(world, now):
    """A world in which it is another time."""
    return dataclasses.replace(world, clock=types.SimpleNamespace(now=lambda: now))


class WholeTest(AgentTest):
    """Whole agents and the embedded control plane, over the broker's own code."""

    hosts = 0

    def setUp(self):
        super().setUp()
        for name in ("host1", "host2"):
            self.cloud.add_host(name)
        self.cloud.network()
        self.control.flavor_create("large", vcpus=2, ram=128, disk=2)

    def boot(self):
        return self.cloud.boot(networks="auto")

    def at(self, guest):
        """The host that a server is on, and the other one."""
        hosts = {host.name: host for host in self.cloud.hosts}
        here = hosts.pop(self.cloud.show(guest)["host"])
        return here, next(iter(hosts.values()))

    def wait_for(self, guest, vm_state):
        found = self.cloud.wait_for(guest, vm_state)
        for host in self.cloud.hosts:
            host.at_rest()
        return found

    def assert_all_clean(self):
        for host in self.cloud.hosts:
            host.agent.one_pass()
            self.assert_clean(host)

    def test_migrate_confirm_and_back(self):
        guest = self.boot()
        before, after = self.at(guest)
        self.control.server_migrate(guest)
        self.wait_for(guest, states.RESIZED)
        self.assertEqual(after.name, self.cloud.show(guest)["host"])
        self.assert_all_clean()
        self.control.server_resize_confirm(guest)
        self.wait_for(guest, states.ACTIVE)
        self.assertEqual(states.RUNNING, after.power(guest))
        self.assertIsNone(before.power(guest))
        self.assert_all_clean()

    def test_resize_and_revert(self):
        guest = self.boot()
        before = self.cloud.show(guest)
        self.control.server_resize(guest, "large")
        self.assertEqual("large", self.wait_for(guest, states.RESIZED)["flavor"])
        self.assert_all_clean()
        self.control.server_resize_revert(guest)
        found = self.wait_for(guest, states.ACTIVE)
        self.assertEqual([before[key] for key in ("host", "flavor", "addresses")],
                         [found[key] for key in ("host", "flavor", "addresses")])
        self.assertEqual(states.RUNNING, self.at(guest)[0].power(guest))
        self.assert_all_clean()

    def test_deleted_while_it_waits_to_be_confirmed(self):
        guest = self.boot()
        before, _ = self.at(guest)
        self.control.server_migrate(guest)
        self.wait_for(guest, states.RESIZED)
        self.control.server_delete(guest)
        wait_until(lambda: not self.cloud.control.server_list())
        for host in self.cloud.hosts:
            host.at_rest()
            host.reconcile()
        self.assertFalse(before.driver.aside_disks(guest))
        self.assert_all_clean()
