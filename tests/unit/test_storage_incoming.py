"""Disks for a guest that arrives while it runs. Rows 44, 48, 60 and 75."""

import os
from dataclasses import replace

from compute.errors import Failed, NeedsOperator, Refused
from compute.model.guest import CachedImage, Flavor
from tests.unit.storage_support import (
    GIB,
    KillTest,
    StorageTest,
    make_conf,
    make_guest,
    nothing,
    qemu_img,
    qemu_io,
)
from virt.storage import console, files, shared, store
from virt.storage.outgoing import unpack

FLAVOR = Flavor("all", 1, 128, root_gb=1, ephemeral_gb=1, swap_mb=16)


class Guests:
    """A guest that runs on one host, and the store of the host that it moves to."""

    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.base = self.fetch(self.image)
        self.guest = make_guest(self.image, flavor=FLAVOR, config_drive=True)
        self.uuid = self.guest.uuid
        self.disks = self.store.create_disks(self.guest, self.base, {"admin_pass": "x"})
        qemu_io(self.disks[0].path, "write -P 9 5M 3M")
        files.write(os.path.join(self.path, self.uuid, "console.log"), b"GUEST-READY\n", 0o640)
        self.there = os.path.join(self.dir, "there")
        self.own = os.path.join(self.there, self.uuid)
        self.other = store.Store(make_conf(instances_path=self.there))
        self.there_base = self.other.fetch_image(self.image, self.source, nothing, nothing)
        self.outgoing = self.store.outgoing(self.uuid)

    def prepare(self, base="", outgoing=None):
        return self.other.prepare_incoming(
            self.guest, outgoing or self.outgoing, self.there_base if base == "" else base)

    def check(self, outgoing=None):
        checks = self.other.check_incoming_disks(self.guest, outgoing or self.outgoing)
        return {check.name: check for check in checks}

    def log(self):
        return console.tail(os.path.join(self.own, "console.log"), 100)

    def say(self, directory, line, name="console.log"):
        with open(os.path.join(directory, self.uuid, name), "ab") as log:
            log.write(line)

    def state(self):
        return sorted(os.listdir(self.own)) if os.path.isdir(self.own) else None


class OutgoingTest(Guests, StorageTest):
    def test_what_is_told(self):
        told = self.store.outgoing_disks(self.uuid)
        self.assertEqual(
            [("root", "vda", "qcow2", GIB, self.image.id), ("ephemeral", "vdb", "raw", GIB, None),
             ("swap", "vdc", "raw", 16 << 20, None), ("config", "hda", "raw", 409600, None)],
            [(disk["role"], disk["target"], disk["format"], disk["size"], disk["backing_image"])
             for disk in told],
        )
        self.assertEqual([disk.path for disk in self.disks], [disk["path"] for disk in told])
        for disk in told[:3]:
            self.assertEqual(os.stat(disk["path"]).st_blocks * 512, disk["allocated"])
        self.assertTrue(told[0]["backing_allocated"] > 0)
        self.assertEqual([True], [bool(disk.get("content")) for disk in told if "content" in disk])

    def test_targets_of_the_domain(self):
        targets = {disk.path: f"sd{letter}"
                   for disk, letter in zip(self.disks, "abcd", strict=True)}
        told = self.store.outgoing_disks(self.uuid, targets)
        self.assertEqual(["sda", "sdb", "sdc", "sdd"], [disk["target"] for disk in told])

    def test_present_size_counts(self):
        qemu_img("resize", "-q", "-f", "qcow2", self.disks[0].path, "2G")
        self.assertEqual(2 * GIB, self.store.outgoing_disks(self.uuid)[0]["size"])

    def test_missing(self):
        self.assertFails(Failed, "disk_missing", self.store.outgoing, make_guest().uuid)
        os.unlink(self.disks[2].path)
        self.assertFails(Failed, "disk_missing", self.store.outgoing, self.uuid)

    def test_storage_id_is_one_for_all_that_share_it(self):
        first = self.store.storage_id()
        self.assertEqual(first, self.make_store().storage_id())
        self.assertNotEqual(first, self.other.storage_id())
        self.assertEqual([], self.leftovers())

    def test_the_first_of_two_ids_stays(self):
        path = os.path.join(self.dir, ".storage-id")
        for data in (b"first\n", b"second\n"):
            shared._write_new(path, data)
        self.assertEqual("first", shared.storage_id(self.dir))

    def test_every_attempt_has_an_id(self):
        self.assertNotEqual(self.outgoing["attempt"], self.store.outgoing(self.uuid)["attempt"])


