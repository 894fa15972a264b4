"""NICs that come and go, through RPC, agent and fake driver."""

from __future__ import annotations

import threading
from dataclasses import replace

import fixtures

from compute.errors import Failed, Refused, Retryable
from compute.model import states, wire
from compute.operator.verbs import OperatorVerbs
from compute.rpc import primitives
from compute.rpc.exceptions import nova_exception
from compute.rpc.serializer import admin_context
from db.control import instances, networks
from db.journal import rows
from tests.functional.agent_support import Gate, Once, SharedTest, network_info
from tests.waiting import wait_until


class InterfaceTest(SharedTest):
    def setUp(self) -> None:
        super().setUp()
        self.cloud.network()
        self.host.driver.stubborn = frozenset()
        self.host.driver.full = False
        self.cloud.set(libvirt__device_detach_attempts=2, libvirt__device_detach_timeout=1)

    def boot(self, name: str, **more) -> str:
        """A server with one NIC."""
        return self.cloud.boot(name, **{"networks": ["net"], **more})

    def instance(self, uuid: str) -> dict:
        return self.cloud.instance(uuid)

    def nics(self, uuid: str) -> list[dict]:
        """As the API shows them."""
        return network_info(self.instance(uuid))

    def macs(self, uuid: str) -> set[str]:
        """What every part of the world agrees about."""
        ports = {port["mac"] for port in self.control.server_ports(uuid)}
        stored, live = self.host.driver.nics(uuid)
        claimed = {nic["mac"] for claim in self.host.agent.journal.claims(kind="ports", guest=uuid)
                   for nic in claim.data["nics"]}
        cache = {vif["address"] for vif in self.nics(uuid)}
        seen = {"ports": ports, "definition": set(stored), "claims": claimed, "cache": cache,
                "guest": set(stored if live is None else live)}
        self.assertEqual(1, len({frozenset(macs) for macs in seen.values()}), seen)
        return ports

    def audit(self) -> list[str]:
        agent = self.host.agent
        return [finding["rule"] + ": " + finding["what"]
                for finding in OperatorVerbs(agent.reconciler, {}).audit()["findings"]]

    def call(self, uuid: str, **args) -> dict:
        """attach_interface as Nova's API calls it."""
        given = {"network_id": None, "port_id": None, "requested_ip": None, "tag": None, **args}
        return self.cloud.client().call(admin_context(), "attach_interface",
                                        instance=self.instance(uuid), **given)

    def network_id(self) -> str:
        return self.control.network_list()[0]["id"]

    def ended(self, uuid: str, verb: str, state: str = rows.DONE):
        wait_until(lambda: [r for r in self.host.operations(uuid, verb) if not r.active])
        return self.assert_ended(state, uuid, verb)

    def events(self, uuid: str) -> list[tuple]:
        return [(action["action"], event["event"], event["result"])
                for action in self.control.server_actions(uuid)[1:]
                for event in action["events"]]


class OwnIds:
    """A network service in front of another, whose ports have other ids than were asked for."""

    def __init__(self, real):
        self.real, self.asked, self.given_back = real, [], []

    def __getattr__(self, name):
        return getattr(self.real, name)

    @staticmethod
    def of(port):
        return port[::-1]

    def attach(self, context, guest, port, request):
        self.asked.append(port)
        nic = self.real.attach(context, guest, port, request)
        return replace(nic, id=self.of(port), asked=port)

    def detach(self, context, guest, port):
        self.given_back.append(port)
        self.real.detach(context, guest, self.of(port))


