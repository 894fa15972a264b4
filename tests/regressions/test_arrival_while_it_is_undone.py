"""A destination gave its lease up on a look at its own domain that was older than the source's
answer; the guest came in between, and both halves waited for each other for ever.
"""

from db.journal import rows
from tests.functional.live_support import LiveTest


class LateArrivalTest(LiveTest):
    def test_it_goes_forward_again(self):
        guest = self.boot()
        self.hosts.fabric.set(hold=True)
        self.migrate(guest)
        driver = self.two.world.driver
        self.wait(lambda: driver.state(guest) is not None)
        [row] = self.two.operations(guest, "live_in")
        # As if it had given up just before the guest came.
        self.two.stop()
        self.two.world.journal.update(row.id, state=rows.UNDOING, abort="given up",
                                      error={"kind": "failed", "what": "It did not come."})
        self.hosts.fabric.set(hold=False)
        self.wait(lambda: (driver.notch(guest), driver.state(guest).job == "")[1])
        self.two.start()
        self.assert_on(guest, self.two)
        self.assertEqual(rows.DONE, self.two.world.journal.row(row.id).state)