class ConsoleTest(Guests, StorageTest):
    def test_what_was_written_meanwhile_comes_before_what_is_written_here(self):
        self.prepare()
        self.say(self.path, b"leaving\n")
        self.say(self.there, b"here\n")
        self.other.arrived(self.guest)
        for _ in range(2):
            self.other.keep_console(self.uuid, self.store.outgoing_console(self.uuid))
            self.assertEqual(b"GUEST-READY\nleaving\nhere\n", self.log())
        self.assertEqual([], [name for name in self.state() if ".part" in name])

    def test_a_log_that_was_rotated_goes_along_and_back(self):
        self.say(self.path, b"old\n", "console.log.0")
        told = self.store.outgoing(self.uuid)
        self.prepare(outgoing=told)
        self.assertEqual(b"old\nGUEST-READY\n", self.log())
        self.other.arrived(self.guest)
        self.say(self.there, b"here\n")
        self.assertEqual(b"old\nGUEST-READY\nhere\n",
                         unpack(self.other.outgoing_console(self.uuid)))

    def test_no_more_than_its_end_goes_along(self):
        self.say(self.path, b"x" * console.MOST + b"the end")
        self.assertEqual(b"x" * (console.MOST - 7) + b"the end",
                         unpack(self.store.outgoing_console(self.uuid)))

    def test_it_is_kept_only_where_the_guest_is(self):
        log = self.store.outgoing_console(self.uuid)
        self.assertFails(Refused, "guest_not_found", self.other.keep_console, self.uuid, log)
        self.prepare()
        self.assertFails(Refused, "guest_not_found", self.other.keep_console, self.uuid, log)
        self.other.discard_incoming(self.uuid)
        self.assertIsNone(self.state())

    def test_no_log_is_an_empty_one(self):
        os.unlink(os.path.join(self.path, self.uuid, "console.log"))
        self.assertEqual(b"", unpack(self.store.outgoing_console(self.uuid)))


