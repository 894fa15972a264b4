"""The source does not hear that its guest goes on at the destination, and lets it go on as well."""

from __future__ import annotations

from compute.migration.monitor import HELD
from compute.model import states
from compute.steps import live_source
from tests.functional.live_support import LiveTest


class PartedTest(LiveTest):
    def setUp(self) -> None:
        super().setUp()
        self.link = frozenset(self.names)

    def held(self, guest: str, **faults: object) -> int:
        """Move a guest whose agents lose sight of each other, until it is held at the source;
        returns the migration's id."""
        moving = self.halted(guest)
        self.hosts.exchange.cut.add(self.link)
        self.hosts.fabric.set(hold=False, **faults)
        self.wait(lambda: self.stands(guest) and self.one.world.journal.claims(
            kind=HELD, guest=guest))
        return moving

    def stands(self, guest: str) -> bool:
        found = self.one.world.driver.state(guest)
        return found is not None and (found.power_state, found.reason) == (
            states.POWER_PAUSED, "user")

    def runs(self, guest: str) -> bool:
        found = self.one.world.driver.state(guest)
        return found is not None and found.power_state == states.RUNNING

    def test_it_is_held_until_the_destination_is_seen_and_stopped_then(self):
        guest = self.boot()
        moving = self.held(guest, parted=True)
        self.assertEqual(["host2"], self.hosts.fabric.running(guest))
        self.hosts.exchange.cut.clear()
        self.assert_on(guest, self.two)
        self.assertEqual("completed", self.conductor.migration_fields(moving)["status"])

    def test_it_goes_on_when_the_destination_does_not_have_it(self):
        guest = self.boot()
        moving = self.held(guest, fail_at="switchover")
        self.hosts.exchange.cut.clear()
        self.assert_on(guest, self.one)
        self.assertTrue(self.runs(guest))
        self.assertEqual("failed", self.conductor.migration_fields(moving)["status"])

    def test_it_stays_held_over_a_restart_and_an_abort(self):
        guest = self.boot()
        self.held(guest, parted=True)
        self.one.stop()
        self.one.start()
        row = self.one.operations(guest, "live_out")[0]
        self.one.manager.abort(row.id, "somebody is impatient")
        self.wait(lambda: self.one.world.journal.row(row.id).attempts > 1)
        self.assertTrue(self.stands(guest))
        self.hosts.exchange.cut.clear()
        self.assert_on(guest, self.two)

    def test_a_copy_that_was_let_go_on_while_its_agent_was_away_is_held_too(self):
        guest = self.boot()
        self.halted(guest)
        self.one.stop()
        self.hosts.exchange.cut.add(self.link)
        self.hosts.fabric.set(hold=False, parted=True)
        self.wait(lambda: self.two.world.driver.state(guest).power_state == states.RUNNING)
        self.one.start()
        self.wait(lambda: self.stands(guest))
        self.hosts.exchange.cut.clear()
        self.assert_on(guest, self.two)

    def test_an_earlier_one_holds_no_later_one(self):
        self.patch(live_source, "SEEN_SECONDS", 1)
        guest = self.boot()
        found = self.one.world.driver._read(guest)
        self.one.world.driver._write(guest, {**found, "reason": "migration_canceled"})
        self.halted(guest)
        self.hosts.exchange.cut.add(self.link)
        self.hosts.fabric.set(hold=False, fail_at="precopy")
        self.one.at_rest()
        self.assertTrue(self.runs(guest))
        self.assertEqual("unpaused", self.one.world.driver.state(guest).reason)
        self.hosts.exchange.cut.clear()
        self.assert_on(guest, self.one)
