"""From Nova's objects to what operations work with, against messages of a stock Nova."""

from __future__ import annotations

import copy
import json

import testtools
from hypothesis import given
from hypothesis import strategies as st

from compute.errors import Refused
from compute.model import wire
from compute.model.guest import Address, Nic
from compute.rpc.primitives import data, make, make_list
from tests import fakes
from tests.contract import wire as captured

UUID = "aaaaaaaa-0000-4000-8000-000000000001"


class CapturedTest(testtools.TestCase):
    """What a stock Nova 34 sent."""

    def build(self, name="build_and_run_instance"):
        return captured.load(name).cast("build_and_run_instance").args

    def test_the_guest_of_a_build(self):
        args = self.build()
        fields = data(args["instance"])
        guest = wire.guest(args["instance"], args["image"])
        self.assertEqual((fields["uuid"], fields["display_name"], fields["hostname"]),
                         (guest.uuid, guest.display_name, guest.hostname))
        self.assertEqual(f"instance-{fields['id']:08x}", guest.name)
        flavor = data(fields["flavor"])
        self.assertEqual((flavor["vcpus"], flavor["memory_mb"], flavor["root_gb"]),
                         (guest.flavor.vcpus, guest.flavor.memory_mb, guest.flavor.root_gb))
        self.assertEqual((args["image"]["id"], args["image"]["disk_format"]),
                         (guest.image.id, guest.image.disk_format))
        self.assertEqual(("building", "scheduling"), (guest.vm_state, guest.task_state))

    def test_the_networks_of_a_build(self):
        with_network = wire.network_requests(self.build()["requested_networks"])
        self.assertEqual(1, len(with_network))
        self.assertTrue(with_network[0].network_id or with_network[0].port_id)
        without = wire.network_requests(self.build("build_no_network")["requested_networks"])
        self.assertEqual(["none"], [r.network_id for r in without])

    def test_the_nics_of_a_guest_that_has_some(self):
        args = captured.load("terminate_instance").cast("terminate_instance").args
        fields = data(args["instance"])
        vifs = json.loads(data(fields["info_cache"])["network_info"])
        for vif, nic in zip(vifs, wire.nics(fields), strict=True):
            self.assertEqual((vif["id"], vif["address"], vif["network"]["id"], vif["devname"]),
                             (nic.id, nic.mac, nic.network_id, nic.tap))
            wanted = [ip["address"] for s in vif["network"]["subnets"] for ip in s["ips"]]
            self.assertEqual(wanted, [a.address for a in nic.addresses])
        self.assertTrue(vifs)

    def test_every_instance_in_every_capture_is_understood(self):
        seen = 0
        for name in captured.names():
            for message in captured.load(name).to_compute():
                if "instance" in message.args:
                    wire.guest(message.args["instance"], message.args.get("image"))
                    seen += 1
        self.assertGreater(seen, 5)

    def test_verbs_come_without_the_flavor(self):
        args = captured.load("stop").cast("stop_instance").args
        self.assertIs(wire.NO_FLAVOR, wire.guest(args["instance"]).flavor)


class MalformedTest(testtools.TestCase):
    def refused(self, function, *args, **kwargs):
        error = self.assertRaises(Refused, function, *args, **kwargs)
        self.assertEqual("bad_request", error.code)
        self.assertTrue(error.what and error.now and error.next)
        return error

    def test_objects_of_another_kind(self):
        for value in (None, "text", 7, [], {}, fakes.flavor(), {"nova_object.name": "Instance"}):
            error = self.refused(wire.require, {"instance": value}, "instance", "Instance")
            self.assertIn("'instance' has to be a Instance object", error.what)

    def test_instances_without_a_proper_uuid(self):
        for uuid in (None, 7, "short", "x" * 37):
            self.refused(wire.instance_of,
                         {"instance": make("Instance", {"uuid": uuid}, changes=())})

    def test_flavors(self):
        for sizes in ({"vcpus": 0}, {"vcpus": "many"}, {"memory_mb": 0}, {"memory_mb": None},
                      {"root_gb": -1}, {"swap": -1}, {"ephemeral_gb": "x"}):
            self.refused(wire.flavor, fakes.flavor(**sizes))
        self.refused(wire.flavor, None)

    def test_info_caches(self):
        for text in ("[1]", "[{}]", "{", '[{"network": 1}]'):
            prim = fakes.instance(UUID)
            data(data(prim)["info_cache"])["network_info"] = text
            self.refused(wire.guest, prim)

    def test_injected_files(self):
        good = [["/etc/motd", "aGVsbG8="]]
        self.assertEqual(good, wire.injected_files(good))
        self.assertEqual(good, wire.injected_files([("/etc/motd", "aGVsbG8=")]))
        self.assertEqual([], wire.injected_files(None))
        for bad in ([["/etc/motd", "%%%"]], [["/etc/motd"]], [7], [["a", "b", "c"]], [["a", 7]]):
            self.refused(wire.injected_files, bad)