class PrepareTest(Guests, StorageTest):
    def test_overlay_on_the_same_base(self):
        found = self.prepare()
        paths = {target: os.path.join(self.own, name) for target, name in (
            ("vda", "disk"), ("vdb", "disk.eph0"), ("vdc", "disk.swap"), ("hda", "disk.config"))}
        self.assertEqual({"copy_disks": ["vda", "vdb", "vdc"], "incremental": True,
                          "shared": False, "paths": paths}, found)
        self.assertEqual(["console.log", "console.log.before", "disk", "disk.config", "disk.eph0",
                          "disk.swap", "incoming.json"], self.state())
        info = qemu_img("info", "-f", "qcow2", paths["vda"])
        self.assertIn(f"backing file: {self.there_base.path}\n", info)
        self.assertIn("virtual size: 1 GiB", info)
        qemu_io(paths["vda"], "read -P 7 1M 64k")
        self.assertEqual((GIB, 0), (os.stat(paths["vdb"]).st_size,
                                    os.stat(paths["vdb"]).st_blocks))
        with open(paths["hda"], "rb") as one, open(self.disks[3].path, "rb") as two:
            self.assertEqual(one.read(), two.read())
        self.assertEqual(b"GUEST-READY\n", self.log())
        for path in paths.values():
            self.assertEqual(0o600, os.stat(path).st_mode & 0o777)
        self.assertEqual((), self.other.disks(self.uuid))  # nobody's yet

    def test_without_a_base_the_whole_disk_comes(self):
        for base in (None, CachedImage("another", self.there_base.path, "qcow2", 64 << 20)):
            found = self.prepare(base)
            self.assertFalse(found["incremental"])
            self.assertNotIn("backing", qemu_img("info", "-f", "qcow2", found["paths"]["vda"]))
            self.other.discard_incoming(self.uuid)

    def test_arrived(self):
        self.prepare()
        for _ in range(2):
            disks = self.other.arrived(self.guest)
            self.assertEqual([replace(disk, path=disk.path.replace(self.path, self.there))
                              for disk in self.disks], list(disks))
            self.assertEqual(disks, self.other.disks(self.uuid))
            self.assertNotIn("incoming.json", self.state())
        os.utime(self.there_base.path, (0, 0))
        self.assertEqual([], self.other.sweep([], 0))
        record = files.read_json(os.path.join(self.own, "disks.json"))
        self.assertEqual(self.image.id, record["image_id"])

    def test_arrived_without_anything(self):
        self.assertFails(Failed, "disk_missing", self.other.arrived, self.guest)

    def test_the_base_stays_while_the_guest_comes(self):
        self.prepare()
        os.utime(self.there_base.path, (0, 0))
        self.assertEqual([], self.other.sweep([], 0))

    def test_again_is_the_same(self):
        found = self.prepare()
        qemu_io(found["paths"]["vda"], "write -P 3 8M 64k")  # libvirt has begun
        self.assertEqual(found, self.prepare())
        qemu_io(found["paths"]["vda"], "read -P 3 8M 64k")
        self.other.arrived(self.guest)
        self.assertEqual(found, self.prepare())

    def test_another_attempt_begins_with_empty_disks(self):
        """What the guest discarded meanwhile would else come back from the first attempt."""
        found = self.prepare()
        qemu_io(found["paths"]["vda"], "write -P 3 8M 64k")
        self.assertEqual(found, self.prepare(outgoing=self.store.outgoing(self.uuid)))
        qemu_io(found["paths"]["vda"], "read -P 0 8M 64k")
        self.assertEqual([], os.listdir(os.path.join(self.there, "_deleted")))

    def test_attempts_without_an_id_are_all_different(self):
        del self.outgoing["attempt"]
        found = self.prepare()
        qemu_io(found["paths"]["vda"], "write -P 3 8M 64k")
        self.prepare()
        qemu_io(found["paths"]["vda"], "read -P 0 8M 64k")
        self.other.arrived(self.guest)
        self.assertFails(NeedsOperator, "disk_in_the_way", self.prepare)

    def test_own_disks_are_never_replaced(self):
        self.other.create_disks(self.guest, self.there_base, {})
        before = self.state()
        self.assertFails(NeedsOperator, "disk_in_the_way", self.prepare)
        self.other.discard_incoming(self.uuid)
        self.assertEqual(before, self.state())

    def test_unknown_files_go_to_quarantine(self):
        os.makedirs(self.own)
        files.write(os.path.join(self.own, "disk"), b"whose?")
        self.prepare()
        [kept] = os.listdir(os.path.join(self.there, "_quarantine"))
        self.assertIn(self.uuid, kept)

    def test_discard(self):
        self.prepare()
        for _ in range(2):
            self.other.discard_incoming(self.uuid)
            self.assertIsNone(self.state())
        self.assertEqual([], os.listdir(os.path.join(self.there, "_deleted")))
        self.prepare()
        self.other.arrived(self.guest)
        self.other.discard_incoming(self.uuid)
        self.assertEqual(4, len(self.other.disks(self.uuid)))

    def test_config_drive_that_did_not_come(self):
        for content in (None, "AAAA", "e"):
            self.outgoing["disks"][3]["content"] = content
            self.assertFails(Failed, "config_drive_missing", self.prepare)
            self.other.discard_incoming(self.uuid)
        self.outgoing["disks"][3]["content"] = None
        self.assertFalse(self.check()["config drive"].ok)


