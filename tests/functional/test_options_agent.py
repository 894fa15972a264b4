"""Options of the agent and of its moves, each by what another value changes."""

from __future__ import annotations

import threading

from compute.errors import NeedsOperator
from compute.migration import checks
from compute.migration.planning import decide_plan
from compute.model import states
from compute.steps.live_source import position_of
from db.journal import rows
from tests.functional.agent_support import AgentTest
from tests.functional.control_support import wait_until
from tests.functional.live_support import CONTEXT, LiveTest


class AgentOptionsTest(AgentTest):
    def test_oldest_service_version(self):
        self.cloud.set(oldest_service_version=75)
        late = self.cloud.add_host("late", start=False)
        error = self.assertRaises(NeedsOperator, late.start)
        self.assertIn("has version 74; this agent speaks to 75 and newer", error.what)
        self.cloud.set(oldest_service_version=74)
        self.assertTrue(late.start().agent.serving)

    def test_operation_workers(self):
        """Two operations at once with two workers; with one, the other waits for the first."""
        guests = [self.cloud.boot(name) for name in ("one", "two")]
        for workers in (1, 2):
            self.cloud.set(operation_workers=workers)
            self.host.restart()
            go, begun = threading.Event(), []

            def hold(method, when, go=go, begun=begun):
                if (method, when) == ("power_off", "before"):
                    begun.append(method)
                    go.wait(30)

            self.host.hook = hold
            for uuid in guests:
                self.cloud.change(uuid, task_state=states.REBOOTING_HARD)
                self.cloud.cast(uuid, "reboot_instance", block_device_info=None,
                                reboot_type="HARD")
            wait_until(lambda workers=workers, begun=begun: len(begun) >= workers)
            wait_until(lambda: len(self.host.agent.journal.find(active=True)) == 2)
            self.assertEqual(workers, len(begun))
            go.set()
            for uuid in guests:
                self.cloud.wait_for(uuid, states.ACTIVE)
            self.host.at_rest()

    def test_image_cache_seconds(self):
        asked = []
        self.host.driver.sweep = lambda used, age: asked.append(age) or []
        for seconds in (0, 4321):
            self.cloud.set(disk__image_cache_seconds=seconds)
            self.host.agent.one_pass()
        self.assertEqual([0, 4321], asked)

    def test_suspend_seconds(self):
        """A save that takes longer is told of, and looked at again; 1800 is the default."""
        uuid = self.cloud.boot("one")
        self.host.driver.fabric.set(save_looks=100000)
        self.addCleanup(self.host.driver.fabric.set, save_looks=0)
        self.cloud.set(suspend_seconds=10)
        self.cloud.change(uuid, task_state=states.SUSPENDING)
        self.cloud.cast(uuid, "suspend_instance")
        wait_until(lambda: [row for row in self.host.operations(uuid, "suspend")
                            if row.attempts or row.state not in (rows.ACCEPTED, rows.RUNNING)], 90)
        [row] = self.host.operations(uuid, "suspend")
        self.assertIn("is still being written", row.message)

    def test_snapshot(self):
        """A copy that is not level by then is given up; 7200 is the default."""
        uuid = self.cloud.boot("copied")
        self.host.driver.fabric.set(copy_looks=10**6)
        self.addCleanup(self.host.driver.fabric.set, copy_looks=0)
        self.cloud.set(timeouts__snapshot=10)
        self.control.server_image_create(uuid, "late")
        wait_until(lambda: [row for row in self.host.operations(uuid, "snapshot")
                            if row.state == rows.UNDONE], 90)
        [row] = self.host.operations(uuid, "snapshot")
        self.assertEqual("copy_too_slow", row.error["code"])
        self.assertIn("within 10 s", row.error["what"])


class MoveOptionsTest(LiveTest):
    def decided(self, **options):
        """The plan and limits of a migration under these options of [libvirt]."""
        vars(self.one.world.conf.libvirt).update(options)
        guest = checks.full_guest(self.one.world, CONTEXT,
                                  self.conductor.instance(CONTEXT, self.guest))
        prepared = {"uri": "fake://host2", "copy_disks": ["vda"]}
        return decide_plan(self.one.world, guest, "host2", prepared, 2, "op")

    def test_what_a_migration_is_begun_with(self):
        self.guest = self.boot()
        for mib in (0, 30):
            self.assertEqual(mib, self.decided(live_migration_bandwidth=mib).plan.bandwidth)
        for ms in (50, 700):
            self.assertEqual(ms, self.decided(live_migration_downtime=ms).limits.budget_ms)
        for permit in (False, True):
            found = self.decided(live_migration_permit_auto_converge=permit,
                                 live_migration_permit_post_copy=False)
            self.assertEqual(permit, found.plan.auto_converge)
            self.assertEqual(permit, found.limits.auto_converge)
        one, ten = (self.decided(live_migration_completion_timeout=seconds)
                    .limits.completion_seconds for seconds in (10, 100))
        self.assertEqual(10 * one, ten)

    def test_max_concurrent_live_migrations_per_link(self):
        world = self.one.world
        world.conf.max_concurrent_live_migrations = 0
        for guest, link in (("a", "host2"), ("b", "host2"), ("c", "host3")):
            world.journal.claim("slot", guest, guest, "op", {"link": link})
        for limit, wanted in ((0, [0, 0, 0]), (1, [0, 1, 0]), (2, [0, 0, 0])):
            world.conf.max_concurrent_live_migrations_per_link = limit
            self.assertEqual(wanted, [position_of(world, guest) for guest in "abc"], limit)

    def test_max_concurrent_incoming_live_migrations(self):
        """The host that is to receive one more than it may is asked again until it may."""
        guest = self.boot()
        self.two.world.conf.max_concurrent_incoming_live_migrations = 1
        self.two.world.journal.claim("lease", "another", "another", "op", {})
        self.migrate(guest)
        wait_until(lambda: "receives 1 guests already" in str(
            [row.message for row in self.one.operations(guest, "live_out")]), 30)
        self.assertEqual([], self.two.operations(guest, "live_in"))
        self.two.world.journal.release(guest="another")
        self.assert_on(guest, self.two)