class GuestTest(testtools.TestCase):
    def test_domain_names(self):
        fields = {"id": 255, "uuid": UUID, "hostname": "web"}
        for template, name in (("instance-%08x", "instance-000000ff"), ("uuid", UUID),
                               ("%(uuid)s", UUID), ("vm-%(hostname)s-%(id)d", "vm-web-255")):
            self.assertEqual(name, wire.domain_name(fields, template))
        self.assertEqual(UUID, wire.domain_name({"uuid": UUID}, "instance-%08x"))

    def test_the_image_as_the_instance_remembers_it(self):
        fields = {"image_ref": "i", "system_metadata": {
            "image_hw_disk_bus": "scsi", "image_disk_format": "qcow2", "image_min_disk": "3",
            "image_base_image_ref": "i", "owner_user_name": "u"}}
        image = wire.image_of_instance(fields)
        self.assertEqual(("i", "qcow2", 3, {"hw_disk_bus": "scsi"}),
                         (image.id, image.disk_format, image.min_disk, dict(image.properties)))
        self.assertIsNone(wire.image_of_instance({"image_ref": ""}))

    def test_the_machine_of_the_first_boot_wins(self):
        prim = fakes.instance(UUID, system_metadata={"image_hw_machine_type": "pc-7.2"})
        guest = wire.guest(prim, {"id": "i", "properties": {"hw_machine_type": "q35",
                                                            "hw_disk_bus": "scsi",
                                                            "hw_vif_model": None}})
        self.assertEqual("pc-7.2", guest.prop("hw_machine_type"))
        self.assertEqual("scsi", guest.prop("hw_disk_bus"))
        self.assertEqual("virtio", guest.prop("hw_vif_model", "virtio"))

    def test_config_drive_and_key_pairs(self):
        for said, wanted in (("True", True), ("1", True), ("", False), (None, False),
                             ("false", False)):
            self.assertEqual(wanted, wire.guest(fakes.instance(UUID, config_drive=said))
                             .config_drive)
        pair = make("KeyPair", {"name": "k", "public_key": "ssh-rsa A", "type": "ssh"}, changes=())
        guest = wire.guest(fakes.instance(UUID, keypairs=make_list("KeyPairList", [pair])))
        self.assertEqual([("k", "ssh-rsa A")], [(k.name, k.public_key) for k in guest.keypairs])
        guest = wire.guest(fakes.instance(UUID, keypairs=None, key_name="old",
                                          key_data="ssh-rsa B"))
        self.assertEqual([("old", "ssh-rsa B")], [(k.name, k.public_key) for k in guest.keypairs])

    def test_reading_changes_nothing(self):
        args = captured.load("build_and_run_instance").cast("build_and_run_instance").args
        before = copy.deepcopy(args)
        wire.guest(args["instance"], args["image"])
        wire.network_requests(args["requested_networks"])
        self.assertEqual(before, args)


ADDRESSES = st.builds(
    Address, address=st.ip_addresses(v=4).map(str), cidr=st.just("10.0.0.0/8"),
    version=st.just(4), gateway=st.none() | st.just("10.0.0.1"),
    dns=st.lists(st.just("10.0.0.2"), max_size=2).map(tuple), dhcp=st.booleans(),
    routes=st.lists(st.just(("192.0.2.0/24", "10.0.0.3")), max_size=2).map(tuple))
NICS = st.builds(
    Nic, id=st.uuids().map(str), mac=st.just("52:54:00:00:00:01"), network_id=st.uuids().map(str),
    label=st.text("abc", min_size=1), kind=st.sampled_from(["network", "bridge"]),
    source=st.text("xyz", min_size=1), mtu=st.none() | st.integers(68, 9000),
    # one subnet: its addresses share what the subnet tells
    addresses=ADDRESSES.map(lambda a: (a,)))


class NetworkInfoTest(testtools.TestCase):
    @given(st.lists(NICS, max_size=3))
    def test_what_is_written_is_read_again(self, nics):
        fields = {"info_cache": make("InstanceInfoCache", {
            "network_info": wire.network_info(nics)}, changes=())}
        self.assertEqual(tuple(nics), wire.nics(fields))

    def test_several_addresses_in_two_subnets(self):
        nic = Nic("i", "m", "n", "l", "bridge", "br0", addresses=(
            Address("10.0.0.2", "10.0.0.0/24"), Address("10.0.0.3", "10.0.0.0/24"),
            Address("fd00::2", "fd00::/64", 6, "fd00::1")))
        text = wire.network_info([nic])
        self.assertEqual(2, len(json.loads(text)[0]["network"]["subnets"]))
        fields = {"info_cache": make("InstanceInfoCache", {"network_info": text}, changes=())}
        self.assertEqual((nic,), wire.nics(fields))

    def test_it_has_the_keys_that_novas_has(self):
        args = captured.load("terminate_instance").cast("terminate_instance").args
        theirs = json.loads(data(data(args["instance"])["info_cache"])["network_info"])[0]
        ours, *_ = json.loads(wire.network_info(wire.nics(data(args["instance"]))))
        self.assertEqual([], sorted(set(theirs) - set(ours)))
        subnet = theirs["network"]["subnets"][0]
        self.assertEqual([], sorted(set(subnet) - set(ours["network"]["subnets"][0])))
