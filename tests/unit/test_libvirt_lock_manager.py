"""Whether libvirt guards disks: read from its own configuration."""

import os
import tempfile

import testtools

from virt.libvirt.host import lock_manager


class LockManagerTest(testtools.TestCase):
    def look(self, text: str) -> tuple:
        with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as file:
            file.write(text)
        self.addCleanup(os.unlink, file.name)
        return lock_manager(file.name)

    def test_set(self):
        self.assertTrue(self.look('user = "root"\nlock_manager = "lockd"\n')[0])

    def test_commented_out_is_off_and_says_what_to_do(self):
        fine, found, advice = self.look('#lock_manager = "lockd"\n')
        self.assertIsNone(fine)
        self.assertIn("virtlockd is off", found)
        self.assertIn("qemu-lockd.conf.snippet", advice)

    def test_a_file_that_is_not_there_is_no_verdict(self):
        fine, found, _ = lock_manager("/nonexistent/qemu.conf")
        self.assertIsNone(fine)
        self.assertIn("cannot be read", found)