class SharedTest(Guests, StorageTest):
    def test_both_see_the_disks(self):
        other = self.make_store()
        found = other.prepare_incoming(self.guest, self.outgoing, None)
        self.assertEqual(([], True), (found["copy_disks"], found["shared"]))
        self.assertEqual(self.disks[0].path, found["paths"]["vda"])
        self.assertEqual(self.disks, other.arrived(self.guest))
        other.discard_incoming(self.uuid)  # it did not come after all
        self.assertEqual(self.disks, self.store.disks(self.uuid))
        [check] = other.check_incoming_disks(self.guest, self.outgoing)
        self.assertTrue(check.ok)

    def test_equal_ids_and_other_disks(self):
        """The hosts were cloned from one another."""
        files.write(os.path.join(self.there, ".storage-id"), self.store.storage_id().encode())
        self.outgoing["disks"][0]["path"] = "/nowhere/disk"
        self.assertFails(Failed, "storage_not_shared", self.prepare)
        self.assertIn("/nowhere/disk", self.check()["shared storage"].found)
        self.assertFalse(self.check()["shared storage"].ok)
        self.assertIsNone(self.state())


class CheckTest(Guests, StorageTest):
    def test_fine(self):
        checks = self.check()
        self.assertEqual({"disk room", "disk directory", "base image"}, set(checks))
        self.assertTrue(all(check.ok for check in checks.values()), checks)
        self.assertIsNone(self.state())

    def test_room(self):
        needed = sum(disk["allocated"] for disk in self.outgoing["disks"])
        for free, ok in ((needed - 1, False), (needed, None), (3 * GIB, True)):
            self.patch(files, "free", lambda path, free=free: free)
            self.assertIs(ok, self.check()["disk room"].ok)

    def test_room_for_a_base_that_has_to_come(self):
        needed = sum(disk["allocated"] for disk in self.outgoing["disks"])
        os.unlink(self.there_base.path)
        self.patch(files, "free", lambda path: needed)
        self.assertFalse(self.check()["disk room"].ok)
        self.assertIsNone(self.check()["base image"].ok)

    def test_directory_in_the_way(self):
        os.makedirs(self.own)
        self.assertTrue(self.check()["disk directory"].ok)
        files.write(os.path.join(self.own, "disk"), b"")
        self.assertIsNone(self.check()["disk directory"].ok)
        files.write(os.path.join(self.own, "disks.json"), b"")
        self.assertFalse(self.check()["disk directory"].ok)


class IncomingCrashTest(Guests, KillTest):
    def test_prepare(self):
        def check():
            self.assertEqual((), self.other.disks(self.uuid))
            found = self.prepare()
            qemu_img("check", "-q", "-f", "qcow2", found["paths"]["vda"])
            self.assertEqual(["console.log", "console.log.before", "disk", "disk.config",
                              "disk.eph0", "disk.swap",
                              "incoming.json"], self.state())
            self.other.discard_incoming(self.uuid)

        self.assertTrue(self.killed_at_every_call(self.prepare, check) > 20)

    def test_arrived(self):
        def check():
            self.assertIn(len(self.other.disks(self.uuid)), (0, 4))
            self.assertEqual(4, len(self.other.arrived(self.guest)))
            self.assertEqual(["console.log", "console.log.before", "disk", "disk.config",
                              "disk.eph0", "disk.swap",
                              "disks.json"], self.state())
            self.other.delete_disks(self.uuid)
            self.prepare()

        self.prepare()
        self.assertTrue(
            self.killed_at_every_call(lambda: self.other.arrived(self.guest), check) > 3)

    def test_discard(self):
        def check():
            self.other.discard_incoming(self.uuid)
            self.other.sweep([self.image.id], 10**6)
            self.assertIsNone(self.state())
            self.assertEqual([], os.listdir(os.path.join(self.there, "_deleted")))
            self.prepare()

        self.prepare()
        self.assertTrue(self.killed_at_every_call(
            lambda: self.other.discard_incoming(self.uuid), check) > 1)
