import os
import subprocess
import threading
import time
from dataclasses import replace

from compute.errors import Aborted, Failed, Refused, Retryable
from tests.unit.storage_support import (
    StorageTest,
    kill_self,
    make_guest,
    nothing,
    qemu_img,
)
from tests.waiting import PATIENCE
from virt.storage import cache, files, locks

DAY = 86400


class CacheTest(StorageTest):
    def base_of(self, image):
        return os.path.join(self.path, "_base", cache.name_of(image.id))

    def make_old(self, image, age=10 * DAY):
        os.utime(self.base_of(image), (time.time() - age,) * 2)


class FetchTest(CacheTest):
    def test_names_are_safe_and_the_record_tells_all(self):
        image = self.source.add(self.qcow2(), id="../../etc/passwd")
        base = self.fetch(image)
        self.assertEqual(self.base_of(image), base.path)
        self.assertEqual([os.path.basename(base.path), os.path.basename(base.path) + ".json"],
                         self.names("_base"))
        record = files.read_json(base.path + ".json")
        self.assertEqual(("../../etc/passwd", "qcow2", 64 * 2**20),
                         (record["image_id"], record["format"], record["virtual_size"]))

    def test_cached_after_fetch_and_never_downloads(self):
        image = self.source.add(self.qcow2())
        self.assertIsNone(self.store.cached_image(image))
        base = self.fetch(image)
        self.assertEqual(base, self.store.cached_image(image))
        self.assertEqual(base, self.make_store().cached_image(image))
        self.assertEqual(base, self.fetch(image))
        self.assertEqual([image.id], self.source.downloads)

    def test_other_users_can_pass_and_read(self):
        base = self.fetch(self.source.add(self.qcow2()))
        self.assertEqual(0o644, os.stat(base.path).st_mode & 0o777)
        self.assertEqual(0o711, os.stat(os.path.dirname(base.path)).st_mode & 0o777)
        self.assertEqual(0o711, os.stat(self.path).st_mode & 0o777)

    def test_progress_is_told(self):
        seen = []
        self.store.fetch_image(self.source.add(self.raw(), disk_format="raw"), self.source,
                               lambda done, total: seen.append((done, total)), nothing)
        self.assertEqual([(2**20, 2**20)], seen)

    def test_unknown_image(self):
        image = replace(self.source.add(self.qcow2()), id="gone")
        self.assertRaises(Refused, self.fetch, image)
        self.assertEqual([], self.names("_base"))

    def test_cancel_leaves_nothing(self):
        def stop():
            raise Aborted("told to stop")

        image = self.source.add(self.qcow2())
        self.assertRaises(
            Aborted, self.store.fetch_image, image, self.source, nothing, stop
        )
        self.assertEqual([], self.names("_base"))

    def test_what_does_not_agree_is_fetched_again(self):
        image = self.source.add(self.qcow2())
        for spoil in (
            lambda path: os.unlink(path + ".json"),
            lambda path: os.truncate(path + ".json", 5),
            lambda path: os.truncate(path, 100),
            os.unlink,
        ):
            spoil(self.fetch(image).path)
            self.assertIsNone(self.store.cached_image(image))
        self.assertEqual("qcow2", self.fetch(image).format)
        self.assertEqual(5, len(self.source.downloads))

    def test_image_with_new_contents(self):
        """The same id with another hash: replaced, unless a guest's disk is on the old one."""
        digests = iter(("11" * 16, "22" * 16, "33" * 16))
        self.patch(cache.inspect, "verify_hash", nothing)
        image = self.source.add(self.qcow2(), hash_algo="md5", hash_value=next(digests))
        self.fetch(image)
        image = replace(image, hash_value=next(digests))
        self.source.images[image.id] = (image, self.source.images[image.id][1])
        self.assertIsNone(self.store.cached_image(image))
        base = self.fetch(image)
        self.store.create_disks(make_guest(image), base, {})
        changed = replace(image, hash_value=next(digests))
        self.assertFails(Failed, "image_unacceptable", self.fetch, changed)
        self.assertEqual(base, self.store.cached_image(image))

    def test_force_raw(self):
        self.store = self.make_store(force_raw_images=True)
        base = self.fetch(self.source.add(self.qcow2()))
        self.assertEqual(("raw", 64 * 2**20), (base.format, base.virtual_size))
        self.assertEqual(64 * 2**20, os.stat(base.path).st_size)
        self.assertTrue(os.stat(base.path).st_blocks * 512 < 2**20)
        self.assertEqual([], self.leftovers())

    def test_error_of_the_source_comes_through(self):
        def fail(_path):
            raise Retryable("the image service went away", code="image_service")

        self.source.before = fail
        self.assertRaises(Retryable, self.fetch, self.source.add(self.qcow2()))
        self.assertEqual([], self.names("_base"))


