"""The fault was written after the state: who waited for the state saw an error without a reason."""

from compute.errors import Failed
from compute.model import states
from db.control import instances
from tests.functional.agent_support import Once, SharedTest
from tests.waiting import wait_until


class FaultTest(SharedTest):
    def test_the_reason_is_there_when_the_task_is_gone(self):
        uuid = self.cloud.boot("reason")
        self.host.hook = Once("define", lambda: Failed("It is broken.", code="broken"))
        slow = self.host.agent.conductor.fault
        seen = []

        def fault(context, guest, error):
            seen.append(self.cloud.show(guest)["task_state"])
            slow(context, guest, error)

        self.host.agent.conductor.fault = fault
        self.control.server_reboot(uuid)
        wait_until(lambda: self.cloud.show(uuid)["vm_state"] == states.ERROR)
        with self.control.store.begin() as connection:
            faults = instances.faults(connection, [uuid])
        self.assertEqual(["It is broken."], [f["message"] for f in faults])
        self.assertEqual([states.REBOOT_STARTED], seen)