class AttachTest(InterfaceTest):
    def test_a_running_server_gets_one_and_gives_it_back(self):
        uuid = self.boot("web")
        port = self.control.server_add_network(uuid, "net")
        self.assertEqual(2, len(self.macs(uuid)))
        self.assertIn(port["address"], self.control.server_show(uuid)["addresses"]["net"])
        self.assertEqual([], self.audit())
        self.control.server_remove_port(uuid, port["id"])
        self.ended(uuid, "detach_interface")
        self.assertEqual(1, len(self.macs(uuid)))
        self.assertEqual([("attach_interface", "compute_attach_interface", "Success"),
                          ("detach_interface", "compute_detach_interface", "Success")],
                         self.events(uuid))
        self.assertEqual([], self.audit())
        self.assert_clean()

    def test_the_answer_is_a_vif_as_novas(self):
        uuid = self.boot("vif")
        before = self.nics(uuid)
        vif = self.call(uuid, network_id=self.network_id(), requested_ip="192.0.2.77")
        self.assertEqual([*before, vif], self.nics(uuid))
        self.assertEqual("192.0.2.77", vif["network"]["subnets"][0]["ips"][0]["address"])
        self.assertEqual(set(before[0]), set(vif))

    def test_stopped_and_paused_servers_too(self):
        uuid = self.boot("off")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.control.server_add_network(uuid, "net", fixed_ip="192.0.2.88")
        self.assertEqual(2, len(self.macs(uuid)))
        self.control.server_start(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual(2, len(self.host.driver.nics(uuid)[1]))
        self.control.server_pause(uuid)
        self.cloud.wait_for(uuid, states.PAUSED)
        self.control.server_add_network(uuid, "net")
        self.assertEqual(3, len(self.macs(uuid)))
        self.control.server_remove_port(uuid, "192.0.2.88")
        self.ended(uuid, "detach_interface")
        self.assertEqual(2, len(self.macs(uuid)))
        self.assert_clean()

    def test_it_sleeps_and_is_defined_anew_with_the_server(self):
        uuid = self.boot("sleeper")
        self.control.server_add_network(uuid, "net")
        for verb, vm_state in (("suspend", states.SUSPENDED), ("resume", states.ACTIVE)):
            getattr(self.control, f"server_{verb}")(uuid)
            self.cloud.wait_for(uuid, vm_state)
            self.assertEqual(2, len(self.macs(uuid)))
        self.control.server_reboot(uuid, hard=True)
        wait_until(lambda: self.host.operations(uuid, "reboot"))
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual(2, len(self.macs(uuid)))
        self.assert_clean()

    def test_tags_are_told_to_the_guest(self):
        uuid = self.boot("tagged", networks=[{"network": "net", "tag": "front"}])
        port = self.control.server_add_network(uuid, "net", tag="back")
        tags = {vif["address"]: vif["meta"].get("tag") for vif in self.nics(uuid)}
        self.assertEqual({"front", "back"}, set(tags.values()))
        self.assertEqual(tags, self.told(uuid))
        self.control.server_remove_port(uuid, port["mac"])
        self.ended(uuid, "detach_interface")
        self.assertEqual(["front"], list(self.told(uuid).values()))

    def told(self, uuid: str) -> dict[str, str]:
        """Tags by MAC, as Nova's metadata service reads them."""
        with self.control.store.begin() as connection:
            row = instances.get(connection, uuid, extra=("device_metadata",))
        devices = [primitives.data(one)
                   for one in primitives.data(row["device_metadata"])["devices"]]
        return {one["mac"]: one["tags"][0] for one in devices}

    def test_the_last_one_may_go_and_one_may_come_to_a_server_without(self):
        uuid = self.boot("bare")
        self.control.server_remove_network(uuid, "net")
        self.ended(uuid, "detach_interface")
        self.assertEqual(set(), self.macs(uuid))
        self.assertEqual([], self.host.agent.journal.claims(kind="ports", guest=uuid))
        self.control.server_add_network(uuid, "net")
        self.assertEqual(1, len(self.macs(uuid)))
        self.assert_clean()

    def test_asked_twice_it_is_one(self):
        uuid = self.boot("once")
        for _ in range(2):
            port = self.control.server_add_network(uuid, "net", request_id="req-once-nic")
        self.assertEqual(2, len(self.macs(uuid)))
        self.control.server_remove_port(uuid, port["id"], request_id="req-once-out")
        self.ended(uuid, "detach_interface")
        self.assertRaises(Refused, self.control.server_remove_port, uuid, port["id"],
                          request_id="req-once-out")
        self.assertEqual(1, len(self.macs(uuid)))

    def test_a_hypervisor_that_cannot_leaves_nothing_behind(self):
        uuid = self.boot("full")
        self.host.driver.full = True
        error = self.assertRaises(Failed, self.control.server_add_network, uuid, "net")
        self.assertIn("no free slot", str(error))
        self.assertEqual("attach_failed", error.code)
        self.assertEqual(1, len(self.macs(uuid)))
        self.assertEqual(("attach_interface", "compute_attach_interface", "Error"),
                         self.events(uuid)[-1])
        self.assert_clean()

    def test_a_network_service_that_gives_its_own_ids(self):
        uuid = self.boot("own-ids")
        world = self.host.agent.world
        service = OwnIds(world.networks)
        self.useFixture(fixtures.MockPatchObject(world, "networks", service))
        vif = self.call(uuid, network_id=self.network_id())
        self.assertEqual(OwnIds.of(service.asked[-1]), vif["id"])
        self.host.driver.full = True
        self.assertRaises(nova_exception("InterfaceAttachFailed"), self.call, uuid,
                          network_id=self.network_id())
        self.assertEqual([OwnIds.of(service.asked[-1])], service.given_back)
        claimed = {nic["id"] for claim in self.host.agent.journal.claims(kind="ports", guest=uuid)
                   for nic in claim.data["nics"]}
        self.assertEqual({nic["id"] for nic in self.nics(uuid)}, claimed)
        self.assertEqual(2, len(claimed))

    def test_addresses_and_networks_that_cannot_be_had(self):
        uuid = self.boot("wishes")
        taken = self.control.server_ports(uuid)[0]["address"]
        for args, code in (({"network": "nix"}, "network_not_found"),
                           ({"network": "net", "fixed_ip": taken}, "address_in_use"),
                           ({"network": "net", "fixed_ip": "198.51.100.1"}, "bad_address")):
            error = self.assertRaises(Refused, self.control.server_add_network, uuid, **args)
            self.assertEqual(code, error.code)
            self.assert_speaks(error)
        self.assertEqual(["spawn"], [row.verb for row in self.host.operations(uuid)])

    def test_what_the_agent_answers_then(self):
        """As Nova's API knows it: by the class of the exception."""
        uuid = self.boot("answers")
        taken = self.control.server_ports(uuid)[0]["address"]
        for args, name in (
                ({"network_id": "nix"}, "NetworkNotFound"),
                ({"network_id": self.network_id(), "requested_ip": taken}, "FixedIpAlreadyInUse"),
                ({"port_id": "aaaaaaaa-0000-4000-8000-000000000009"}, "PortNotFound"),
                ({}, "Invalid")):
            self.assertRaises(nova_exception(name), self.call, uuid, **args)
        self.assertEqual(1, len(self.macs(uuid)))
        self.assert_clean()

    def test_in_states_that_do_not_fit_it_is_refused(self):
        uuid = self.boot("states")
        for values in ({"vm_state": states.SUSPENDED}, {"task_state": states.POWERING_OFF}):
            self.cloud.change(uuid, **values)
            for act in (lambda: self.control.server_add_network(uuid, "net"),
                        lambda: self.control.server_remove_network(uuid, "net")):
                self.assert_speaks(self.assertRaises(Refused, act))
            self.cloud.change(uuid, vm_state=states.ACTIVE, task_state=None)
        self.assertEqual(1, len(self.macs(uuid)))

    def test_another_wish_meanwhile_is_told_what_it_is_busy_with(self):
        uuid = self.boot("busy")
        gate = self.host.hook = Gate("attach_nic")
        thread = threading.Thread(target=self.control.server_add_network, args=(uuid, "net"))
        thread.start()
        gate.wait()
        error = self.assertRaises(Refused, self.control.server_add_network, uuid, "net")
        self.assertIn("busy with attach_interface", str(error))
        gate.open = True
        thread.join()
        self.assertEqual(2, len(self.macs(uuid)))

    def test_a_delete_in_the_middle(self):
        uuid = self.boot("doomed")
        gate = self.host.hook = Gate("attach_nic")
        outcome = []

        def attach() -> None:
            try:
                outcome.append(self.control.server_add_network(uuid, "net"))
            except Exception as error:  # noqa: BLE001 - looked at below
                outcome.append(error)

        thread = threading.Thread(target=attach)
        thread.start()
        gate.wait()
        self.control.server_delete(uuid)
        gate.open = True
        thread.join()
        wait_until(lambda: self.control.server_show(uuid)["vm_state"] == states.DELETED)
        self.host.at_rest()
        self.assertEqual([], self.host.agent.journal.claims(guest=uuid))
        self.assert_clean()


class DetachTest(InterfaceTest):
    def mac(self, uuid: str) -> str:
        return self.control.server_ports(uuid)[0]["mac"]

    def test_a_guest_that_does_not_let_go_keeps_it_and_that_is_told(self):
        uuid = self.boot("stubborn")
        self.host.driver.stubborn = frozenset({self.mac(uuid)})
        self.control.server_remove_network(uuid, "net")
        row = self.ended(uuid, "detach_interface", rows.UNDONE)
        self.assertEqual("device_stays", row.error["code"])
        self.assert_speaks(row.error)
        self.assertEqual(1, len(self.macs(uuid)))
        self.assertEqual("Error", self.events(uuid)[-1][2])
        self.assertEqual([], self.audit())
        self.assert_clean()

    def test_device_detach_attempts_and_device_detach_timeout(self):
        """So often, and so long each time."""
        uuid = self.boot("asked")
        self.host.driver.stubborn = frozenset({self.mac(uuid)})
        for number, attempts in enumerate((1, 3), 1):
            self.cloud.set(libvirt__device_detach_attempts=attempts)
            asked = self.host.driver.calls.get("detach_nic", 0)
            self.control.server_remove_network(uuid, "net")
            wait_until(lambda number=number: [
                row.active for row in self.host.operations(uuid, "detach_interface")
            ] == [False] * number)
            self.assertEqual(attempts, self.host.driver.calls["detach_nic"] - asked)
            row = self.host.operations(uuid, "detach_interface")[-1]
            self.assertGreaterEqual(row.updated - row.created, attempts)
        self.cloud.set(libvirt__device_detach_timeout=30)
        self.control.server_remove_network(uuid, "net")
        wait_until(lambda: self.host.driver.calls["detach_nic"] - asked > 3)
        self.assertTrue(self.host.operations(uuid, "detach_interface")[-1].active)
        self.host.driver.stubborn = frozenset()
        self.host.driver.detach_nic(uuid, self.nic(uuid))
        self.host.agent.manager.wake(uuid)
        self.ended(uuid, "detach_interface")

    def nic(self, uuid: str):
        return wire.nics(primitives.data(self.instance(uuid)))[0]

    def test_an_event_of_the_hypervisor_ends_the_wait(self):
        """The guest lets go a little later: nothing waits for its time to be over."""
        uuid = self.boot("later")
        self.cloud.set(libvirt__device_detach_timeout=10_000)
        self.host.driver.stubborn = frozenset({self.mac(uuid)})
        self.control.server_remove_network(uuid, "net")
        wait_until(lambda: self.host.operations(uuid, "detach_interface")
                   and self.host.operations(uuid, "detach_interface")[-1].step == "nic")
        self.host.driver.stubborn = frozenset()
        self.host.driver.detach_nic(uuid, self.nic(uuid))
        self.host.agent._event(uuid, "device")
        self.ended(uuid, "detach_interface")
        self.assertEqual(set(), self.macs(uuid))

    def test_a_port_that_is_none_of_the_servers(self):
        uuid = self.boot("other")
        error = self.assertRaises(Refused, self.control.server_remove_port, uuid, "nix")
        self.assert_speaks(error)
        self.cloud.cast(uuid, "detach_interface", port_id="aaaaaaaa-0000-4000-8000-000000000009")
        row = self.ended(uuid, "detach_interface", rows.UNDONE)
        self.assertEqual("port_missing", row.error["code"])
        self.assertEqual(1, len(self.macs(uuid)))

    def test_a_port_that_is_gone_takes_its_nic_along(self):
        """Deleted in the network service: the event says so, and the guest loses the NIC."""
        uuid = self.boot("gone")
        port = self.control.server_ports(uuid)[0]
        with self.control.store.begin() as connection:
            networks.release_ports(connection, uuid, port["id"])
        self.control.server_event(uuid, "network-vif-deleted", tag=port["id"])
        self.ended(uuid, "detach_interface")
        self.assertEqual(set(), self.macs(uuid))
        self.control.server_event(uuid, "network-vif-deleted", tag=port["id"])
        self.control.server_event(uuid, "network-changed", tag=port["id"])
        self.host.at_rest()
        self.assertEqual(1, len(self.host.operations(uuid, "detach_interface")))
        self.assert_clean()

    def test_a_nic_that_virsh_took_out_or_put_in_is_found_by_the_audit(self):
        uuid = self.boot("virsh")
        nic = self.nic(uuid)
        self.host.driver.detach_nic(uuid, nic)
        [missing] = self.audit()
        self.assertIn("it has no such NIC", missing)
        self.host.driver.attach_nic(self.guest(uuid), nic)
        self.assertEqual([], self.audit())
        self.host.driver.attach_nic(self.guest(uuid), type(nic)(
            **{**vars(nic), "id": "feedfeed-feed", "mac": "52:54:00:00:00:99"}))
        [extra] = self.audit()
        self.assertIn("tapfeedfeed-fe", extra)

    def guest(self, uuid: str):
        return wire.guest(self.instance(uuid))

    def test_a_driver_that_fails_once_is_asked_again(self):
        uuid = self.boot("again")
        self.host.hook = Once("detach_nic", lambda: Retryable("Not now.", code="libvirt_busy"))
        self.control.server_remove_network(uuid, "net")
        self.ended(uuid, "detach_interface")
        self.assertEqual(set(), self.macs(uuid))
