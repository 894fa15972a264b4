"""Certificates for hosts, as an operator makes them."""

import shutil
import subprocess
from pathlib import Path

import fixtures
import testtools

from tests.modes import once
from tools.toolbox.lab.place import TOP


@once("it runs commands")
class TestCertificates(testtools.TestCase):
    """What tools/certificates makes."""

    def setUp(self):
        super().setUp()
        if not shutil.which("openssl"):
            self.skipTest("openssl is not installed (see bindep.txt)")
        self.directory = Path(self.useFixture(fixtures.TempDir()).path)

    def make(self, *words):
        """Run the command."""
        return subprocess.run(
            [TOP / "tools/certificates", self.directory / "made", *words],
            capture_output=True, text=True, check=False)

    def read(self, host):
        """A host's certificate, checked by its authority."""
        home = self.directory / "made" / host
        for path in ("libvirt/servercert.pem", "qemu/client-cert.pem"):
            subprocess.run(
                ["openssl", "verify", "-purpose", "sslserver", "-CAfile", home / "CA/cacert.pem",
                 home / path], check=True, capture_output=True)
        return (home / "libvirt/servercert.pem").read_bytes()

    def test_only_what_changed_is_made_anew(self):
        self.assertEqual(0, self.make("one=10.0.0.1,10.1.0.1", "two=fd00::2").returncode)
        one, two = self.read("one"), self.read("two")
        self.assertEqual(0, self.make("one=10.0.0.1,10.1.0.1", "two=10.0.0.2").returncode)
        self.assertEqual(one, self.read("one"))
        self.assertNotEqual(two, self.read("two"))
        key = self.directory / "made/one/libvirt/private/serverkey.pem"
        self.assertEqual(0o600, key.stat().st_mode & 0o777)

    def test_bad_input_changes_nothing(self):
        for word in ("one", "one=10.0.0", "../one=10.0.0.1", "ca=10.0.0.1"):
            done = self.make(word)
            self.assertEqual(1, done.returncode, word)
            self.assertIn("Nothing was made", done.stderr)
        self.assertFalse((self.directory / "made").exists())