class TogetherTest(CacheTest):
    def test_threads_make_one_download(self):
        image = self.source.add(self.qcow2())
        self.source.before = lambda _path: time.sleep(0.3)
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(self.fetch(image))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([self.store.cached_image(image)] * 6, found)
        self.assertEqual([image.id], self.source.downloads)

    def test_processes_make_one_download(self):
        image = self.source.add(self.qcow2())
        log = self.file("log")

        def count(_path):
            with open(log, "ab", 0) as file:
                file.write(b"x")
            time.sleep(0.3)

        def child():
            self.source.before = count
            self.fetch(image)

        def children(number):
            """Fork ``number`` processes, each of which forks the next and then fetches."""
            if number > 1:
                pid = os.fork()
                if pid == 0:
                    children(number - 1)
                child()
                self.assertEqual(0, os.waitpid(pid, 0)[1])
            else:
                child()
            os._exit(0)

        self.assertEqual(0, self.in_child(lambda: children(4)))
        self.assertEqual(1, os.stat(log).st_size)
        self.assertIsNotNone(self.store.cached_image(image))

    def test_two_images_do_not_wait_for_each_other(self):
        other = self.source.add(self.raw(), disk_format="raw")
        image = self.source.add(self.qcow2())

        def fetch_other(_path):
            self.source.before = nothing
            self.fetch(other)

        self.source.before = fetch_other
        self.fetch(image)
        self.assertIsNotNone(self.store.cached_image(other))

    def test_waiting_has_an_end(self):
        image = self.source.add(self.qcow2())
        impatient = self.make_store(image_lock_timeout=1)

        def second(_path):
            self.assertFails(Retryable, "busy", impatient.fetch_image, image, self.source,
                             nothing, nothing)

        self.source.before = second
        self.fetch(image)

    def test_waiting_can_be_cancelled(self):
        image = self.source.add(self.qcow2())

        def stop():
            raise Aborted("told to stop")

        def second(_path):
            self.assertRaises(
                Aborted, self.store.fetch_image, image, self.source, nothing, stop
            )

        self.source.before = second
        self.fetch(image)


