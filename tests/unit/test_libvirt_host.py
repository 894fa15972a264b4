"""The host's file system, bridges and taps."""

import os
from dataclasses import replace

import fixtures
import testtools

from compute.errors import Failed, Refused, Unknown
from compute.model.guest import Nic
from virt.libvirt import host, networks


class TestFileSystem(testtools.TestCase):
    def test_direct_io_is_tried_and_leaves_nothing(self):
        directory = self.useFixture(fixtures.TempDir()).path
        self.assertIn(host.supports_direct_io(directory), (True, False))
        self.assertEqual([], os.listdir(directory))
        self.assertFalse(host.supports_direct_io("/nonexistent"))
        self.assertFalse(host.supports_direct_io("/proc"))

    def test_the_size_of_a_directory_that_is_not_there_yet_is_its_parents(self):
        directory = self.useFixture(fixtures.TempDir()).path
        there = host.disk_gb(directory)
        self.assertEqual(there[0], host.disk_gb(os.path.join(directory, "a/b/c"))[0])
        self.assertGreaterEqual(there[0], there[1])

    def test_a_file_system_that_fails_is_unknown(self):
        def fail(path):
            raise OSError(5, "Input/output error")

        self.patch(os, "statvfs", fail)
        self.assertRaises(Unknown, host.disk_gb, "/")

    def test_an_address_and_uptime_are_found(self):
        self.assertRegex(host.local_address(), r"^\d+\.\d+\.\d+\.\d+$")
        self.assertIn("load average", host.uptime())


class TestBridges(testtools.TestCase):
    """Networks without a libvirt: nothing here may ask for one."""

    def setUp(self):
        super().setUp()
        self.sys = self.useFixture(fixtures.TempDir()).path
        os.makedirs(os.path.join(self.sys, "br0", "bridge"))
        os.makedirs(os.path.join(self.sys, "eth0"))
        self.networks = networks.Networks(None, self.sys)

    def nic(self, source):
        return Nic("id", "52:54:00:00:00:01", "n", "l", "bridge", source)

    def test_a_bridge_is_taken_as_it_is(self):
        self.networks.create({"name": "n", "bridge": "br0"})
        self.networks.plug(self.nic("br0"))

    def test_what_is_no_bridge_is_refused(self):
        for name in ("eth0", "none", "", "..", "a/../br0", None):
            network = {"name": "n", "bridge": name}
            error = self.assertRaises(Refused, self.networks.create, network)
            self.assertEqual("network_missing", error.code)
        self.assertRaises(Failed, self.networks.plug, self.nic("eth0"))

    def test_a_bridge_of_open_vswitch_is_a_device(self):
        nic = Nic("id", "52:54:00:00:00:01", "n", "l", "ovs", "eth0")
        self.networks.plug(nic)
        for name in ("none", "", "a/../br0"):
            error = self.assertRaises(Failed, self.networks.plug, replace(nic, source=name))
            self.assertIn("ovs-vsctl", error.next)

    def test_only_a_tap_is_ever_removed(self):
        self.networks.unplug(self.nic("br0"))
        os.makedirs(os.path.join(self.sys, "tapid"))  # some device, but no tap
        self.networks.unplug(self.nic("br0"))
        self.assertTrue(os.path.exists(os.path.join(self.sys, "tapid")))

    def test_a_network_document_is_checked(self):
        for wrong in ("10.0.0.0/33", "10.0.0.1/24", "x", "10.0.0.0/24/1"):
            network = {"name": "n", "cidr": wrong}
            error = self.assertRaises(Refused, networks.document, network)
            self.assertEqual("invalid_network", error.code)
