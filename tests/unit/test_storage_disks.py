import os
import time
from dataclasses import replace

from compute.errors import Failed, Refused, Retryable, Unknown
from compute.model.guest import Disk, Flavor
from tests.unit.storage_support import GIB, StorageTest, make_guest, qemu_img, qemu_io
from virt.storage import dirs, files

ALL = Flavor("all", 1, 128, root_gb=1, ephemeral_gb=1, swap_mb=16)


class DisksTest(StorageTest):
    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.base = self.fetch(self.image)
        self.guest = make_guest(self.image)

    def create(self, guest=None, base="", **secrets):
        guest = guest or self.guest
        return self.store.create_disks(guest, self.base if base == "" else base, secrets)

    def file_of(self, name=""):
        return os.path.join(self.path, self.guest.uuid, name)

    def whole(self):
        self.guest = replace(self.guest, flavor=ALL, config_drive=True)
        return self.create()


class CreateTest(DisksTest):
    def test_overlay(self):
        [root] = self.create()
        self.assertEqual(Disk("root", self.file_of("disk"), "qcow2", GIB), root)
        self.assertIn("No errors were found", qemu_img("check", "-f", "qcow2", root.path))
        qemu_io(root.path, "read -P 7 1M 64k")  # the base shows through
        qemu_io(root.path, "write -P 9 1M 64k")
        qemu_io(self.base.path, "read -P 7 1M 64k")  # and is not written

    def test_overlay_on_raw(self):
        image = self.source.add(self.raw(), disk_format="raw")
        self.guest = replace(self.guest, image=image)
        [root] = self.create(base=self.fetch(image))
        self.assertEqual("qcow2", root.format)
        qemu_io(root.path, "read -P 7 0 4k")
        qemu_io(root.path, "read -P 0 4k 4k")

    def test_root_as_large_as_its_image(self):
        self.guest = replace(self.guest, flavor=Flavor("zero", 1, 128))
        [root] = self.create()
        self.assertEqual(64 * 2**20, root.size)
        self.assertIn("64 MiB", qemu_img("info", "-f", "qcow2", root.path))

    def test_raw_copy(self):
        self.store = self.make_store(images_type="raw")
        [root] = self.create()
        self.assertEqual(("raw", GIB), (root.format, root.size))
        self.assertEqual(GIB, os.stat(root.path).st_size)
        qemu_io(root.path, "read -P 7 1M 64k", "raw")
        self.assertTrue(os.stat(root.path).st_blocks * 512 < 2**20)
        os.utime(self.base.path, (0, 0))
        self.assertEqual(2, len(self.store.sweep([], 0)))  # it stands by itself

    def test_raw_copy_of_raw(self):
        self.store = self.make_store(images_type="raw")
        image = self.source.add(self.raw(), disk_format="raw")
        self.guest = replace(self.guest, image=image)
        [root] = self.create(base=self.fetch(image))
        self.assertEqual(GIB, os.stat(root.path).st_size)
        qemu_io(root.path, "read -P 7 0 4k", "raw")

    def test_all_disks(self):
        disks = self.whole()
        self.assertEqual(
            [("root", "disk", "qcow2", "disk"), ("ephemeral", "disk.eph0", "raw", "disk"),
             ("swap", "disk.swap", "raw", "disk"), ("config", "disk.config", "raw", "cdrom")],
            [(disk.role, os.path.basename(disk.path), disk.format, disk.device)
             for disk in disks],
        )
        self.assertEqual([GIB, GIB, 16 * 2**20, os.stat(self.file_of("disk.config")).st_size],
                         [disk.size for disk in disks])
        self.assertEqual(disks, self.store.disks(self.guest.uuid))
        self.assertEqual(disks, self.make_store().disks(self.guest.uuid))
        with open(self.file_of("disk.eph0"), "rb") as file:
            start = file.read(2048)
        self.assertEqual((b"\x53\xef", b"ephemeral0"), (start[1080:1082], start[1144:1154]))
        with open(self.file_of("disk.swap"), "rb") as file:
            self.assertEqual(b"SWAPSPACE2", file.read(4096)[-10:])

    def test_ephemeral_without_a_file_system(self):
        self.store = self.make_store(default_ephemeral_format="none")
        disks = self.whole()
        self.assertEqual(0, os.stat(disks[1].path).st_blocks)

    def test_modes(self):
        for disk in self.whole():
            self.assertEqual(0o600, os.stat(disk.path).st_mode & 0o777, disk.path)
        self.assertEqual(0o711, os.stat(self.file_of()).st_mode & 0o777)

    def test_without_an_image(self):
        self.guest = replace(self.guest, image=None, config_drive=True)
        self.assertEqual(["config"], [disk.role for disk in self.create(base=None)])

    def test_record_and_its_contents(self):
        self.create()
        record = files.read_json(self.file_of("disks.json"))
        self.assertEqual(os.path.basename(self.base.path), record["base"])
        self.assertEqual("disk", record["disks"][0]["file"])

    def test_recorded_path_cannot_lead_out(self):
        self.create()
        record = files.read_json(self.file_of("disks.json"))
        record["disks"][0]["file"] = "../../../etc/passwd"
        files.write_json(self.file_of("disks.json"), record)
        self.assertEqual((), self.store.disks(self.guest.uuid))

    def test_again_changes_nothing(self):
        disks = self.whole()
        before = [(disk.path, os.stat(disk.path).st_mtime_ns) for disk in disks]
        self.assertEqual(disks, self.create())
        self.assertEqual(before, [(disk.path, os.stat(disk.path).st_mtime_ns) for disk in disks])

    def test_recorded_format_stays_when_the_option_changes(self):
        disks = self.create()
        self.store = self.make_store(images_type="raw")
        self.assertEqual(disks, self.create())

    def test_format_is_not_probed(self):
        """A guest with a raw disk writes a header into it."""
        self.store = self.make_store(images_type="raw")
        [root] = self.create()
        with open(root.path, "r+b") as file:
            file.write(b"QFI\xfb\0\0\0\3" + b"\0" * 6 + b"\x02\0\0\0\0\x0b/etc/passwd")
        self.assertEqual((root,), self.store.disks(self.guest.uuid))
        self.assertEqual((root,), self.create())

    def test_missing_config_drive_and_swap_are_made_again(self):
        disks = self.whole()
        for disk in disks[2:]:
            os.unlink(disk.path)
        self.assertEqual(disks[:2], self.store.disks(self.guest.uuid))
        self.assertEqual(disks, self.create())
        self.assertEqual(disks, self.store.disks(self.guest.uuid))

    def test_lost_data_is_never_made_anew(self):
        for index in (0, 1):
            disk = self.whole()[index]
            os.rename(disk.path, disk.path + ".kept")
            error = self.assertFails(Failed, "disk_missing", self.create)
            self.assertIn(disk.path, error.what)
            self.assertFalse(os.path.exists(disk.path))
            os.rename(disk.path + ".kept", disk.path)

    def test_something_else_in_the_way(self):
        os.makedirs(self.file_of())
        for name in ("disk", "disk.swap"):
            files.write(self.file_of(name), b"precious")
            self.guest = replace(self.guest, flavor=ALL)
            self.assertFails(Failed, "disk_in_the_way", self.create)
            with open(self.file_of(name), "rb") as file:
                self.assertEqual(b"precious", file.read())
            os.unlink(self.file_of(name))

    def test_damaged_record(self):
        disks = self.create()
        for data in (b"", b"{}", b"[]", b'{"disks": [{}]}', b'{"disks": 7}', b"\xff"):
            files.write(self.file_of("disks.json"), data)
            error = self.assertFails(Unknown, "disks_unknown", self.store.disks, self.guest.uuid)
            self.assertIn(self.guest.uuid, error.what)
            self.assertFails(Unknown, "disks_unknown", self.create)
        self.assertTrue(os.path.exists(disks[0].path))

    def test_missing_tool(self):
        self.store = self.make_store(mkisofs_cmd="/nowhere/mkisofs")
        self.guest = replace(self.guest, config_drive=True)
        error = self.assertFails(Failed, "command_missing", self.create)
        self.assertIn("/nowhere/mkisofs", error.what)
        self.assertEqual(([], ()), (self.leftovers(), self.store.disks(self.guest.uuid)))

    def test_unwritable_place(self):
        self.store = self.make_store(instances_path="/proc/sys/instances")
        error = self.assertFails(Failed, "storage_failed", self.create)
        self.assertIn(self.guest.uuid, error.what)

    def test_malformed_uuid(self):
        for uuid in ("..", "_base", "", "a/b", self.guest.uuid.upper() + "x"):
            for function in (self.store.disks, self.store.delete_disks,
                             self.store.quarantine_disks):
                self.assertFails(Refused, "invalid_uuid", function, uuid)
        self.assertEqual(2, len(self.names("_base")))


