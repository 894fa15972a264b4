"""Copying disks: sparse, resumable, never of two origins mixed. Rows 51, 53, 60 and 75."""

import errno
import os
import shutil
import time
from dataclasses import replace

from compute.errors import Aborted, Failed, NeedsOperator, Retryable
from compute.model.guest import Flavor
from tests.unit.storage_support import (
    KillTest,
    StorageTest,
    kill_self,
    make_conf,
    make_guest,
    nothing,
    qemu_img,
    qemu_io,
)
from virt.storage import console, copying, files, store
from virt.storage.source import LocalSource

MIB = 1 << 20
FLAVOR = Flavor("all", 1, 128, root_gb=1, ephemeral_gb=1, swap_mb=16)


class Peer(LocalSource):
    """Another host's directory; its answers can fail. Counts the bytes that were read."""

    def __init__(self, path, images):
        super().__init__(path, images)
        self.steps, self.before = [], nothing

    def step(self, name, target, position):
        self.before(name, position)
        reached = super().step(name, target, position)
        self.steps.append((name, position, reached))
        return reached


class Guests:
    """A guest whose disks are set aside on one host, and the store of another host."""

    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.base = self.fetch(self.image)
        self.guest = make_guest(self.image, flavor=FLAVOR, config_drive=True)
        self.uuid = self.guest.uuid
        self.disks = self.store.create_disks(self.guest, self.base, {"admin_pass": "x"})
        qemu_io(self.disks[0].path, "write -P 9 5M 3M")
        files.write(os.path.join(self.path, self.uuid, "console.log"), b"GUEST-READY\n", 0o640)
        self.store.set_aside_disks(self.uuid)
        self.aside = os.path.join(self.path, self.uuid + "_resize")
        self.there = os.path.join(self.dir, "there")
        self.own = os.path.join(self.there, self.uuid)
        self.other = self.open_other()
        self.patch(files, "CHUNK", 256 * 1024)

    def open_other(self, **options):
        self.peers = []

        def opened(uri, uuid, name, instances_path):
            self.assertEqual(("test:///other", self.uuid, self.uuid + "_resize", self.there),
                             (uri, uuid, name, instances_path))
            peer = Peer(os.path.join(self.path, name), os.path.join(self.path, "_base"))
            peer.before = self.before
            self.peers.append(peer)
            return peer

        self.before = nothing
        return store.Store(make_conf(instances_path=self.there, **options), opened)

    def pull(self, base=None, progress=nothing, cancel=nothing):
        return self.other.copy_disks(self.guest, "test:///other", base, progress, cancel)

    def fail_at(self, wanted, position, error):
        def before(name, now):
            if name == wanted and now >= position:
                raise error

        self.before = before

    def assertCopied(self, disks):
        self.assertEqual([(disk.role, disk.format, disk.size) for disk in self.disks],
                         [(disk.role, disk.format, disk.size) for disk in disks])
        self.assertEqual(disks, self.other.disks(self.uuid))
        qemu_img("check", "-q", "-f", "qcow2", disks[0].path)
        qemu_io(disks[0].path, "read -P 9 5M 3M")
        qemu_io(disks[0].path, "read -P 7 1M 64k")  # of the base
        for disk in disks[1:]:
            qemu_img("compare", "-q", "-f", "raw", "-F", "raw", disk.path, self.of(disk))
        for disk in disks:
            self.assertEqual(0o600, os.stat(disk.path).st_mode & 0o777)
            self.assertTrue(os.stat(disk.path).st_blocks * 512 < 12 * MIB, disk.role)
        names = {os.path.basename(disk.path) for disk in disks}
        self.assertEqual(names | {"disks.json", "console.log"}, set(os.listdir(self.own)))

    def of(self, disk):
        return os.path.join(self.aside, os.path.basename(disk.path))


