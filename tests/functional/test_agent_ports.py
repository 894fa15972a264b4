"""Ports that exist by themselves, through RPC, agent and fake driver."""

from __future__ import annotations

from compute.errors import Failed, Refused
from compute.model import states
from compute.rpc import primitives
from compute.rpc.exceptions import nova_exception
from db.journal import rows
from tests.functional.test_agent_interfaces import InterfaceTest
from tests.waiting import wait_until


class PortsTest(InterfaceTest):
    def spare(self, name: str) -> dict:
        return self.control.port_create(name, "net")

    def port(self, name: str) -> dict:
        return self.control.port_show(name)

    def vif(self, uuid: str, port: str) -> dict:
        return next(vif for vif in self.nics(uuid) if vif["id"] == port)

    def test_it_comes_to_a_server_and_stays_when_the_server_lets_it_go(self):
        uuid, spare = self.boot("web"), self.spare("p-web")
        port = self.control.server_add_port("web", "p-web", tag="second")
        self.assertEqual((spare["id"], spare["address"], "second"),
                         (port["id"], port["address"], port["tag"]))
        self.assertEqual(2, len(self.macs(uuid)))
        self.assertTrue(self.vif(uuid, spare["id"])["preserve_on_delete"])
        self.control.server_remove_port("web", "p-web")
        self.ended(uuid, "detach_interface")
        self.assertEqual(1, len(self.macs(uuid)))
        self.assertEqual(spare, self.port("p-web"))
        self.assertEqual([], self.audit())
        self.assert_clean()

    def test_from_its_first_day_to_its_last_and_on_to_the_next_server(self):
        spare = self.spare("p-life")
        for name in ("life", "afterlife"):
            uuid = self.boot(name, networks=[{"port": "p-life"}, "net"])
            self.assertIn(spare["mac"], self.macs(uuid))
            self.assertEqual(spare["id"], self.nics(uuid)[0]["id"])
            self.control.server_reboot(uuid, hard=True)
            wait_until(lambda uuid=uuid: self.host.operations(uuid, "reboot"))
            self.cloud.wait_for(uuid, states.ACTIVE)
            self.assertIn(spare["mac"], self.macs(uuid))
            self.control.server_delete(uuid)
            wait_until(lambda uuid=uuid: self.cloud.show(uuid)["vm_state"] == states.DELETED)
            self.host.at_rest()
            self.assertEqual(spare, self.port("p-life"))
        self.assert_clean()

    def test_asked_twice_it_is_one(self):
        uuid, spare = self.boot("once"), self.spare("p-once")
        for _ in range(2):
            port = self.control.server_add_port(uuid, "p-once", request_id="req-once-port")
            self.assertEqual(spare["id"], port["id"])
        self.assertEqual(2, len(self.macs(uuid)))
        self.assertRaises(Refused, self.control.server_add_port, uuid, "p-once",
                          request_id="req-another")

    def test_a_hypervisor_that_cannot_leaves_it_free(self):
        uuid, spare = self.boot("full"), self.spare("p-full")
        self.host.driver.full = True
        self.assertRaises(Failed, self.control.server_add_port, uuid, "p-full")
        self.assertEqual(1, len(self.macs(uuid)))
        self.assertEqual(spare, self.port("p-full"))
        self.assert_clean()

    def test_what_the_agent_answers_when_it_is_in_use(self):
        """By the server itself, or by another one: nothing of who has it is touched."""
        mine, other = self.boot("mine"), self.boot("other")
        port = self.spare("p-mine")["id"]
        self.control.server_add_port(mine, port)
        for uuid in (mine, other):
            self.assertRaises(nova_exception("PortInUse"), self.call, uuid, port_id=port)
            row = self.ended(uuid, "attach_interface", rows.UNDONE) if uuid == other else \
                self.host.operations(uuid, "attach_interface")[-1]
            self.assertEqual("port_in_use", row.error["code"])
            self.assert_speaks(row.error)
        self.assertEqual(2, len(self.macs(mine)))
        self.assertEqual(1, len(self.macs(other)))
        self.assertEqual("mine", self.port("p-mine")["server"])
        self.assertEqual([], self.audit())
        self.assert_clean()

    def test_a_port_of_another_network_is_no_ones_nic(self):
        uuid, spare = self.boot("wrong"), self.spare("p-wrong")
        self.assertRaises(nova_exception("InterfaceAttachFailed"), self.call, uuid,
                          port_id=spare["id"], network_id="elsewhere")
        self.assertEqual(spare, self.port("p-wrong"))
        self.assertEqual(1, len(self.macs(uuid)))

    def test_what_the_guest_is_told_of_its_tag_goes_with_it(self):
        uuid = self.boot("told", networks=[{"port": self.spare("p-told")["id"], "tag": "front"}])
        told = primitives.data(self.instance(uuid))
        self.assertEqual("front", self.vif(uuid, self.port("p-told")["id"])["meta"]["tag"], told)
        self.control.server_remove_port(uuid, "p-told")
        self.ended(uuid, "detach_interface")
        self.assertIsNone(self.port("p-told")["tag"])
