"""Objects from rows, contexts, checks of what tenants give."""

import base64
import ipaddress
import json

import testtools
from hypothesis import assume, given
from hypothesis import strategies as st

from compute.errors import Refused
from compute.model.guest import Image
from compute.rpc import primitives
from compute.rpc.serializer import Context, ContextSerializer, admin_context
from control import addresses, building, catalog, common, networks, servers, views, wire


class WireTest(testtools.TestCase):
    def test_updates_are_what_the_caller_lacks_or_has_otherwise(self):
        sent = primitives.make("InstanceFault", {"code": 1, "message": "m"}, ["code", "message"])
        found = wire.updates(sent, {"id": 7, "code": 1, "message": "n"})
        self.assertEqual({"id": 7, "message": "n", "obj_what_changed": []}, found)

    def test_changes_that_are_not_saved_stay_changed(self):
        sent = primitives.make("Instance", {"ec2_ids": None, "host": "h"}, ["ec2_ids", "host"])
        self.assertEqual(["ec2_ids"], wire.updates(sent, {"host": "h"})["obj_what_changed"])

    def test_only_columns_are_written_and_none_that_the_database_owns(self):
        fields = {"id": 9, "host": "h", "compute_node": None, "version": 1}
        sent = primitives.make("Service", fields)
        self.assertEqual({"host": "h", "version": 1}, wire.changed(sent))

    def test_backport_relabels_nested_objects_and_leaves_the_original(self):
        inner = wire.make("Flavor", {"id": 1})
        outer = wire.make_list("InstanceList", [wire.make("Instance", {"flavor": inner})])
        lowered = wire.backport(outer, {"Instance": "2.7", "Flavor": "1.1", "InstanceList": "2.6"})
        instance = primitives.objects(lowered)[0]
        self.assertEqual("2.7", instance[primitives.VERSION])
        self.assertEqual("1.1", primitives.data(instance)["flavor"][primitives.VERSION])
        self.assertEqual("1.2", inner[primitives.VERSION])

    def test_backport_never_raises_a_version_and_refuses_another_major_one(self):
        one = wire.make("Instance", {})
        self.assertEqual("2.8", wire.backport(one, {"Instance": "2.99"})[primitives.VERSION])
        self.assertRaises(ValueError, wire.backport, one, {"Instance": "1.99"})

    def test_context_keeps_all_that_it_came_with(self):
        came = {"user_id": "u", "project_id": "p", "request_id": "req-1", "is_admin": True,
                "read_deleted": "yes", "service_catalog": [1], "future": "x", "roles": ["admin"],
                "timestamp": "2026-01-01T00:00:00"}
        serializer = ContextSerializer()
        context = serializer.deserialize_context(came)
        self.assertEqual(("req-1", "u", True), (context.request_id, context.user_id,
                                                context.is_admin))
        sent = serializer.serialize_context(context)
        self.assertEqual(came, {name: sent[name] for name in came})
        self.assertEqual(sent, json.loads(json.dumps(sent)))

    def test_plain_dicts_and_empty_ones_are_contexts_too(self):
        serializer = ContextSerializer()
        self.assertEqual({"request_id": "req-2"},
                         serializer.serialize_context({"request_id": "req-2"}))
        self.assertIsInstance(serializer.deserialize_context({}), Context)

    def test_a_new_context_has_a_request_id(self):
        self.assertThat(admin_context().request_id, testtools.matchers.StartsWith("req-"))


class RefusingTest(testtools.TestCase):
    def refused(self, code, function, *args, **kwargs):
        error = self.assertRaises(Refused, function, *args, **kwargs)
        self.assertEqual(code, error.code)
        self.assertTrue(error.now and error.next, "it says what is true now and what to do")
        return error


