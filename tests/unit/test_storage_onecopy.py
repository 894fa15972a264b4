"""Copies of root disks, whole under their final name, and disks that give their base up."""

import json
import os

from compute.errors import Aborted, Failed, Retryable
from tests.unit.storage_support import GIB, StorageTest, make_guest, nothing, qemu_img, qemu_io
from virt.storage import files


class OneCopyTest(StorageTest):
    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.make(self.store)

    def make(self, store):
        """A guest whose disk has something of its base and something of its own."""
        self.store, self.copies = store, store.copies
        base = store.fetch_image(self.image, self.source, nothing, nothing)
        self.guest = make_guest(self.image)
        self.root = store.create_disks(self.guest, base, {})[0]
        if self.root.format == "qcow2":
            qemu_io(self.root.path, "write -P 9 3M 64k")

    def left(self):
        return [n for n in os.listdir(os.path.dirname(self.root.path)) if "cop" in n]

    def info(self, path):
        return json.loads(qemu_img("info", "--output=json", "-f", "qcow2", path))

    def test_a_copy_stands_by_itself_and_holds_all(self):
        self.assertIsNone(self.copies.whole(self.guest.uuid))
        self.copies.make(self.guest.uuid, nothing, nothing)
        copy = self.copies.whole(self.guest.uuid)
        self.assertEqual(("root", "qcow2", GIB), (copy.role, copy.format, copy.size))
        self.assertNotIn("backing-filename", self.info(copy.path))
        qemu_io(copy.path, "read -P 9 3M 64k")
        qemu_io(copy.path, "read -P 7 1M 64k")  # of the base
        self.assertEqual(["disk.copy"], self.left())
        for _ in range(2):
            self.copies.remove(self.guest.uuid)
            self.assertEqual([], self.left())

    def test_in_another_format(self):
        self.copies.make(self.guest.uuid, nothing, nothing)
        plain = os.stat(self.copies.whole(self.guest.uuid).path).st_size
        for _ in range(2):  # again does nothing
            self.copies.shape(self.guest.uuid, "qcow2", True, nothing)
            copy = self.copies.whole(self.guest.uuid)
            self.assertEqual(("qcow2", "disk.copy.qcow2"),
                             (copy.format, os.path.basename(copy.path)))
            self.assertLess(os.stat(copy.path).st_size, plain)
            qemu_io(copy.path, "read -P 9 3M 64k")
        self.copies.shape(self.guest.uuid, "raw", False, nothing)
        copy = self.copies.whole(self.guest.uuid)
        self.assertEqual((["disk.copy.raw"], "raw"), (self.left(), copy.format))
        with open(copy.path, "rb") as file:
            file.seek(3 << 20)
            self.assertEqual(b"\x09" * 65536, file.read(65536))
        self.copies.remove(self.guest.uuid)
        self.assertEqual([], self.left())

    def test_a_change_of_format_that_is_stopped(self):
        def stop():
            raise Aborted("told to stop")

        self.copies.make(self.guest.uuid, nothing, nothing)
        self.assertRaises(Aborted, self.copies.shape, self.guest.uuid, "raw", False, stop)
        self.assertEqual("qcow2", self.copies.whole(self.guest.uuid).format)
        self.copies.shape(self.guest.uuid, "raw", False, nothing)
        self.assertEqual("raw", self.copies.whole(self.guest.uuid).format)

    def test_of_a_raw_disk(self):
        self.make(self.make_store(images_type="raw"))
        self.copies.make(self.guest.uuid, nothing, nothing)
        copy = self.copies.whole(self.guest.uuid)
        self.assertEqual("raw", copy.format)
        with open(copy.path, "rb") as mine, open(self.root.path, "rb") as its:
            self.assertEqual(its.read(4 << 20), mine.read(4 << 20))
        self.assertLess(os.stat(copy.path).st_blocks * 512, GIB)  # holes stay holes

    def test_stopped_nothing_is_whole(self):
        def stop():
            raise Aborted("told to stop")

        self.assertRaises(Aborted, self.copies.make, self.guest.uuid, nothing, stop)
        self.assertIsNone(self.copies.whole(self.guest.uuid))
        self.copies.make(self.guest.uuid, nothing, nothing)  # what was left is no hindrance
        self.assertEqual(["disk.copy"], self.left())

    def test_no_room_and_no_disk(self):
        self.patch(files, "free", lambda path: 1)
        error = self.assertRaises(Retryable, self.copies.begin, self.guest.uuid)
        self.assertEqual("disk_full", error.code)
        self.assertIn("has room for 1", error.what)
        os.unlink(self.root.path)
        error = self.assertRaises(Failed, self.copies.begin, self.guest.uuid)
        self.assertEqual("disks_missing", error.code)

    def test_a_disk_gives_its_base_up(self):
        for _ in range(2):
            self.copies.detach_base(self.guest.uuid)
            self.assertNotIn("backing-filename", self.info(self.root.path))
            qemu_io(self.root.path, "read -P 9 3M 64k")
            qemu_io(self.root.path, "read -P 7 1M 64k")
        self.assertEqual((self.root,), self.store.disks(self.guest.uuid))
        self.assertEqual(2, len(self.store.sweep([], 0)))  # base and its record
        qemu_io(self.root.path, "read -P 7 1M 64k")
