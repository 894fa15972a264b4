"""The parts of checks and facts that need no libvirt."""

import socket

import fixtures
import testtools

from virt.libvirt import checks, facts


class TestFacts(testtools.TestCase):
    def test_host_and_port_of_a_uri(self):
        for uri, expected in (
            ("qemu+tls://b/system", ("b", 16514)), ("qemu+tcp://b/system", ("b", 16509)),
            ("qemu+ssh://root@b/system", ("b", 22)), ("qemu+tls://b:99/system?x=y", ("b", 99)),
            ("qemu+tls://[fd00::1]/system", ("fd00::1", 16514)),
            ("qemu+tls://[fd00::1]:7/system", ("fd00::1", 7)), ("tcp://b", ("b", 16514)),
        ):
            self.assertEqual(expected, facts.port_of(uri))

    def test_versions(self):
        self.assertEqual("7.2.1", facts.version(7002001))


class TestChecks(testtools.TestCase):
    def test_an_older_destination_is_worth_knowing(self):
        new, old = {"v": 8000000}, {"v": 7002000}
        self.assertTrue(checks._not_older("QEMU", "v", new, old).ok)
        found = checks._not_older("QEMU", "v", old, new)
        self.assertIsNone(found.ok)
        self.assertIn("7.2.0", found.found)
        self.assertTrue(found.next)

    def test_clocks(self):
        for skew, ok in ((1, True), (10, None), (100, False)):
            self.assertIs(ok, checks._clocks(1000, 1000 + skew).ok)
            self.assertIs(ok, checks._clocks(1000, 1000 - skew).ok)

    def test_memory(self):
        self.assertTrue(checks._memory(1).ok)
        self.assertIs(False, checks._memory(1 << 40).ok)

    def test_a_refusal_shows_that_the_way_is_open(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            self.assertEqual("refused", checks._connect("127.0.0.1", port))
            taken.listen()
            self.assertEqual("", checks._connect("127.0.0.1", port))
        for trouble, ok in (("refused", True), ("", True), ("timed out", False)):
            self.assertIs(ok, checks._data_port(trouble, "b").ok)

    def test_post_copy_depends_on_the_kernel(self):
        self.patch(checks, "UNPRIVILEGED", "/nonexistent")
        self.assertIsNone(checks._post_copy().ok)
        for text, ok in (("0\n", None), ("1\n", True)):
            self.patch(checks, "UNPRIVILEGED", self.temporary(text))
            self.assertIs(ok, checks._post_copy().ok)

    def temporary(self, text):
        path = self.useFixture(fixtures.TempDir()).join("sysctl")
        with open(path, "w") as file:
            file.write(text)
        return path
