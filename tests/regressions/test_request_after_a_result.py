"""A tenant acts as soon as the result is shown, while the operation still tidies up: his next
request was refused as busy, and since casts are answered to nobody the task stood until it was
called lost.
"""

from compute.model import states
from tests.functional.agent_support import SharedTest


class AtOnceTest(SharedTest):
    def test_stop_and_start_without_a_pause(self):
        uuid = self.cloud.boot("hasty")
        for _ in range(3):
            self.control.server_stop(uuid)
            self.cloud.wait_for(uuid, states.STOPPED)
            self.control.server_start(uuid)
            self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertNotIn("is busy", self.log.output)
        self.assert_clean()