class CopyTest(Guests, StorageTest):
    def test_on_one_machine(self):
        seen = []
        disks = self.store.copy_disks(
            self.guest, None, None, lambda *now: seen.append(now), nothing)
        self.assertEqual(self.disks, disks)
        self.assertEqual(disks, self.store.disks(self.uuid))
        self.assertEqual(1, len({total for _, total in seen}))
        self.assertEqual(seen[-1][0], seen[-1][1])
        self.assertEqual(seen, sorted(seen))
        qemu_io(disks[0].path, "write -P 1 5M 3M")
        qemu_io(self.of(disks[0]), "read -P 9 5M 3M")  # the way back is untouched
        self.assertTrue(os.stat(disks[1].path).st_blocks * 512 < 12 * MIB)

    def test_from_another_host(self):
        disks = self.pull()
        self.assertCopied(disks)
        self.assertEqual(self.own + "/disk", disks[0].path)
        with open(self.own + "/console.log") as log:
            self.assertEqual("GUEST-READY\n", log.read())

    def test_all_of_a_console_log_comes(self):
        for name in console.FILES:
            files.write(os.path.join(self.aside, name), name.encode(), 0o640)
        self.pull()
        for name in console.FILES:
            with open(os.path.join(self.own, name)) as log:
                self.assertEqual(name, log.read())

    def test_the_base_is_this_hosts_own(self):
        """The image has another format in the cache here."""
        self.other = self.open_other(force_raw_images=True)
        base = self.other.fetch_image(self.image, self.source, nothing, nothing)
        self.assertEqual("raw", base.format)
        self.assertCopied(self.pull(base))
        info = qemu_img("info", "-f", "qcow2", self.own + "/disk")
        self.assertIn(f"backing file: {base.path}\n", info)
        self.assertIn("backing file format: raw", info)
        record = files.read_json(self.own + "/disks.json")
        self.assertEqual((self.image.id, os.path.basename(base.path)),
                         (record["image_id"], record["base"]))

    def test_a_base_that_is_in_no_cache_comes_along(self):
        self.assertIsNone(self.other.cached_image(self.image))
        self.assertCopied(self.pull())
        self.assertEqual(self.image.id, self.other.cached_image(self.image).image_id)
        os.utime(self.other.cached_image(self.image).path, (0, 0))
        self.assertEqual([], self.other.sweep([], 0))

    def test_a_base_that_is_nowhere(self):
        for name in self.names("_base"):
            os.unlink(os.path.join(self.path, "_base", name))
        self.assertFails(Failed, "disk_missing", self.pull)
        self.assertEqual((), self.other.disks(self.uuid))

    def test_a_hostile_base_is_refused(self):
        path = os.path.join(self.path, "_base", os.path.basename(self.base.path))
        qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path, "64M")
        self.assertFails(Failed, "image_unacceptable", self.pull)
        self.assertEqual((), self.other.disks(self.uuid))

    def test_another_image_than_the_disk_was_made_from(self):
        wrong = replace(self.base, image_id="another")
        self.assertFails(Failed, "disk_unacceptable", self.pull, wrong)

    def test_a_header_that_contradicts_its_record(self):
        """A disk that is recorded to stand by itself names a file of the host."""
        record = files.read_json(self.aside + "/disks.json")
        record.update(base="", image_id="")
        files.write_json(self.aside + "/disks.json", record)
        error = self.assertFails(Failed, "disk_unacceptable", self.pull)
        self.assertIn("header", error.what)
        self.assertEqual((), self.other.disks(self.uuid))

    def test_again_copies_nothing(self):
        disks = self.pull()
        self.assertEqual(disks, self.pull())
        self.assertEqual([], self.peers[-1].steps)

    def test_grown_copy_is_still_the_copy(self):
        self.pull()
        grown = self.other.grow_disks(
            replace(self.guest, flavor=replace(FLAVOR, root_gb=2, swap_mb=32)))
        self.assertEqual(grown, self.pull())

    def test_full_disk(self):
        def full(*_args):
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(files, "copy_chunk", full)
        error = self.assertFails(Failed, "disk_full", self.pull, self.base)
        self.assertIn("No space left", error.what)
        self.assertEqual((), self.other.disks(self.uuid))

    def test_too_little_room_is_told_before_a_byte_is_copied(self):
        self.patch(files, "free", lambda path: 1 * MIB)
        self.assertFails(Failed, "disk_full", self.pull, self.base)
        self.assertEqual([], self.peers[-1].steps)
        self.assertFalse(os.path.exists(self.own))

    def test_nothing_there(self):
        shutil.rmtree(self.aside)
        self.assertFails(Failed, "disk_missing", self.pull)
        self.assertFalse(os.path.exists(self.own))

    def test_a_disk_that_vanished(self):
        os.unlink(self.aside + "/disk.eph0")
        self.assertFails(Failed, "disk_missing", self.pull)

    def test_a_record_that_cannot_be_read(self):
        files.write(self.aside + "/disks.json", b"[]")
        self.assertFails(Failed, "disk_unacceptable", self.pull)

    def test_other_disks_are_never_replaced(self):
        base = self.other.fetch_image(self.image, self.source, nothing, nothing)
        disks = self.other.create_disks(self.guest, base, {})
        self.assertFails(NeedsOperator, "disk_in_the_way", self.pull)
        self.assertEqual(disks, self.other.disks(self.uuid))

    def test_unknown_files_go_to_quarantine(self):
        os.makedirs(self.own)
        files.write(self.own + "/disk", b"whose?")
        self.assertCopied(self.pull())
        [kept] = os.listdir(self.there + "/_quarantine")
        self.assertEqual(["disk"], os.listdir(f"{self.there}/_quarantine/{kept}"))

    def test_a_store_that_reaches_no_other_host(self):
        alone = store.Store(make_conf(instances_path=self.there))
        self.assertFails(Failed, "unsupported", alone.copy_disks, self.guest, "qemu+tls://x/system",
                         None, nothing, nothing)


