"""A real guest put to sleep, resized and moved between two hosts, through control plane, broker,
agents and libvirt. Its counter, on console and disk, shows that nothing ever went back."""

from __future__ import annotations

import time

import testtools

from compute.errors import MagnetarError, Refused
from tests.integration.lab import LabFixture, missing
from tests.integration.patience import SECONDS
from tests.integration.repeats import Late, Repeating, repeated
from tests.modes import AGENTS, EVENTLET, once
from tools.toolbox.lab import kills
from tools.toolbox.lab.guest import LARGER, RAM, LabGuest, prepare, until

POSTCOPY = {"live_migration_permit_post_copy": "true"}


class RealMoves(Repeating):
    SHARED = False

    def setUp(self):
        super().setUp()
        reason = missing(shared=self.SHARED)
        if reason:
            self.skipTest(reason)
        self.begin()

    def begin(self):
        """A lab of two hosts, and a guest on the first one."""
        self.lab = self.useFixture(
            LabFixture(shared=self.SHARED, options={"libvirt": POSTCOPY})).lab
        prepare(self.lab)
        self.guest = LabGuest.create(self.lab, "real", "host1")

    def begin_again(self):
        self.lab.down()
        self.begin()

    def consoles(self):
        return [path for host in self.lab.hosts for path in host.instances.glob("*/console.log")]

    def migrated(self, status="completed"):
        """Wait for the end of the newest migration, and see that nothing of it is left."""
        move = until(lambda: (found := self.guest.migration())["ended"] and found, SECONDS,
                     "the migration has ended")
        self.assertEqual(status, move["status"], self.guest.show()["fault"])
        self.guest.clean()
        return move

    def on(self, host):
        """The guest is on this host, and only there, and counts on."""
        self.assertEqual(host, self.guest.show()["host"])
        self.assertEqual([host], self.guest.copies())
        self.guest.counts_on()

    def live(self, host, **how):
        self.guest.call("live_migrate", host=host, **how)
        self.migrated()
        self.on(host)

    def boots(self):
        """How often the guest was booted, by its console."""
        return self.guest.console().count("GUEST-BOOT")


@once(AGENTS, EVENTLET)
class TestLocalDisks(RealMoves):
    """One guest goes through all of it, its disk on the host that it is on."""

    @repeated
    def test_a_guest_that_is_moved_saved_and_resized(self):
        self.planned()
        self.live("host2")
        self.live("host1", block_migration=True)
        self.paused()
        self.by_force()
        self.aborted()
        self.suspended()
        self.assertEqual(1, self.boots())
        self.assertEqual(1, self.guest.console().count("GUEST-CONFIG-DRIVE"))
        self.resized()
        self.moved_cold()

    def planned(self):
        plan = self.guest.call("plan_live_migrate")
        self.assertEqual(("can", "host2"), (plan["verdict"], plan["destination"]), plan)
        self.assertEqual(["vda"], plan["copies"])
        self.assertEqual([], self.guest.call("migration_list"))

    def paused(self):
        self.guest.call("pause")
        self.guest.settled("paused")
        seen = self.guest.ticks()[-1]
        self.guest.call("live_migrate")
        self.migrated()
        self.guest.settled("paused")
        self.assertEqual(["host2"], self.guest.copies())
        self.assertThat(max(self.guest.ticks()), testtools.matchers.LessThan(seen + 2))
        self.guest.call("unpause")
        self.guest.settled("active")
        self.on("host2")

    def slowly(self, moment):
        """Begin to move it to the other host over a slow link, until it is at this moment."""
        source, destination = self.guest.host(), self.guest.other()
        source.limit("migration", 60)
        self.addCleanup(source.limit, "migration", None)
        self.guest.call("live_migrate")
        try:
            kills.await_moment(self.guest, source, destination, moment)
        except kills.Missed as missed:
            source.limit("migration", None)
            self.migrated()
            raise Late(str(missed)) from missed
        return source, destination

    def by_force(self):
        source, destination = self.in_time(lambda: self.slowly(kills.POSTCOPY))
        refused = self.assertRaises(MagnetarError, self.guest.call, "migration_abort")
        self.assertIn("post-copy", str(refused))
        source.limit("migration", None)
        self.migrated()
        self.on(destination.name)

    def aborted(self):
        source, _ = self.in_time(lambda: self.slowly("10 %"))
        began = time.monotonic()
        self.guest.call("migration_abort")
        self.assertThat(time.monotonic() - began, testtools.matchers.LessThan(SECONDS / 6))
        self.migrated("cancelled")
        self.on(source.name)

    def suspended(self):
        seen = self.guest.ticks()[-1]
        self.guest.call("suspend")
        self.guest.settled("suspended")
        self.assertEqual([], self.guest.copies())
        self.guest.call("resume")
        self.guest.settled("active")
        self.guest.counts_on(seen)

    def resized(self):
        seen = self.guest.ticks()[-1]
        self.guest.call("resize", flavor=LARGER)
        self.guest.settled("resized")
        self.guest.call("resize_confirm")
        self.guest.settled("active")
        self.guest.clean()
        self.guest.counts_on(seen)
        memory = int(self.guest.console().rsplit("memory=", 1)[1].split("kB")[0]) >> 10
        self.assertThat(memory, testtools.matchers.GreaterThan(RAM))

    def moved_cold(self):
        before, seen = self.guest.show()["host"], self.guest.ticks()[-1]
        self.guest.call("migrate")
        self.assertNotEqual(before, self.guest.settled("resized")["host"])
        self.guest.counts_on(seen)
        self.guest.call("resize_revert")
        self.assertEqual(before, self.guest.settled("active")["host"])
        self.guest.clean()
        self.guest.counts_on(seen)
        self.assertEqual([before], self.guest.copies())


@once(AGENTS)
class TestSharedDisks(RealMoves):
    """The hosts share their disks; one is lost, and comes back."""

    SHARED = True

    @repeated
    def test_live_with_shared_disks_and_evacuated(self):
        self.live("host2")
        self.live("host1")
        self.assertEqual(1, self.boots())
        lost = self.lab.host("host1")
        seen = self.guest.ticks()[-1]
        lost.crash()
        refused = self.assertRaises(Refused, self.guest.call, "evacuate")
        self.assertEqual("host_up", refused.code)
        until(lambda: self.guest.call("evacuate", fenced=True), SECONDS,
              "the host counts as down", every=0.5)
        self.guest.settled("active")
        self.assertEqual("host2", self.guest.show()["host"])
        seen = self.guest.counts_on(seen - 1)
        lost.boot()
        lost.start_agent()
        self.guest.clean()
        self.on("host2")
        # Nova's words: done when the guest is built again, completed when its old host tidied up.
        until(lambda: self.guest.migration()["status"] == "completed", SECONDS,
              "the old host is clean")
