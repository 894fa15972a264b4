"""Setting disks aside and bringing them back, killed at every point too. Rows 52, 57 and 60."""

import os
from dataclasses import replace

from compute.errors import Failed, NeedsOperator, Refused
from compute.model.guest import Flavor
from tests.unit.storage_support import KillTest, StorageTest, make_guest, nothing
from virt.storage import files


class Guests:
    """A guest with disks."""

    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.base = self.fetch(self.image)
        flavor = Flavor("all", 1, 128, root_gb=1, swap_mb=16)
        self.guest = make_guest(self.image, flavor=flavor, config_drive=True)
        self.uuid = self.guest.uuid
        self.disks = self.store.create_disks(self.guest, self.base, {})
        self.own = os.path.join(self.path, self.uuid)
        self.aside = self.own + "_resize"

    def copy(self):
        return self.store.copy_disks(self.guest, None, None, nothing, nothing)


class AsideTest(Guests, StorageTest):
    def test_there_and_back(self):
        self.assertFalse(self.store.aside_disks(self.uuid))
        for _ in range(2):
            self.store.set_aside_disks(self.uuid)
            self.assertTrue(self.store.aside_disks(self.uuid))
            self.assertEqual(([], [self.uuid], ()), (
                list(self.store.guest_dirs()), list(self.store.aside_dirs()),
                self.store.disks(self.uuid)))
        for _ in range(2):
            self.store.bring_back_disks(self.uuid)
            self.assertFalse(self.store.aside_disks(self.uuid))
            self.assertEqual(self.disks, self.store.disks(self.uuid))

    def test_delete(self):
        self.store.set_aside_disks(self.uuid)
        for _ in range(2):
            self.store.delete_aside_disks(self.uuid)
            self.assertEqual([], list(self.store.aside_dirs()))
        self.assertEqual([], self.names("_deleted"))

    def test_delete_spares_the_guest(self):
        self.store.set_aside_disks(self.uuid)
        disks = self.copy()
        self.store.delete_aside_disks(self.uuid)
        self.assertEqual(disks, self.store.disks(self.uuid))
        self.assertTrue(all(os.path.exists(disk.path) for disk in disks))

    def test_the_base_stays_for_disks_that_are_aside(self):
        self.store.set_aside_disks(self.uuid)
        os.utime(self.base.path, (0, 0))
        self.assertEqual([], self.store.sweep([], 0))
        self.assertIsNotNone(self.store.cached_image(self.image))
        self.assertTrue(self.store.aside_disks(self.uuid))

    def test_the_base_of_a_guest_that_is_renamed_meanwhile(self):
        dirs = self.store._dirs
        entries, renames = dirs._entries, iter([self.store.set_aside_disks])

        def listed(parent, pattern):
            found = list(entries(parent, pattern))
            for rename in renames:
                rename(self.uuid)
            return iter(found)

        dirs._entries = listed
        self.assertEqual({os.path.basename(self.base.path)}, dirs.bases())

    def test_nothing_to_set_aside_or_to_bring_back(self):
        nobody = make_guest().uuid
        for function in (self.store.set_aside_disks, self.store.bring_back_disks):
            self.assertFails(Failed, "disk_missing", function, nobody)
            self.assertFails(Refused, "invalid_uuid", function, "../etc")

    def test_complete_disks_are_never_replaced(self):
        self.store.set_aside_disks(self.uuid)
        self.store.create_disks(self.guest, self.base, {})
        before = sorted(os.listdir(self.own))
        for function in (self.store.set_aside_disks, self.store.bring_back_disks):
            error = self.assertFails(NeedsOperator, "disk_in_the_way", function, self.uuid)
            self.assertIn(self.aside, error.next)
            self.assertEqual(before, sorted(os.listdir(self.own)))
            self.assertTrue(self.store.aside_disks(self.uuid))

    def test_unreadable_record_counts_as_complete(self):
        self.store.set_aside_disks(self.uuid)
        os.mkdir(self.own)
        files.write(os.path.join(self.own, "disks.json"), b"torn")
        self.assertFails(
            NeedsOperator, "disk_in_the_way", self.store.bring_back_disks, self.uuid)

    def test_set_aside_is_done_when_they_were_copied(self):
        self.store.set_aside_disks(self.uuid)
        disks = self.copy()
        self.store.set_aside_disks(self.uuid)
        self.assertEqual(disks, self.store.disks(self.uuid))

    def test_empty_directory_makes_way(self):
        self.store.set_aside_disks(self.uuid)
        os.mkdir(self.own)
        self.store.bring_back_disks(self.uuid)
        self.assertEqual(self.disks, self.store.disks(self.uuid))
        self.assertEqual([], self.names("_quarantine"))

    def test_half_copied_directory_goes_to_quarantine(self):
        self.store.set_aside_disks(self.uuid)
        os.mkdir(self.own)
        files.write(os.path.join(self.own, "disk.part"), b"half")
        self.store.bring_back_disks(self.uuid)
        self.assertEqual(self.disks, self.store.disks(self.uuid))
        [kept] = self.names("_quarantine")
        self.assertEqual(["disk.part"], self.names(f"_quarantine/{kept}"))

    def test_each_time_another_id(self):
        seen = set()
        for _ in range(3):
            self.store.set_aside_disks(self.uuid)
            seen.add(files.read_json(os.path.join(self.aside, "aside.json"))["id"])
            self.store.bring_back_disks(self.uuid)
        self.assertEqual(3, len(seen))


