"""What doctor looks at on a host with libvirt: its lock manager, and who may use KVM."""

import os
import tempfile

import testtools

from virt.libvirt.host import kvm_device, lock_manager


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


class KvmDeviceTest(testtools.TestCase):
    def test_a_device_that_only_its_owner_may_use(self):
        with tempfile.NamedTemporaryFile() as device:
            os.chmod(device.name, 0o600)
            fine, found, advice = kvm_device(device.name)
            self.assertIsNone(fine)
            self.assertIn("only its owner", found)
            self.assertIn("chmod 660", advice)
            for mode in (0o660, 0o666):
                os.chmod(device.name, mode)
                self.assertEqual((True, ""), kvm_device(device.name)[::2])

    def test_no_device(self):
        self.assertIn("emulated", kvm_device("/nonexistent/kvm")[1])