class FullDiskTest(CacheTest):
    """On a tmpfs of four MiB."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", self.path],
                              capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            self.skipTest(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.path], check=True, timeout=PATIENCE)

    def large(self):
        with open(self.raw(), "wb") as file:
            file.write(b"\x07" * 8 * 2**20)
        return file.name

    def test_seen_before_the_download(self):
        image = self.source.add(self.large(), disk_format="raw")
        error = self.assertFails(Retryable, "disk_full", self.fetch, image)
        self.assertIn(str(8 * 2**20), error.what)
        self.assertEqual([], self.source.downloads)

    def test_full_during_the_download(self):
        image = self.source.add(self.large(), disk_format="raw", size=0)
        self.assertFails(Retryable, "disk_full", self.fetch, image)
        self.assertEqual(1, len(self.source.downloads))
        self.assertEqual([], self.names("_base"))

    def test_full_during_conversion(self):
        self.store = self.make_store(force_raw_images=True)
        path = os.path.join(self.dir, "small.qcow2")
        qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", self.large(), path)
        self.assertFails(Retryable, "disk_full", self.fetch, self.source.add(path))
        self.assertEqual([], self.names("_base"))

    def test_full_while_disks_are_made(self):
        image = self.source.add(self.qcow2())
        base = self.fetch(image)
        guest = make_guest(image, config_drive=True)
        with open(os.path.join(self.path, "filler"), "wb") as file:
            room = os.statvfs(self.path)
            file.write(b"x" * (room.f_bavail * room.f_frsize - 100_000))
        self.assertFails(Retryable, "disk_full", self.store.create_disks, guest, base, {})
        self.assertEqual((), self.store.disks(guest.uuid))
        self.assertEqual([], self.leftovers())
        os.unlink(file.name)
        self.assertEqual(2, len(self.store.create_disks(guest, base, {})))


class SweepTest(CacheTest):
    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.base = self.fetch(self.image)

    def test_old_and_unused(self):
        self.make_old(self.image)
        removed = self.store.sweep([], DAY)
        self.assertEqual([self.base.path, self.base.path + ".json"], removed)
        self.assertEqual(([], []), (self.names("_base"), self.names("_locks")))

    def test_young(self):
        self.assertEqual([], self.store.sweep([], DAY))
        self.assertEqual(self.base, self.store.cached_image(self.image))

    def test_use_makes_young(self):
        self.make_old(self.image)
        self.store.cached_image(self.image)
        self.assertEqual([], self.store.sweep([], DAY))

    def test_in_use_by_id(self):
        self.make_old(self.image)
        self.assertEqual([], self.store.sweep([self.image.id], 0))
        self.assertEqual([], self.store.sweep([], DAY))  # its age begins now

    def test_in_use_by_a_disk(self):
        guest = make_guest(self.image)
        self.store.create_disks(guest, self.base, {})
        self.make_old(self.image)
        self.assertEqual([], self.store.sweep([], 0))
        self.store.quarantine_disks(guest.uuid)
        self.assertEqual([], self.store.sweep([], 0))
        os.utime(self.base.path, (0, 0))
        self.store = self.make_store(quarantine_days=0)
        self.assertEqual(3, len(self.store.sweep([], 0)))

    def test_in_use_by_a_disk_that_is_not_recorded_yet(self):
        guest = make_guest(self.image)
        self.store.create_disks(guest, self.base, {})
        os.unlink(os.path.join(self.path, guest.uuid, "disks.json"))
        self.assertEqual([], self.store.sweep([], 0))

    def test_unreadable_guest_protects_all_bases(self):
        uuid = make_guest().uuid
        os.makedirs(os.path.join(self.path, uuid, "disk"))  # reading it gives EISDIR
        self.assertEqual([], self.store.sweep([], 0))
        self.assertEqual(self.base, self.store.cached_image(self.image))

    def test_locked(self):
        lock = os.path.join(self.path, "_locks", cache.name_of(self.image.id) + ".lock")
        with locks.locked(lock, 1, shared=True):
            self.assertEqual([], self.store.sweep([], 0))
        self.assertEqual(2, len(self.store.sweep([], 0)))

    def test_half_made_downloads(self):
        other = self.source.add(self.raw(), disk_format="raw")

        def sweep_meanwhile(path):
            self.assertEqual([], self.store.sweep([self.image.id], 0))
            self.assertTrue(os.path.exists(path))

        def die():
            self.source.before = kill_self
            self.fetch(other)

        self.assertEqual(-9, self.in_child(die))
        [part] = self.leftovers()
        self.assertEqual([part], self.store.sweep([self.image.id], 0))
        self.source.before = sweep_meanwhile
        self.fetch(other)

    def test_half_made_downloads_go_while_guests_cannot_be_read(self):
        part = self.base_of(self.image) + ".part.4194305-1-0"
        files.write(part, b"x")
        os.makedirs(os.path.join(self.path, make_guest().uuid, "disk"))
        self.store.sweep([], 0)
        self.assertEqual([], self.leftovers())

    def test_unknown_files_are_left_alone(self):
        names = ["notes.txt", "0123456789012345678901234567890123456789", "ephemeral_20"]
        for name in names:
            path = os.path.join(self.path, "_base", name)
            files.write(path, b"")
            os.utime(path, (0, 0))
        self.store.sweep([], 0)
        self.assertEqual(sorted(names), self.names("_base"))

    def test_nothing_there_yet(self):
        self.path = os.path.join(self.dir, "none")
        self.assertEqual([], self.make_store().sweep([], 0))
        self.assertFalse(os.path.exists(self.path))

    def test_a_base_that_was_swept_meanwhile(self):
        guest = make_guest(self.image)
        self.store.sweep([], 0)
        self.assertFails(
            Retryable, "image_not_cached", self.store.create_disks, guest, self.base, {}
        )
        self.store.create_disks(guest, self.fetch(self.image), {})
