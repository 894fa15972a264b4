"""The network port over Neutron's REST API, against a local server that keeps ports."""

import re

import fixtures
import testtools

from compute.errors import Failed, MagnetarError, Refused, Retryable, Unknown
from compute.model import wire
from compute.model.guest import Address, NetworkRequest, Nic
from compute.services import chosen
from tests.functional.cloud_support import HTTP, SILENCE, TENANT, Cloud
from tests.modes import once

NET, GUEST = "26345354-2d65-4ddd-88b9-89b33a862860", "aaaaaaaa-0000-4000-8000-000000000001"
CONTEXT = {"project_id": TENANT}
NETWORK = {"id": NET, "name": "labnet", "mtu": 1442}
SUBNET = {"id": "s1", "cidr": "10.77.0.0/24", "ip_version": 4, "gateway_ip": "10.77.0.1",
          "dns_nameservers": ["10.77.0.2"], "enable_dhcp": True,
          "host_routes": [{"destination": "10.0.0.0/8", "nexthop": "10.77.0.9"}]}
OVS = {"binding:vif_type": "ovs", "binding:vif_details": {"bridge_name": "br-int",
                                                           "ovs_hybrid_plug": False}}


def neutron_error(status, kind):
    return status, {"NeutronError": {"type": kind, "message": f"It is {kind}.", "detail": ""}}


class Kept:
    """A network service with one network."""

    def __init__(self, cloud):
        self.ports, self.bound, self.number = {}, OVS, 0
        for method, path, answer in (
            ("GET", "/v2.0/ports", self.list), ("POST", "/v2.0/ports", self.make),
            ("GET", "/v2.0/ports/[^/]+", self.show), ("PUT", "/v2.0/ports/.*", self.update),
            ("DELETE", "/v2.0/ports/.*", self.delete),
            ("GET", "/v2.0/networks", (200, {"networks": [NETWORK]})),
            ("GET", "/v2.0/subnets", (200, {"subnets": [SUBNET]})),
            ("GET", f"/v2.0/auto-allocated-topology/{TENANT}",
             (200, {"auto_allocated_topology": {"id": NET, "tenant_id": TENANT}})),
        ):
            cloud.when(method, path, answer)

    def add(self, **fields):
        self.number += 1
        port = {"id": f"bbbbbbbb-0000-4000-8000-00000000000{self.number}", "network_id": NET,
                "mac_address": f"fa:16:3e:00:00:0{self.number}", "device_id": "", "description": "",
                "fixed_ips": [{"subnet_id": "s1", "ip_address": f"10.77.0.1{self.number}"}],
                **(self.bound if fields.get("binding:host_id") else {}), **fields}
        self.ports[port["id"]] = port
        return port

    def list(self, asked):
        device = asked.query.get("device_id", [None])[0]
        return 200, {"ports": [p for p in self.ports.values() if p["device_id"] == device]}

    def show(self, asked):
        port = self.ports.get(asked.path.rpartition("/")[2])
        return (200, {"port": port}) if port else neutron_error(404, "PortNotFound")

    def make(self, asked):
        fields = dict(asked.body["port"])
        wanted = fields.pop("fixed_ips", None)
        port = self.add(**fields)
        if wanted:
            port["fixed_ips"] = [{"subnet_id": "s1", **wanted[0]}]
        return 201, {"port": port}

    def update(self, asked):
        port = self.ports.get(asked.path.rpartition("/")[2])
        if port is None:
            return neutron_error(404, "PortNotFound")
        port.update(asked.body["port"])
        port.update(self.bound if port.get("binding:host_id") else {
            "binding:vif_type": "unbound", "binding:vif_details": {}})
        return 200, {"port": port}

    def delete(self, asked):
        gone = self.ports.pop(asked.path.rpartition("/")[2], None)
        return (204,) if gone else neutron_error(404, "PortNotFound")


