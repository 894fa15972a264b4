"""libvirt's errors as the five kinds."""

import errno

import libvirt
import testtools

from compute import errors
from virt.libvirt.errors import TABLE, is_lost, translate


def made(code, domain=libvirt.VIR_FROM_QEMU, message="it broke", number=0):
    """An error as libvirt raises it."""
    error = libvirt.libvirtError("call failed")
    error.err = (code, domain, message, 2, "", "", "", number, 0)
    return error


class TestTable(testtools.TestCase):
    def check(self, error, kind, code):
        found = translate(error, "start domain")
        self.assertIs(kind, type(found))
        self.assertEqual(code, found.code)
        self.assertIn("start domain", found.what)
        self.assertTrue(found.now and found.next)

    def test_each_row_gives_its_kind_and_three_sentences(self):
        for code, row in TABLE.items():
            self.check(made(code), row.kind, row.code)

    def test_a_missing_domain_is_refused(self):
        self.check(made(libvirt.VIR_ERR_NO_DOMAIN), errors.Refused, "guest_not_found")

    def test_a_timeout_is_unknown_not_failed(self):
        self.check(made(libvirt.VIR_ERR_OPERATION_TIMEOUT), errors.Unknown, "libvirt_timeout")

    def test_a_lost_connection_comes_before_everything(self):
        for code in (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR):
            for domain in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
                error = made(code, domain, "No space left on device", errno.ENOSPC)
                self.assertTrue(is_lost(error))
                self.check(error, errors.Unknown, "libvirt_lost")
        for code in (libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_RPC):
            self.check(made(code), errors.Unknown, "libvirt_lost")

    def test_an_error_without_content_is_a_lost_connection(self):
        error = libvirt.libvirtError("call failed")
        error.err = None
        self.check(error, errors.Unknown, "libvirt_lost")

    def test_a_daemon_that_answers_is_not_lost(self):
        self.assertFalse(is_lost(made(libvirt.VIR_ERR_INTERNAL_ERROR)))
        self.assertFalse(is_lost(made(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_REMOTE)))

    def test_a_full_disk_is_known_by_number_or_words(self):
        self.check(made(libvirt.VIR_ERR_SYSTEM_ERROR, number=errno.ENOSPC),
                   errors.Retryable, "disk_full")  # fmt: skip
        self.check(made(libvirt.VIR_ERR_INTERNAL_ERROR, message="x: No space left on device"),
                   errors.Retryable, "disk_full")  # fmt: skip

    def test_no_memory_is_known_by_words(self):
        error = made(libvirt.VIR_ERR_INTERNAL_ERROR,
                     message="qemu: cannot set up guest memory 'pc.ram'")  # fmt: skip
        self.check(error, errors.Retryable, "no_memory")

    def test_everything_else_failed(self):
        self.check(made(libvirt.VIR_ERR_OPERATION_FAILED), errors.Failed, "hypervisor_error")
        self.check(made(99999), errors.Failed, "hypervisor_error")