class CutTest(Guests, StorageTest):
    def cut(self, name, position, error=None):
        """A copy that ends at ``position`` of a file."""
        self.fail_at(name, position, error or Retryable("Gone.", now="x", next="y",
                                                        code="source_unreachable"))
        self.assertRaises(type(error) if error else Retryable, self.pull)
        self.assertEqual((), self.other.disks(self.uuid))
        self.before = nothing

    def bytes_of(self, name):
        return sum(reached - position for step, position, reached in self.peers[-1].steps
                   if step == name)

    def test_goes_on_where_it_was(self):
        self.cut("disk", 2 * MIB)
        self.assertTrue(self.bytes_of("disk") >= 2 * MIB)
        size = os.stat(self.aside + "/disk").st_size
        self.assertCopied(self.pull())
        self.assertTrue(self.bytes_of("disk") <= size - 2 * MIB)

    def test_whole_files_are_not_copied_again(self):
        self.cut("disk.swap", 0)
        self.assertCopied(self.pull())
        self.assertEqual((0, 0), (self.bytes_of("disk"), self.bytes_of("disk.eph0")))

    def test_what_came_after_the_known_part_is_forgotten(self):
        """A torn write beyond the offset that was saved, in a place where the source has a hole."""
        self.cut("disk.eph0", 1)
        with open(self.own + "/disk.eph0.part", "r+b") as part:
            part.seek(500 * MIB)
            part.write(b"garbage")
        self.assertCopied(self.pull())

    def test_a_header_that_was_half_rewritten(self):
        self.cut("disk.eph0", 1)
        os.rename(self.own + "/disk", self.own + "/disk.part")
        with open(self.own + "/disk.part", "r+b") as part:
            part.write(b"\0" * 512)
        self.assertCopied(self.pull())

    def test_cancel(self):
        asked = []

        def cancel():
            asked.append(1)
            if len(asked) > 6:
                raise Aborted("Stopped.")

        self.assertRaises(Aborted, self.pull, None, nothing, cancel)
        self.assertTrue(os.path.exists(self.own + "/copying.json"))
        self.assertCopied(self.pull())

    def test_another_origin_begins_anew(self):
        """Reverted, run, and resized again: the half copy is of disks that the guest changed."""
        self.cut("disk", 2 * MIB)
        self.store.bring_back_disks(self.uuid)
        qemu_io(self.disks[0].path, "write -P 9 5M 3M")
        qemu_io(self.disks[0].path, "write -P 4 1M 64k")
        self.store.set_aside_disks(self.uuid)
        [root, *_] = self.pull()
        self.assertEqual(os.stat(self.aside + "/disk").st_size, self.bytes_of("disk"))
        qemu_io(root.path, "read -P 4 1M 64k")
        qemu_io(root.path, "read -P 9 5M 3M")
        self.assertFalse(os.path.exists(self.there + "/_quarantine"))

    def test_delete_removes_half_a_copy(self):
        self.cut("disk", 2 * MIB)
        self.other.delete_disks(self.uuid)
        self.assertEqual([], self.other.guest_dirs())

    def test_source_shrinks(self):
        self.cut("disk", 2 * MIB)
        os.truncate(self.aside + "/disk.eph0", 4096)
        size = LocalSource.size
        self.patch(Peer, "size", lambda peer, name: (
            (1 << 30, 4096) if name == "disk.eph0" else size(peer, name)))
        self.assertFails(Failed, "disk_missing", self.pull)

    def test_sweep_removes_parts_of_dead_copies(self):
        self.cut("disk", 2 * MIB)
        part = self.own + "/disk.part"
        self.assertEqual([], self.other.sweep([self.image.id], 60))
        os.utime(self.own + "/copying.json", (0, 0))
        with self.other._copier._locked(self.uuid, nothing):  # a copy that goes on
            self.assertEqual([], self.other.sweep([self.image.id], 60))
        self.assertEqual([part], self.other.sweep([self.image.id], 60))
        self.assertCopied(self.pull())
        self.assertEqual([], [name for name in os.listdir(self.there + "/_locks")
                              if "copy" in name])

    def test_sweep_leaves_what_is_aside(self):
        past = time.time() - 10**7
        for folder, _, names in os.walk(self.aside):
            for name in names:
                os.utime(os.path.join(folder, name), (past, past))
        self.store.sweep([], 0)
        self.assertEqual([self.uuid], list(self.store.aside_dirs()))
        self.assertCopied(self.pull())


class CopyCrashTest(Guests, KillTest):
    def test_pull(self):
        base = self.other.fetch_image(self.image, self.source, nothing, nothing)

        def check():
            disks = self.other.disks(self.uuid)
            self.assertIn(len(disks), (0, 4))
            if disks:
                self.other.sweep([self.image.id], 10**6)  # what it no longer needs
                self.assertCopied(disks)
            self.assertCopied(self.pull(base))
            self.other.delete_disks(self.uuid)

        self.assertTrue(self.killed_at_every_call(lambda: self.pull(base), check) > 30)

    def test_killed_in_the_middle_of_a_file(self):
        self.patch(copying, "SAVE_BYTES", MIB)

        def child():
            self.before = lambda name, position: kill_self() if position > 2 * MIB else None
            self.pull()

        self.assertEqual(-9, self.in_child(child))
        disks = self.pull()
        self.assertCopied(disks)
        first = next(position for name, position, _ in self.peers[-1].steps if name == "disk")
        self.assertTrue(first >= MIB, first)