@once(HTTP)
class NeutronTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch("compute.services.rest.PAUSE", 0.01))
        self.cloud = self.useFixture(Cloud())
        self.kept = Kept(self.cloud)
        self.port = self.make()

    def make(self, **values):
        conf = self.cloud.configured("neutron", **{"network_service": "neutron", **values})
        return chosen.networks(conf, None, "host1")

    def allocate(self, *requests):
        return self.port.allocate(CONTEXT, GUEST, requests or (NetworkRequest(NET),))

    def error(self, kind, code, function, *args):
        error = self.assertRaises(MagnetarError, function, *args)
        self.assertEqual((kind, code), (type(error), error.code), error)
        return error

    def test_a_port_is_made_and_bound(self):
        [nic] = self.allocate(NetworkRequest(NET, tag="mgmt"))
        [made] = self.cloud.of("POST", "/v2.0/ports")
        self.assertEqual({"port": {
            "network_id": NET, "device_id": GUEST, "device_owner": "compute:nova",
            "admin_state_up": True, "binding:host_id": "host1", "tenant_id": TENANT,
            "description": f"Made for server {GUEST}, NIC 0"}}, made.body)
        self.assertEqual(Nic(
            id="bbbbbbbb-0000-4000-8000-000000000001", mac="fa:16:3e:00:00:01", network_id=NET,
            label="labnet", kind="ovs", source="br-int", mtu=1442, tag="mgmt",
            addresses=(Address("10.77.0.11", "10.77.0.0/24", 4, "10.77.0.1", ("10.77.0.2",),
                               dhcp=True, routes=(("10.0.0.0/8", "10.77.0.9"),)),)), nic)

    def test_the_cache_keeps_what_a_nic_of_open_vswitch_is(self):
        [nic] = self.allocate()
        text = wire.network_info([nic])
        self.assertRegex(text, f'"ovs_interfaceid": "{nic.id}"')
        cache = {"info_cache": {"nova_object.data": {"network_info": text}}}
        self.assertEqual((nic,), wire.nics(cache))

    def test_asked_again_it_gives_the_same(self):
        both = (NetworkRequest(NET), NetworkRequest(NET, fixed_ip="10.77.0.50"))
        first = self.allocate(*both)
        self.assertEqual("10.77.0.50", first[1].addresses[0].address)
        self.assertEqual(first, self.allocate(*both))
        self.assertEqual(2, len(self.kept.ports))

    def test_what_was_there_before_stays(self):
        mine = self.kept.add(description="my own port")
        nics = self.allocate(NetworkRequest(port_id=mine["id"]), NetworkRequest(NET))
        self.assertEqual((GUEST, "host1"), (mine["device_id"], mine["binding:host_id"]))
        self.assertEqual((True, False), tuple(nic.kept for nic in nics))
        cache = {"info_cache": {"nova_object.data": {"network_info": wire.network_info(nics)}}}
        self.assertEqual(nics, wire.nics(cache))
        self.assertEqual(nics, self.allocate(NetworkRequest(port_id=mine["id"]),
                                             NetworkRequest(NET)))
        self.port.deallocate(CONTEXT, GUEST)
        self.assertEqual({mine["id"]: ""}, {uuid: port["device_id"] for uuid, port
                                            in self.kept.ports.items()})
        self.port.deallocate(CONTEXT, GUEST)

    def test_a_port_of_somebody_else_is_refused(self):
        other = self.kept.add(device_id="another server")
        self.error(Refused, "port_missing", self.allocate, NetworkRequest(port_id=other["id"]))
        self.error(Refused, "port_missing", self.allocate, NetworkRequest(port_id="nope"))
        self.assertEqual([], self.cloud.of("PUT"))

    def test_attach_is_known_by_what_it_was_asked_for(self):
        self.allocate()
        nic = self.port.attach(CONTEXT, GUEST, "op-1", NetworkRequest(NET))
        self.assertEqual("op-1", nic.asked)
        self.assertEqual(nic, self.port.attach(CONTEXT, GUEST, "op-1", NetworkRequest(NET)))
        self.assertEqual(2, len(self.kept.ports))
        self.port.detach(CONTEXT, GUEST, "op-1")
        self.port.detach(CONTEXT, GUEST, "op-1")
        self.assertEqual(1, len(self.kept.ports))
        self.port.detach(CONTEXT, GUEST, next(iter(self.kept.ports)))
        self.assertEqual({}, self.kept.ports)
        mine = self.kept.add()
        nic = self.port.attach(CONTEXT, GUEST, mine["id"], NetworkRequest(port_id=mine["id"]))
        self.assertEqual((mine["id"], None), (nic.id, nic.asked))

    def test_ports_move_along(self):
        [nic] = self.allocate()
        self.assertEqual((nic,), self.port.bind(CONTEXT, GUEST, "host2"))
        self.assertEqual("host2", self.kept.ports[nic.id]["binding:host_id"])
        self.port.bind(CONTEXT, GUEST, "host2")
        self.assertEqual(1, len(self.cloud.of("PUT")))

    def test_any_network_of_the_project(self):
        [nic] = self.allocate(NetworkRequest("auto"))
        self.assertEqual(NET, nic.network_id)
        self.assertEqual((), self.allocate(NetworkRequest("none")))
        self.error(Refused, "network_missing", self.port.allocate, {"project_id": "other"}, "g",
                   (NetworkRequest("auto"),))

    def test_how_it_is_plugged(self):
        for bound, wanted in (
            ({"binding:vif_type": "ovs", "binding:vif_details": {}}, ("ovs", "br-ours")),
            ({"binding:vif_type": "bridge"}, ("bridge", "brq" + NET[:11])),
        ):
            self.kept.ports.clear()
            self.kept.bound = bound
            [nic] = self.make(neutron__ovs_bridge="br-ours").allocate(
                CONTEXT, GUEST, (NetworkRequest(NET),))
            self.assertEqual(wanted, (nic.kind, nic.source))

    def test_what_cannot_be_plugged_says_why(self):
        for bound, words in (
            ({"binding:vif_type": "binding_failed"}, "network agent"),
            ({"binding:vif_type": "hw_veb"}, "Open vSwitch"),
            ({"binding:vif_type": "ovs", "binding:vif_details": {"ovs_hybrid_plug": True}},
             "Linux bridges"),
        ):
            self.kept.bound = bound
            self.kept.ports.clear()
            error = self.error(Failed, "network_missing", self.allocate)
            self.assertIn(words, error.next)
            self.port.deallocate(CONTEXT, GUEST)
            self.assertEqual({}, self.kept.ports)

    def test_refusals_have_novas_meaning(self):
        for kind, status, code in (
            ("IpAddressInUse", 409, "address_in_use"), ("OverQuota", 409, "no_more_addresses"),
            ("InvalidIpForNetwork", 400, "bad_address"), ("Other", 400, "service_refused"),
            ("IpAddressGenerationFailure", 409, "no_more_addresses"),
        ):
            self.cloud.when("POST", "/v2.0/ports", neutron_error(status, kind))
            error = self.error(Refused, code, self.allocate)
            self.assertIn(kind, error.what)
        self.cloud.when("POST", "/v2.0/ports", neutron_error(400, "HTTPBadRequest"))
        self.error(Refused, "bad_address", self.allocate, NetworkRequest(NET, fixed_ip="x"))
        self.cloud.when("POST", "/v2.0/ports", neutron_error(404, "NetworkNotFound"))
        self.error(Refused, "network_missing", self.allocate)

    def test_a_lost_answer_leaves_no_second_port(self):
        def lost(asked):
            self.kept.make(asked)
            return SILENCE

        self.cloud.when("POST", "/v2.0/ports", lost)
        self.error(Unknown, "service_silent", self.allocate)
        [nic] = self.allocate()
        self.assertEqual([nic.id], list(self.kept.ports))

    def test_retries_can_be_switched_off(self):
        self.cloud.when("GET", "/v2.0/ports", (503, {}))
        self.error(Retryable, "service_unreachable", self.make(neutron__http_retries=0).deallocate,
                   CONTEXT, GUEST)
        self.assertEqual(1, len(self.cloud.asked))
        self.assertTrue(re.match("/v2.0", self.cloud.asked[0].path))
