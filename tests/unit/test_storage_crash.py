"""kill -9 at every point where a disk or a base gets its name, and in between; then run again."""

import os

from compute.model.guest import Flavor
from tests.unit.storage_support import KillTest, kill_self, make_guest, qemu_img
from virt.storage import command

FLAVOR = Flavor("all", 1, 128, root_gb=1, ephemeral_gb=1, swap_mb=16)
class CrashTest(KillTest):
    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.guest = make_guest(self.image, flavor=FLAVOR, config_drive=True)

    def create(self):
        return self.store.create_disks(self.guest, self.fetch(self.image), {"admin_pass": "x"})

    def assertRight(self, disks):
        self.assertEqual(["root", "ephemeral", "swap", "config"], [disk.role for disk in disks])
        self.assertEqual(disks, self.store.disks(self.guest.uuid))
        qemu_img("check", "-q", "-f", "qcow2", disks[0].path)
        for disk in disks:
            self.assertEqual(0o600, os.stat(disk.path).st_mode & 0o777)
        self.assertEqual([], self.leftovers())

    def test_fetch(self):
        def check():
            base = self.store.cached_image(self.image)
            if base is not None:  # then it is whole
                qemu_img("check", "-q", "-f", "qcow2", base.path)
            self.store.sweep([self.image.id], 0)
            self.assertEqual([], self.leftovers())
            self.assertEqual(base, self.store.cached_image(self.image))
            self.fetch(self.image)
            self.assertEqual([], self.leftovers())
            self.store.sweep([], 0)
            self.assertEqual([], self.names("_base"))

        self.assertTrue(self.killed_at_every_call(lambda: self.fetch(self.image), check) > 8)

    def test_fetch_killed_in_the_download(self):
        def child():
            self.source.before = kill_self
            self.fetch(self.image)

        self.assertEqual(-9, self.in_child(child))
        self.assertEqual(1, len(self.leftovers()))
        self.assertIsNone(self.store.cached_image(self.image))
        self.fetch(self.image)
        self.assertEqual([], self.leftovers())

    def test_create(self):
        self.fetch(self.image)

        def check():
            self.assertIn(len(self.store.disks(self.guest.uuid)), (0, 4))
            self.assertRight(self.create())
            self.store.delete_disks(self.guest.uuid)

        self.assertTrue(self.killed_at_every_call(self.create, check) > 25)

    def test_create_killed_inside_a_tool(self):
        """The tool dies with us halfway, or goes on alone; both leave only temporary names."""
        tool = self.file("mkisofs", b"#!/bin/sh\nkill -9 $PPID; sleep 1\n")
        os.chmod(tool, 0o755)
        killing = self.make_store(mkisofs_cmd=tool)
        base = self.fetch(self.image)
        self.assertEqual(
            -9, self.in_child(lambda: killing.create_disks(self.guest, base, {}))
        )
        self.assertTrue(self.leftovers())
        self.assertEqual((), self.store.disks(self.guest.uuid))
        self.assertRight(self.create())

    def test_delete(self):
        self.fetch(self.image)

        def check():
            self.assertIn(len(self.store.disks(self.guest.uuid)), (0, 4))
            self.store.delete_disks(self.guest.uuid)
            self.assertEqual(([], []), (self.store.guest_dirs(), self.names("_deleted")))
            self.create()

        self.create()
        points = self.killed_at_every_call(
            lambda: self.store.delete_disks(self.guest.uuid), check
        )
        self.assertTrue(points > 1)

    def test_quarantine(self):
        def check():
            path = self.store.quarantine_disks(self.guest.uuid)
            self.assertIn("disks.json", os.listdir(path))
            self.assertEqual([], self.store.guest_dirs())
            os.rename(path, os.path.join(self.path, self.guest.uuid))

        self.create()
        points = self.killed_at_every_call(
            lambda: self.store.quarantine_disks(self.guest.uuid), check
        )
        self.assertTrue(points > 1)

    def test_sweep(self):
        def check():
            base = self.store.cached_image(self.image)
            if base is not None:
                qemu_img("check", "-q", "-f", "qcow2", base.path)
            self.store.sweep([], 0)
            self.assertEqual([], self.names("_base"))
            self.fetch(self.image)

        self.fetch(self.image)
        self.assertTrue(self.killed_at_every_call(lambda: self.store.sweep([], 0), check) > 1)

    def test_half_made_secrets_are_removed(self):
        def die(*_args, **_kwargs):
            kill_self()

        def child():
            command.subprocess.Popen = die
            self.store.create_disks(config_only, None, {"admin_pass": "x"})

        config_only = make_guest(config_drive=True, uuid=self.guest.uuid)
        self.assertEqual(-9, self.in_child(child))
        self.assertTrue(self.leftovers())
        self.store.create_disks(config_only, None, {})
        self.assertEqual([], self.leftovers())
