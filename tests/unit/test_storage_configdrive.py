import base64
import io
import json
import logging
import os
import subprocess

import fixtures

from compute.errors import Failed
from compute.model.guest import Address, Image, KeyPair, Nic
from tests.unit.storage_support import StorageTest, make_guest
from tests.waiting import PATIENCE
from virt.storage import configdrive

V4 = Address("10.0.0.5", "10.0.0.0/24", gateway="10.0.0.1", dns=("9.9.9.9",), dhcp=False,
             routes=(("192.168.0.0/16", "10.0.0.9"),))
V6 = Address("fd00::5", "fd00::/64", version=6, gateway="fd00::1", dns=("9.9.9.9", "fd00::53"),
             dhcp=False)
NIC = Nic("0af1c8b2-5d0e-4c46-a3a9-1f9e5a2b7d10", "52:54:00:00:00:01", "net-1", "lan", "bridge",
          "br0", mtu=1450, addresses=(V4, V6))


class ConfigDriveTest(StorageTest):
    def make(self, secrets=None, domain="", **fields):
        self.drive = os.path.join(self.dir, "disk.config")
        guest = make_guest(**fields)
        configdrive.make(self.drive, guest, secrets or {}, tool="genisoimage", domain=domain,
                         timeout=PATIENCE)
        return guest

    def isoinfo(self, *options):
        return subprocess.run(["isoinfo", "-i", self.drive, *options], check=True,
                              capture_output=True, timeout=PATIENCE).stdout

    def read(self, path, names="-J"):
        return self.isoinfo(names, "-x", "/" + path)

    def json(self, path):
        return json.loads(self.read(path))

    def paths(self):
        return set(self.isoinfo("-J", "-f").decode().split())


class ContentsTest(ConfigDriveTest):
    def test_label_and_names(self):
        self.make()
        header = self.isoinfo("-d").decode()
        self.assertIn("Volume id: config-2\n", header)
        self.assertIn("Joliet with UCS level 3 found", header)
        self.assertIn("Rock Ridge signatures version 1", header)
        common = {"meta_data.json", "network_data.json", "vendor_data.json", "vendor_data2.json"}
        self.assertEqual(
            {f"/openstack/{version}/{name}" for version in ("latest", "2018-08-27")
             for name in common} | {"/ec2/latest/meta-data.json"},
            {path for path in self.paths() if path.endswith(".json")},
        )
        self.assertEqual(self.read("openstack/latest/meta_data.json"),
                         self.read("openstack/2018-08-27/meta_data.json", names="-R"))

    def test_meta_data(self):
        guest = self.make(
            metadata={"role": "web"}, keypairs=(KeyPair("mine", "ssh-ed25519 AAAA me"),),
            availability_zone="az1", launch_index=2, project_id="p1", nics=(NIC,),
            domain="example.org",
        )
        data = self.json("openstack/latest/meta_data.json")
        self.assertEqual(512, len(base64.b64decode(data.pop("random_seed"))))
        self.assertEqual(
            {
                "uuid": guest.uuid,
                "name": "web 1",
                "hostname": "web-1.example.org",
                "launch_index": 2,
                "availability_zone": "az1",
                "project_id": "p1",
                "meta": {"role": "web"},
                "public_keys": {"mine": "ssh-ed25519 AAAA me"},
                "keys": [{"name": "mine", "type": "ssh", "data": "ssh-ed25519 AAAA me"}],
                "dedicated_cpus": [],
                "devices": [],
            },
            data,
        )
        self.assertEqual(
            ("web-1.example.org", "10.0.0.5"),
            tuple(self.json("ec2/latest/meta-data.json")[key]
                  for key in ("local-hostname", "local-ipv4")),
        )

    def test_each_has_its_own_seed(self):
        seeds = set()
        for _ in range(2):
            self.make()
            seeds.add(self.json("openstack/latest/meta_data.json")["random_seed"])
        self.assertEqual(2, len(seeds))

    def test_tagged_device(self):
        nic = Nic("id", "52:54:00:00:00:01", "net-1", "lan", "network", "default", tag="front")
        self.make(nics=(nic,))
        [device] = self.json("openstack/latest/meta_data.json")["devices"]
        self.assertEqual(("nic", "52:54:00:00:00:01", ["front"]),
                         (device["type"], device["mac"], device["tags"]))

    def test_user_data_is_decoded(self):
        text = b"#!/bin/sh\n\xff\0" * 50
        self.make(user_data=base64.encodebytes(text).decode())
        self.assertEqual(text, self.read("openstack/latest/user_data"))
        self.assertEqual(text, self.read("ec2/latest/user-data"))

    def test_no_user_data(self):
        self.make()
        self.assertNotIn("/openstack/latest/user_data", self.paths())

    def test_malformed_user_data(self):
        error = self.assertFails(Failed, "invalid_user_data", lambda: self.make(user_data="a*b"))
        self.assertIn("user data", error.what)
        self.assertFalse(os.path.exists(self.drive))

    def test_files(self):
        injected = [["/etc/motd", base64.b64encode(b"welcome\n").decode()], ["/etc/x", ""]]
        for value in (injected, json.dumps(injected)):
            self.make({"files": value})
            self.assertEqual(
                [{"path": "/etc/motd", "content_path": "/content/0000"},
                 {"path": "/etc/x", "content_path": "/content/0001"}],
                self.json("openstack/latest/meta_data.json")["files"],
            )
            self.assertEqual(b"welcome\n", self.read("openstack/content/0000"))
            self.assertEqual(b"", self.read("openstack/content/0001"))

    def test_malformed_files(self):
        for value in ("{", "7", 7, [["/etc/motd"]], [["/etc/motd", "*"]], [["/etc/motd", 5]]):
            self.assertFails(
                Failed, "invalid_files", lambda value=value: self.make({"files": value})
            )

    def test_password_is_in_the_drive_and_nowhere_else(self):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        logging.getLogger().addHandler(handler)
        self.addCleanup(logging.getLogger().removeHandler, handler)
        self.useFixture(fixtures.FakeLogger(level=logging.DEBUG))
        self.make({"admin_pass": "s3cr3t-word"})
        self.assertEqual("s3cr3t-word",
                         self.json("openstack/latest/meta_data.json")["admin_pass"])
        self.assertNotIn("s3cr3t-word", stream.getvalue())
        self.assertEqual(["disk.config"], os.listdir(self.dir))
        self.assertEqual(0o600, os.stat(self.drive).st_mode & 0o777)

    def test_long_names(self):
        name = "n" * 200 + "é"
        self.make(display_name=name)
        self.assertEqual(name, self.json("openstack/latest/meta_data.json")["name"])


