"""How often a host failed to build, as the scheduler reads it."""

from __future__ import annotations

from compute.errors import Failed
from compute.model import states
from compute.operations.spawn import HOPELESS, NOT_OURS
from compute.resources.tracker import NOT_ITS_FAULT
from tests.functional.agent_support import AgentTest, Once
from tests.waiting import wait_until


class FailedBuildsTest(AgentTest):
    def told(self, failed: int) -> None:
        """The control plane has heard of so many."""
        wait_until(lambda: self.control.host_show("host1")["failed_builds"] == failed,
                   self.host.story)

    def fails(self, name: str, code: str) -> None:
        self.host.hook = Once("power_on", lambda: Failed("It does not start.", code=code))
        uuid = self.cloud.create(name)["id"]
        self.cloud.wait_for(uuid, states.ERROR)
        self.host.at_rest()

    def test_those_since_the_last_that_worked(self):
        self.assertEqual(HOPELESS | NOT_OURS, NOT_ITS_FAULT)
        self.told(0)
        self.fails("one", "start_failed")
        self.told(1)
        self.fails("two", "start_failed")
        self.told(2)
        self.fails("bad", "image_unacceptable")  # the image's fault
        self.told(2)
        self.host.restart()
        self.told(2)
        self.cloud.boot("works")
        self.told(0)