class ChecksTest(RefusingTest):
    def test_host_names(self):
        for name, wanted in (("Web Server 1", "web-server-1"), ("ünï", "n"), ("...", "server"),
                             ("a.b", "a-b"), ("x" * 80, "x" * 63)):
            self.assertEqual(wanted, building.hostname(name))

    @given(st.text(max_size=300))
    def test_host_names_are_always_valid(self, text):
        self.assertRegex(building.hostname(text), r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")

    def test_user_data_is_base64_or_becomes_so(self):
        self.assertEqual("IyEvYmluL3No", servers.checked_user_data("IyEvYmluL3No"))
        script = "#!/bin/sh\necho ä\n"
        encoded = servers.checked_user_data(script)
        self.assertEqual(script, base64.b64decode(encoded).decode())
        self.assertIsNone(servers.checked_user_data(""))
        self.refused("bad_user_data", servers.checked_user_data, "x y" * 30000)

    def test_names_and_numbers(self):
        for bad in ("", "   ", "a\nb", "x" * 256, None, 7):
            self.refused("bad_name", common.checked_name, "thing", bad)
        for bad in (0, -1, True, "3", 2**40, 1.5):
            self.refused("bad_value", common.checked_number, "It", bad, 1)
        self.refused("bad_value", common.checked_properties, "p", {"": "x"})
        self.refused("bad_value", common.checked_properties, "p", {"x": "y" * 256})
        self.refused("bad_request", common.context_for, "no spaces please")

    def test_an_id_wins_over_a_name_and_two_names_are_ambiguous(self):
        rows = [{"uuid": "a", "name": "x"}, {"uuid": "x", "name": "y"}]
        self.assertEqual(rows[1], common.one("thing", "x", rows))
        error = self.refused("ambiguous", common.one, "thing", "z",
                             [{"uuid": "a"}, {"uuid": "b"}])
        self.assertIn("a, b", error.what)
        self.refused("thing_not_found", common.one, "thing", "q", [])

    def test_flavors_too_small_for_the_image(self):
        flavor = {"name": "f", "root_gb": 1, "memory_mb": 64}
        servers.check_fit(Image("i", size=1 << 30, min_ram=64, min_disk=1), flavor)
        for image in (Image("i", size=(1 << 30) + 1), Image("i", min_ram=65),
                      Image("i", min_disk=2)):
            self.refused("flavor_too_small", servers.check_fit, image, flavor)
        servers.check_fit(Image("i", size=1 << 40), {**flavor, "root_gb": 0})

    def test_keys(self):
        data = base64.b64encode(b"\0\0\0\x0bssh-ed25519").decode()
        fingerprint = catalog.key_fingerprint(f"ssh-ed25519 {data} me")
        self.assertRegex(fingerprint, "^([0-9a-f]{2}:){15}..$")
        for bad in ("", "ssh-ed25519", "ssh-ed25519 %%%", f"nonsense {data}",
                    f"ssh-rsa {data}\nssh-rsa {data}"):
            self.refused("bad_key", catalog.key_fingerprint, bad)

    def test_status_is_the_word_of_novas_api(self):
        for vm_state, task, wanted in (
            ("active", None, "ACTIVE"), ("building", "spawning", "BUILD"),
            ("stopped", None, "SHUTOFF"), ("active", "reboot_started", "REBOOT"),
            ("stopped", "rebooting_hard", "HARD_REBOOT"), ("error", "rebooting_hard", "ERROR"),
            ("active", "deleting", "ACTIVE"),
        ):
            row = {"deleted": False, "vm_state": vm_state, "task_state": task}
            self.assertEqual(wanted, views.status(row))


class NetworksTest(RefusingTest):
    def values(self, name="net", subnet="192.0.2.0/24", bridge=None, nat=None, gateway=None,
               dns=None, mtu=None):
        return networks.network_values(name, subnet, bridge, nat, gateway, dns, mtu)

    def test_nat_network(self):
        found = self.values(dns=["192.0.2.1"])
        self.assertEqual(("network", "net", "192.0.2.1", True),
                         (found["kind"], found["source"], found["gateway"], found["dhcp"]))

    def test_bridge(self):
        found = self.values(bridge="br0")
        self.assertEqual(("bridge", "br0", None, False),
                         (found["kind"], found["source"], found["gateway"], found["dhcp"]))
        told = addresses.description({**found, "uuid": "id", "name": "net"})
        self.assertEqual(("br0", None), (told["bridge"], told.get("cidr")))

    def test_what_makes_no_sense_is_refused(self):
        for bad in (
            {"subnet": "192.0.2.1/24"}, {"subnet": "x"}, {"subnet": None},
            {"subnet": "10.0.0.0/31"},
            {"subnet": "127.0.0.0/8"}, {"subnet": "224.0.0.0/8"}, {"gateway": "10.0.0.1"},
            {"gateway": "192.0.2.0"}, {"gateway": "192.0.2.255"}, {"gateway": "2001:db8::1"},
            {"bridge": "br0", "nat": True}, {"bridge": "no such bridge"}, {"name": "a b"},
            {"dns": ["nope"]},
        ):
            self.refused("bad_network", self.values, **bad)
        self.refused("bad_value", self.values, mtu=10)

    def test_nat_networks_may_not_overlap(self):
        others = [{"name": "o", "cidr": "192.0.2.128/25", "kind": "network"}]
        self.refused("network_overlaps", networks.check_overlap, self.values(), others)
        networks.check_overlap(self.values(subnet="198.51.100.0/24"), others)
        networks.check_overlap(self.values(bridge="br0"), others)

    def test_fixed_addresses(self):
        network = self.values()
        self.assertEqual("192.0.2.9", addresses.check_fixed(network, "192.0.2.9", set()))
        for bad in ("192.0.2.0", "192.0.2.255", "192.0.2.1", "198.51.100.1", "x", "2001:db8::5"):
            self.refused("bad_address", addresses.check_fixed, network, bad, set())
        self.refused("address_in_use", addresses.check_fixed, network, "192.0.2.9", {"192.0.2.9"})

    @given(st.integers(22, 30), st.integers(0, 2**32 - 1), st.data())
    def test_free_addresses_are_usable_and_free(self, prefix, base, data):
        subnet = ipaddress.ip_network((base, prefix), strict=False)
        assume(not (subnet.is_loopback or subnet.is_multicast or subnet.is_link_local))
        network = self.values(subnet=str(subnet))
        hosts = [str(host) for host in subnet.hosts()]
        taken = set(data.draw(st.lists(st.sampled_from(hosts), max_size=20)))
        found = list(addresses.free(network, taken))
        self.assertEqual(set(hosts) - taken - {network["gateway"]}, set(found))

    def test_a_subnet_of_v6_has_a_pool_too(self):
        network = self.values(subnet="2001:db8::/64")
        self.assertEqual("2001:db8::2", next(addresses.free(network, set())))

    def test_mac_addresses(self):
        self.assertRegex(addresses.random_mac(), "^fa:16:3e(:[0-9a-f]{2}){3}$")
