"""Certificates for migrations: missing, expired, of another host or another authority."""

import os
from datetime import timedelta
from pathlib import Path

import fixtures
import testtools

from tests.integration.move_hosts import Authority
from virt.libvirt import tls
from virt.libvirt.tls import Certificates, matches


class TestCertificates(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.pki = Path(self.useFixture(fixtures.TempDir()).path) / "pki"
        self.authority = Authority()

    def certificates(self, qemu_conf="/nonexistent"):
        return Certificates(str(self.pki), qemu_conf)

    def check(self, host="10.0.0.2"):
        """The verdicts on QEMU's and libvirt's server certificates."""
        return self.certificates().check_server(host, "tls")

    def test_good_ones_are_good_under_their_names(self):
        self.authority.issue(self.pki, "10.0.0.2")
        self.assertTrue(self.certificates().complete())
        for host in ("10.0.0.2", "localhost"):
            self.assertEqual([True, True], [check.ok for check in self.check(host)])
        self.assertEqual([True, True],
                         [check.ok for check in self.certificates().check_client("tls")])
        self.assertEqual(1, len(self.certificates().check_client("ssh")))

    def test_what_is_missing_is_named(self):
        self.assertFalse(self.certificates().complete())
        for check in self.check():
            self.assertIs(False, check.ok)
            self.assertIn("is missing", check.found)
            self.assertTrue(check.next)

    def test_one_of_another_host_is_told(self):
        self.authority.issue(self.pki, "10.0.0.3")
        self.assertEqual([False, False], [check.ok for check in self.check()])
        self.assertIn("10.0.0.3", self.check()[0].found)

    def test_an_expired_one_is_told_and_one_that_soon_is(self):
        self.authority.issue(self.pki, "10.0.0.2", days=-1)
        self.assertIn("expired", self.check()[0].found)
        self.assertIs(False, self.check()[0].ok)
        self.authority.issue(self.pki, "10.0.0.2", days=tls.SOON / timedelta(days=2))
        self.assertIsNone(self.check()[0].ok)
        self.assertTrue(self.check()[0].next)

    def test_one_of_another_authority_is_told(self):
        self.authority.issue(self.pki, "10.0.0.2")
        other = self.pki.parent / "other"
        Authority().issue(other, "10.0.0.2")
        os.replace(other / "qemu/ca-cert.pem", self.pki / "qemu/ca-cert.pem")
        self.assertEqual([False, True], [check.ok for check in self.check()])
        self.assertIn("authority", self.check()[0].found)

    def test_what_is_no_certificate_is_told(self):
        self.authority.issue(self.pki, "10.0.0.2")
        (self.pki / "qemu/server-cert.pem").write_text("nonsense")
        self.assertIs(False, self.check()[0].ok)

    def test_qemus_directory_is_the_one_that_libvirt_names(self):
        self.authority.issue(self.pki, "10.0.0.2")
        os.rename(self.pki / "qemu", self.pki / "migration")
        self.assertFalse(self.certificates().complete())
        conf = self.pki / "qemu.conf"
        conf.write_text('#default_tls_x509_cert_dir = "/etc/pki/qemu"\n'
                        'default_tls_x509_cert_dir = "/etc/pki/migration"\n')  # fmt: skip
        self.assertTrue(self.certificates(str(conf)).complete())
        conf.write_text(f'migrate_tls_x509_cert_dir = "{self.pki / "migration"}"\n')
        self.assertTrue(self.certificates(str(conf)).complete())

    def test_names(self):
        for host, name, fine in (
            ("host1", "host1", True), ("Host1.", "host1", True), ("host1", "host2", False),
            ("a.example.org", "*.example.org", True), ("a.b.example.org", "*.example.org", False),
            ("example.org", "*.org", True), ("10.0.0.1", "10.0.0.1", True),
            ("[fd00::1]", "fd00:0::1", True), ("10.0.0.1", "*.0.0.1", False),
        ):  # fmt: skip
            self.assertEqual(fine, matches(host, name), (host, name))