class CheckTest(DisksTest):
    def check(self, flavor, **image):
        guest = replace(self.guest, flavor=flavor, image=replace(self.image, **image))
        self.store.check_image(guest, self.base)

    def test_fits(self):
        self.check(Flavor("exact", 1, 64, root_gb=1), min_disk=1, min_ram=64)
        self.check(Flavor("zero", 1, 64), min_disk=5)

    def test_too_small(self):
        flavor = Flavor("small", 1, 64, root_gb=1)
        for code, fields in (("flavor_memory_too_small", {"min_ram": 65}),
                             ("flavor_disk_too_small", {"min_disk": 2})):
            error = self.assertFails(Failed, code, lambda fields=fields: self.check(
                flavor, **fields))
            self.assertIn("small", error.what)

    def test_image_larger_than_the_disk(self):
        self.base = replace(self.base, virtual_size=GIB + 512)
        self.assertFails(Failed, "flavor_disk_too_small", self.check,
                         Flavor("small", 1, 64, root_gb=1))
        self.assertFails(Failed, "flavor_disk_too_small", self.create)
        self.assertFalse(os.path.exists(self.file_of()))


class RemoveTest(DisksTest):
    def test_directories(self):
        self.assertEqual([], list(self.store.guest_dirs()))
        self.create()
        half = make_guest().uuid
        os.mkdir(os.path.join(self.path, half))
        self.assertEqual(sorted([self.guest.uuid, half]), list(self.store.guest_dirs()))
        self.assertEqual((), self.store.disks(half))

    def test_delete(self):
        self.whole()
        self.store.delete_disks(self.guest.uuid)
        self.assertEqual(([], ()), (self.store.guest_dirs(), self.store.disks(self.guest.uuid)))
        self.assertEqual([], self.names("_deleted"))
        self.store.delete_disks(self.guest.uuid)
        self.assertIsNotNone(self.store.cached_image(self.image))

    def test_delete_that_stops_halfway_is_finished_later(self):
        self.whole()
        broken = OSError(5, "Input/output error")

        def fail(path):
            raise broken

        rmtree = dirs.shutil.rmtree
        self.patch(dirs.shutil, "rmtree", fail)
        error = self.assertFails(
            Retryable, "delete_failed", self.store.delete_disks, self.guest.uuid
        )
        self.assertIn("Input/output error", error.what)
        self.assertEqual([], self.store.guest_dirs())
        self.assertEqual([], self.store.sweep([], 1))  # it says so and goes on
        self.patch(dirs.shutil, "rmtree", rmtree)
        self.assertEqual(1, len(self.store.sweep([], 1)))
        self.assertEqual([], self.names("_deleted"))

    def test_quarantine(self):
        disks = self.whole()
        path = self.store.quarantine_disks(self.guest.uuid)
        self.assertRegex(path, rf"/_quarantine/{self.guest.uuid}\.\d{{8}}T\d{{6}}Z$")
        self.assertEqual(sorted(os.path.basename(disk.path) for disk in disks) + ["disks.json"],
                         sorted(os.listdir(path)))
        self.assertEqual([], self.store.guest_dirs())
        self.assertEqual(path, self.store.quarantine_disks(self.guest.uuid))
        self.create()
        second = self.store.quarantine_disks(self.guest.uuid)
        self.assertNotEqual(path, second)
        self.assertEqual(second, self.store.quarantine_disks(self.guest.uuid))

    def test_quarantine_of_nothing(self):
        self.assertEqual("", self.store.quarantine_disks(self.guest.uuid))

    def test_quarantine_ends(self):
        self.create()
        path = self.store.quarantine_disks(self.guest.uuid)
        old = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 7 * 86400 - 5))
        young = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 7 * 86400 + 60))
        folder = os.path.dirname(path)
        due = os.path.join(folder, f"{self.guest.uuid}.{old}")
        os.rename(path, due)
        for name in (f"{make_guest().uuid}.{young}", "kept-by-hand", self.guest.uuid):
            os.mkdir(os.path.join(folder, name))
        self.assertEqual([due], self.store.sweep([self.image.id], 86400))
        self.assertEqual(3, len(os.listdir(folder)))
