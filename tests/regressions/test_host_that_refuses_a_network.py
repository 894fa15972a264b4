"""A host that refused to make a network was not heard: the control plane took the answer of our
namespace, ``{"error": …}``, for a result, and called the network active.
"""

from compute.errors import Refused
from tests.functional.agent_support import AgentTest, Once


class RefusedNetworkTest(AgentTest):
    def test_it_is_told_and_nothing_stays(self):
        self.host.hook = Once("create_network", lambda: Refused(
            "There is no bridge br7.", now="Nothing was made.", next="Make it.",
            code="bridge_missing"))
        error = self.assertRaises(Refused, self.control.network_create, "net", "192.0.2.0/24")
        self.assertEqual("bridge_missing", error.code)
        self.assertEqual([], self.control.network_list())
