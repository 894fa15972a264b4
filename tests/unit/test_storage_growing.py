import os
from dataclasses import replace

from compute.errors import Failed
from compute.model.guest import Flavor
from tests.unit.storage_support import GIB, KillTest, StorageTest, make_guest, qemu_img, qemu_io
from virt.storage import files

SMALL = Flavor("small", 1, 128, root_gb=1, ephemeral_gb=1, swap_mb=16)
LARGE = Flavor("large", 1, 128, root_gb=3, ephemeral_gb=2, swap_mb=32)


class Guests:
    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.base = self.fetch(self.image)
        self.guest = make_guest(self.image, flavor=SMALL, config_drive=True)
        self.disks = self.store.create_disks(self.guest, self.base, {})

    def grow(self, flavor):
        return self.store.grow_disks(replace(self.guest, flavor=flavor))

    def roles(self, disks):
        return [(disk.role, disk.size) for disk in disks if disk.role != "config"]

    def virtual_size(self, disk):
        text = qemu_img("info", "--output=json", "-f", disk.format, disk.path)
        return int(text.split('"virtual-size": ')[1].split(",")[0])


class GrowTest(Guests, StorageTest):
    def test_all_grow(self):
        qemu_io(self.disks[0].path, "write -P 9 3M 64k")
        grown = self.grow(LARGE)
        self.assertEqual(
            [("root", 3 * GIB), ("ephemeral", 2 * GIB), ("swap", 32 << 20)], self.roles(grown))
        self.assertEqual([disk.path for disk in self.disks], [disk.path for disk in grown])
        self.assertEqual(grown, self.store.disks(self.guest.uuid))
        for disk in grown:
            self.assertEqual(disk.size, self.virtual_size(disk), disk)
        root = grown[0]
        qemu_io(root.path, "read -P 9 3M 64k")
        qemu_io(root.path, "read -P 7 1M 64k")  # the base shows through
        with open(grown[1].path, "rb") as file:
            self.assertEqual(b"\x53\xef", file.read(2048)[1080:1082])  # ext4, as it was
        with open(grown[2].path, "rb") as file:
            self.assertEqual(b"SWAPSPACE2", file.read(4096)[-10:])

    def test_again_changes_nothing(self):
        grown = self.grow(LARGE)
        before = [os.stat(disk.path).st_mtime_ns for disk in grown]
        self.assertEqual(grown, self.grow(LARGE))
        self.assertEqual(before, [os.stat(disk.path).st_mtime_ns for disk in grown])

    def test_nothing_shrinks(self):
        self.grow(LARGE)
        grown = self.grow(replace(SMALL, swap_mb=32))
        self.assertEqual(
            [("root", 3 * GIB), ("ephemeral", 2 * GIB), ("swap", 32 << 20)], self.roles(grown))

    def test_disks_that_the_flavor_adds_and_takes(self):
        guest = replace(make_guest(self.image, config_drive=True))
        self.store.create_disks(guest, self.base, {})
        grown = self.store.grow_disks(replace(guest, flavor=LARGE))
        self.assertEqual(["root", "ephemeral", "swap", "config"], [disk.role for disk in grown])
        grown = self.store.grow_disks(replace(guest, flavor=replace(LARGE, swap_mb=0)))
        self.assertEqual(["root", "ephemeral", "config"], [disk.role for disk in grown])
        self.assertNotIn("disk.swap", self.names(guest.uuid))

    def test_raw_root(self):
        self.store = self.make_store(images_type="raw")
        guest = make_guest(self.image)
        self.store.create_disks(guest, self.base, {})
        [root] = self.store.grow_disks(replace(guest, flavor=Flavor("two", 1, 64, root_gb=2)))
        self.assertEqual((2 * GIB, 2 * GIB), (root.size, os.stat(root.path).st_size))
        qemu_io(root.path, "read -P 7 1M 64k", "raw")

    def test_base_and_origin_stay_recorded(self):
        before = files.read_json(os.path.join(self.path, self.guest.uuid, "disks.json"))
        self.grow(LARGE)
        after = files.read_json(os.path.join(self.path, self.guest.uuid, "disks.json"))
        for key in ("base", "image_id", "origin"):
            self.assertEqual(before[key], after[key])

    def test_missing_disks(self):
        self.assertFails(Failed, "disk_missing", self.store.grow_disks, make_guest(self.image))
        os.unlink(self.disks[1].path)
        self.assertFails(Failed, "disk_missing", self.grow, LARGE)
        self.assertFalse(os.path.exists(self.disks[1].path))


class GrowCrashTest(Guests, KillTest):
    def test_grow(self):
        def fresh():
            self.store.delete_disks(self.guest.uuid)
            self.store.create_disks(self.guest, self.base, {})

        def check():
            recorded = self.store.disks(self.guest.uuid)
            self.assertIn(self.roles(recorded), ([("root", GIB), ("ephemeral", GIB),
                                                  ("swap", 16 << 20)], wanted))
            self.assertEqual(wanted, self.roles(self.grow(LARGE)))
            self.assertEqual([], self.leftovers())
            qemu_img("check", "-q", "-f", "qcow2", recorded[0].path)
            fresh()

        wanted = [("root", 3 * GIB), ("ephemeral", 2 * GIB), ("swap", 32 << 20)]
        self.assertTrue(self.killed_at_every_call(lambda: self.grow(LARGE), check) > 5)
