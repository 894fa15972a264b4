"""The host's file system, console logs, bridges and taps."""

import os

import fixtures
import testtools

from compute.errors import Failed, Refused, Unknown
from compute.model.guest import Nic
from virt.libvirt import host, networks


class TestConsole(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.useFixture(fixtures.TempDir()).path, "a", "console.log")

    def write(self, name, data):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(name, "wb") as file:
            file.write(data)

    def test_no_log_is_empty(self):
        self.assertEqual(b"", host.console_tail(self.path, 10))

    def test_only_the_end_is_read(self):
        self.write(self.path, b"0123456789")
        self.assertEqual(b"789", host.console_tail(self.path, 3))
        self.assertEqual(b"0123456789", host.console_tail(self.path, 10))
        self.assertEqual(b"0123456789", host.console_tail(self.path, 99))
        self.assertEqual(b"", host.console_tail(self.path, 0))

    def test_a_rotated_log_is_read_across_the_border(self):
        self.write(self.path + ".0", b"older")
        self.write(self.path, b"new")
        self.assertEqual(b"oldernew", host.console_tail(self.path, 100))
        self.assertEqual(b"ernew", host.console_tail(self.path, 5))
        self.assertEqual(b"ew", host.console_tail(self.path, 2))
        os.unlink(self.path)
        self.assertEqual(b"der", host.console_tail(self.path, 3))

    def test_the_log_is_made_once_and_kept(self):
        host.prepare_console(self.path)
        self.assertEqual(0o640, os.stat(self.path).st_mode & 0o777 & ~0o027 | 0o040)
        self.write(self.path, b"kept")
        host.prepare_console(self.path)
        self.assertEqual(b"kept", host.console_tail(self.path, 9))

    def test_a_link_in_its_place_is_not_followed(self):
        target = self.path + ".target"
        os.makedirs(os.path.dirname(self.path))
        os.symlink(target, self.path)
        self.assertRaises(OSError, host.prepare_console, self.path)
        self.assertFalse(os.path.exists(target))


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
