"""A libvirtd was killed between the switch-over and the end of a migration. The source's left the
guest standing with all sent, which counted as going on, for ever. The destination's death made the
source's let the guest go on, while it ran at the destination, whose agent had taken it over.
"""

from compute.migration import truth
from compute.migration.truth import Act, End
from compute.model import states
from tests.functional.live_support import LiveTest


class EndOfAMigrationTest(LiveTest):
    def ended_unseen(self) -> tuple[str, dict]:
        """A guest that arrived while the source's agent was away, and what its domain there was."""
        guest = self.boot()
        self.halted(guest)
        self.one.stop()
        before = self.one.world.driver._read(guest)
        self.hosts.fabric.set(hold=False)
        self.wait(lambda: not self.two.operations(guest, "live_in")[0].active)
        return guest, {**before, "job": ""}

    def goes_on(self, guest: str, **domain: object) -> None:
        with self.hosts.fabric.lock():
            self.one.world.driver._write(guest, domain)
        self.one.start()
        fields = self.settled(guest)
        self.assertEqual(("host2", None), (fields["host"], fields["task_state"]))
        self.assertIsNone(self.one.world.driver.state(guest))
        self.assertEqual((), self.one.world.driver.disks(guest))
        self.assertEqual(states.RUNNING, self.two.world.driver.state(guest).power_state)

    def test_the_source_stands_still_and_no_job_is_left(self):
        guest, before = self.ended_unseen()
        self.goes_on(guest, **{**before, "power_state": states.POWER_PAUSED,
                               "reason": "migration"})

    def test_the_source_runs_again(self):
        guest, before = self.ended_unseen()
        self.goes_on(guest, **{**before, "power_state": states.RUNNING,
                               "reason": "migration_canceled"})

    def test_two_copies_that_nobody_has_taken_need_a_person(self):
        self.assertEqual(Act.OPERATOR, truth.judge(End.RUNNING, End.RUNNING).act)
        self.assertEqual(Act.DONE, truth.judge(End.RUNNING, End.RUNNING, taken=True).act)
