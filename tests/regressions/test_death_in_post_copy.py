"""The source's QEMU was killed in post-copy. When both ends were off, the destination's half waited
for ever, since only the absence of a domain told it that nothing comes. When the destination ran on
without the missing memory, it waited for ever as well, and the source's half for it.
"""

from compute.migration import truth
from compute.migration.truth import Act, End
from compute.model import move, states
from compute.steps import live_destination
from db.journal import rows
from tests.functional.live_support import LiveTest


class DeathInPostCopyTest(LiveTest):
    def in_post_copy(self) -> str:
        """A guest that is in post-copy, and stays there."""
        guest = self.boot()
        self.one.world.conf.libvirt.live_migration_permit_post_copy = True
        self.hosts.fabric.set(converges=False)
        self.halted(guest)
        self.tell("live_migration_force_complete", guest)
        self.under_way(guest, move.POSTCOPY)
        return guest

    def test_both_ends_are_off(self):
        guest = self.in_post_copy()
        self.one.world.driver.stop_domain(guest)
        self.assertEqual("host1", self.settled(guest)["host"])
        self.assertIsNone(self.two.world.driver.state(guest))
        self.assertEqual((), self.two.world.driver.disks(guest))
        self.assertEqual(rows.UNDONE, self.two.operations(guest, "live_in")[0].state)

    def source_dies(self, guest: str, reason: str) -> None:
        """Its QEMU is gone, and the destination's shows ``reason``."""
        fabric, one, two = self.hosts.fabric, self.one.world.driver, self.two.world.driver
        with fabric.lock():
            one._write(guest, {**one._read(guest), "job": "", "reason": "crashed",
                               "power_state": states.SHUTDOWN})
            two._write(guest, {**two._read(guest), "reason": reason})
            fabric.set_move(guest, {**fabric.move(guest), "phase": move.FAILED})

    def test_the_destination_misses_memory(self):
        self.patch(live_destination, "LOST_SECONDS", 1.0)
        for reason in ("postcopy_failed", "postcopy"):
            guest = self.in_post_copy()
            self.source_dies(guest, reason)
            fields = self.settled(guest)
            self.assertEqual(("host2", None), (fields["host"], fields["task_state"]))
            self.assertEqual(states.SHUTDOWN, self.two.world.driver.state(guest).power_state)
            self.assertIsNone(self.one.world.driver.state(guest))
            self.assertEqual((), self.one.world.driver.disks(guest))
            for agent, verb in ((self.one, "live_out"), (self.two, "live_in")):
                self.assertEqual(rows.DONE, agent.operations(guest, verb)[0].state, verb)

    def test_a_guest_that_the_destination_has_taken_stays_there(self):
        self.assertEqual(Act.UNDONE, truth.judge(End.OFF, End.OFF).act)
        self.assertEqual(Act.DONE, truth.judge(End.OFF, End.OFF, taken=True).act)