class NetworkDataTest(ConfigDriveTest):
    def test_static_addresses(self):
        data = configdrive.network_data([NIC])
        self.assertEqual(
            [{"id": "tap0af1c8b2-5d", "vif_id": NIC.id, "type": "bridge", "mtu": 1450,
              "ethernet_mac_address": "52:54:00:00:00:01"}],
            data["links"],
        )
        four, six = data["networks"]
        self.assertEqual(
            {
                "id": "network0", "link": "tap0af1c8b2-5d", "network_id": "net-1", "type": "ipv4",
                "ip_address": "10.0.0.5", "netmask": "255.255.255.0",
                "routes": [
                    {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"},
                    {"network": "192.168.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.9"},
                ],
                "services": [{"type": "dns", "address": "9.9.9.9"}],
            },
            four,
        )
        self.assertEqual(("network1", "ipv6", "fd00::5", "ffff:ffff:ffff:ffff::", "::"),
                         (six["id"], six["type"], six["ip_address"], six["netmask"],
                          six["routes"][0]["network"]))
        self.assertEqual(["9.9.9.9", "fd00::53"],
                         [service["address"] for service in data["services"]])

    def test_dhcp_and_no_address(self):
        nics = [Nic("a", "m1", "n1", "lan", "network", "default",
                    addresses=(Address("10.0.0.5", "10.0.0.0/24"),)),
                Nic("b", "m2", "n2", "lan", "network", "other")]
        data = configdrive.network_data(nics)
        self.assertEqual(2, len(data["links"]))
        self.assertEqual(
            [{"id": "network0", "link": "tapa", "network_id": "n1", "type": "ipv4_dhcp"}],
            data["networks"],
        )

    def test_only_the_first_address_of_a_version(self):
        nic = Nic("a", "m1", "n1", "lan", "network", "default", addresses=(V4, V4, V6, V6))
        self.assertEqual(2, len(configdrive.network_data([nic])["networks"]))


class WantedTest(ConfigDriveTest):
    def test_who_gets_one(self):
        mandatory = Image("i", properties={"img_config_drive": "mandatory"})
        optional = Image("i", properties={"img_config_drive": "optional"})
        for expected, fields, forced in (
            (False, {}, False),
            (True, {"config_drive": True}, False),
            (True, {}, True),
            (True, {"image": mandatory}, False),
            (False, {"image": optional}, False),
        ):
            self.assertEqual(expected, configdrive.wanted(make_guest(**fields), forced))