class ResizeCheckTest(Guests, StorageTest):
    def test_smaller_disks_are_refused(self):
        large = replace(self.guest, flavor=Flavor("large", 1, 128, root_gb=2, ephemeral_gb=3))
        for guest, flavor in (
            (self.guest, Flavor("zero", 1, 128, root_gb=0)),
            (replace(large, uuid=make_guest().uuid), Flavor("one", 1, 128, root_gb=1)),
            (replace(large, uuid=make_guest().uuid), Flavor("no ephemeral", 1, 128, root_gb=2)),
        ):
            error = self.assertFails(
                Failed, "disk_shrink", self.store.check_resize, guest, flavor)
            self.assertIn(flavor.name, error.what)

    def test_same_and_larger_pass(self):
        for flavor in (Flavor("same", 1, 64, root_gb=1), Flavor("big", 1, 64, 2, 1, 0)):
            self.store.check_resize(self.guest, replace(flavor, root_gb=max(1, flavor.root_gb)))
        as_image = replace(self.guest, uuid=make_guest().uuid, flavor=Flavor("zero", 1, 64))
        self.store.check_resize(as_image, Flavor("zero too", 2, 128))

    def test_what_is_recorded_counts(self):
        """A guest of a flavor with root_gb=0 has a disk as large as its image, 64 MiB here."""
        guest = replace(make_guest(self.image), flavor=Flavor("zero", 1, 64))
        self.store.create_disks(guest, self.base, {})
        self.store.check_resize(guest, Flavor("one", 1, 64, root_gb=1))
        large = self.source.add(self.qcow2("large.qcow2", "2G"))
        guest = replace(make_guest(large), flavor=Flavor("zero", 1, 64))
        self.store.create_disks(guest, self.fetch(large), {})
        self.assertFails(
            Failed, "disk_shrink", self.store.check_resize, guest, Flavor("one", 1, 64, root_gb=1))


class AsideCrashTest(Guests, KillTest):
    def one_copy(self):
        """Whatever happened, the disks are whole under one of the two names."""
        places = [path for path in (self.own, self.aside)
                  if os.path.exists(os.path.join(path, "disks.json"))]
        self.assertEqual(1, len(places), places)
        for disk in self.disks:
            self.assertTrue(os.path.exists(os.path.join(places[0], os.path.basename(disk.path))))

    def test_set_aside(self):
        def check():
            self.one_copy()
            self.store.set_aside_disks(self.uuid)
            self.assertTrue(self.store.aside_disks(self.uuid))
            self.store.bring_back_disks(self.uuid)
            files.remove_parts(self.own)

        self.assertTrue(self.killed_at_every_call(
            lambda: self.store.set_aside_disks(self.uuid), check) >= 4)

    def test_bring_back(self):
        def half():
            os.mkdir(self.own)
            files.write(os.path.join(self.own, "disk.part"), b"half")

        def check():
            self.one_copy()
            self.store.bring_back_disks(self.uuid)
            self.assertEqual(self.disks, self.store.disks(self.uuid))
            self.store.set_aside_disks(self.uuid)
            half()

        self.store.set_aside_disks(self.uuid)
        half()
        self.assertTrue(self.killed_at_every_call(
            lambda: self.store.bring_back_disks(self.uuid), check) >= 4)

    def test_delete(self):
        def check():
            self.store.delete_aside_disks(self.uuid)
            self.assertEqual(([], []), (list(self.store.aside_dirs()), self.names("_deleted")))
            self.assertEqual(disks, self.store.disks(self.uuid))
            self.store.set_aside_disks(self.uuid)
            self.copy()

        self.store.set_aside_disks(self.uuid)
        disks = self.copy()
        self.assertTrue(self.killed_at_every_call(
            lambda: self.store.delete_aside_disks(self.uuid), check) >= 2)
