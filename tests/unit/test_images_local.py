import errno
import hashlib
import io
import os
import subprocess

import fixtures
import testtools

from compute import concurrency
from compute.errors import Aborted, Failed, Refused, Retryable
from compute.services import images
from tests.unit.storage_support import in_child, kill_self, nothing
from tests.waiting import PATIENCE
from virt.storage import files

DATA = os.urandom(3 * 1024 * 1024 + 17)


class ImagesTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir()).path
        self.path = os.path.join(self.dir, "images")
        self.images = images.LocalImages(self.path)

    def create(self, data=DATA, **fields):
        return self.images.create(io.BytesIO(data), **{"disk_format": "raw"} | fields)

    def names(self):
        return sorted(os.listdir(self.path)) if os.path.isdir(self.path) else []

    def download(self, image_id, progress=nothing, cancel=nothing):
        target = os.path.join(self.dir, "target")
        self.images.download(image_id, target, progress, cancel)
        with open(target, "rb") as file:
            return file.read()

    def assertFails(self, kind, code, function, *args, **kwargs):
        error = self.assertRaises(kind, function, *args, **kwargs)
        self.assertEqual(code, error.code)
        self.assertTrue(error.what and error.now and error.next, error.to_dict())
        return error


class CreateTest(ImagesTest):
    def test_from_a_stream(self):
        seen = []
        image = self.create(
            name="debian", disk_format="raw", min_disk=2, min_ram=64,
            properties={"hw_disk_bus": "virtio"}, progress=lambda *args: seen.append(args),
        )
        self.assertEqual(
            ("debian", "raw", "bare", len(DATA), 2, 64, "sha512",
             hashlib.sha512(DATA).hexdigest(), {"hw_disk_bus": "virtio"}),
            (image.name, image.disk_format, image.container_format, image.size, image.min_disk,
             image.min_ram, image.hash_algo, image.hash_value, image.properties),
        )
        self.assertEqual(image, self.images.show(image.id))
        self.assertEqual(image, images.LocalImages(self.path).show(image.id))
        self.assertEqual((len(DATA), 0), seen[-1])
        self.assertEqual([image.id, image.id + ".json"], self.names())

    def test_from_a_path(self):
        path = os.path.join(self.dir, "disk.img")
        with open(path, "wb") as file:
            file.write(DATA)
        image = self.images.create(path, disk_format="raw", image_id="my-image_1")
        self.assertEqual("my-image_1", image.id)
        self.assertEqual(DATA, self.download("my-image_1"))

    def test_from_a_pipe(self):
        with subprocess.Popen(["head", "-c", "2000000", "/dev/zero"],
                              stdout=subprocess.PIPE) as process:
            image = self.images.create(process.stdout, disk_format="raw")
        self.assertEqual(2_000_000, image.size)
        self.assertEqual(hashlib.sha512(bytes(2_000_000)).hexdigest(), image.hash_value)
        self.assertEqual(bytes(2_000_000), self.download(image.id))

    def test_zeros_take_no_room(self):
        image = self.create(b"a" + bytes(20 * 2**20))
        self.assertEqual(20 * 2**20 + 1, image.size)
        stored = os.stat(os.path.join(self.path, image.id))
        self.assertEqual(image.size, stored.st_size)
        self.assertTrue(stored.st_blocks * 512 <= 2**21)

    def unacceptable(self, words, data, **fields):
        error = self.assertFails(Refused, "image_unacceptable", self.create, data, name="mine",
                                 **fields)
        self.assertIn("Image mine cannot be used", error.what)
        self.assertIn(words, error.what)
        self.assertEqual(([], []), (self.images.list(), os.listdir(self.path)))

    def qcow2(self, *options):
        path = os.path.join(self.useFixture(fixtures.TempDir()).path, "image")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"],
                       check=True, cwd=os.path.dirname(path))
        with open(path, "rb") as file:
            return file.read()

    def test_what_no_host_would_boot_is_refused_at_once_and_not_kept(self):
        self.unacceptable("it holds no bytes", b"")
        self.unacceptable("looks like no known format", os.urandom(4096), disk_format="qcow2")
        self.unacceptable("declared as raw but looks like qcow2", self.qcow2())
        backed = self.qcow2("-u", "-b", "/etc/passwd", "-F", "raw")
        self.unacceptable("it has a backing file", backed, disk_format="qcow2")
        outside = self.qcow2("-o", "data_file=other.raw")
        self.unacceptable("it has an external data file", outside, disk_format="qcow2")

    def test_what_a_host_boots_is_kept(self):
        self.assertEqual("qcow2", self.create(self.qcow2(), disk_format="qcow2").disk_format)
        self.assertEqual(4096, self.create(bytes(4096)).size)

    def test_what_no_host_here_takes_is_kept_for_others(self):
        self.assertEqual("vmdk", self.create(b"x", disk_format="vmdk").disk_format)

    def test_refused(self):
        for fields in ({"image_id": "../x"}, {"image_id": "a.json"}, {"image_id": "a/b"},
                       {"image_id": "-x"}, {"image_id": "x" * 65}, {"disk_format": "tar"},
                       {"disk_format": ""}, {"min_disk": -1}, {"min_ram": -1}):
            self.assertFails(Refused, "invalid_image", self.create, **fields)
        self.assertEqual([], self.names())

    def test_exists(self):
        image = self.create()
        self.assertFails(Refused, "image_exists", self.create, b"other", image_id=image.id)
        self.assertEqual(DATA, self.download(image.id))

    def test_unreadable_file(self):
        for path in ("/nowhere/disk.img", self.dir):
            error = self.assertFails(Refused, "image_file_unreadable", self.images.create, path,
                                     disk_format="raw")
            self.assertIn(path, error.what)
        self.assertEqual([], self.names())

    def test_cancel_and_errors_leave_nothing(self):
        def stop():
            raise Aborted("told to stop")

        class Broken(io.BytesIO):
            def read(self, size=-1):
                raise OSError(errno.EIO, "Input/output error")

        self.assertRaises(Aborted, self.create, cancel=stop)
        self.assertFails(Failed, "storage_failed", self.images.create, Broken(),
                         disk_format="raw")
        self.assertEqual([], self.names())

    def test_full_disk(self):
        os.mkdir(self.path)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", self.path],
                              capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            self.skipTest(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.path], check=True, timeout=PATIENCE)
        self.assertFails(Retryable, "disk_full", self.create)
        self.assertEqual([], self.names())

    def test_killed_in_the_middle(self):
        if concurrency.mode() == "eventlet":
            self.skipTest("a forked process has no native threads under eventlet")
        status = in_child(lambda: self.create(progress=lambda *_: kill_self()))
        self.assertEqual(-9, os.waitstatus_to_exitcode(status))
        [part] = self.names()
        self.assertEqual([], self.images.list())
        image = self.create()
        self.assertEqual([image.id, image.id + ".json"], self.names())

    def test_description_without_bytes(self):
        os.makedirs(self.path)
        lone = os.path.join(self.path, "lone.json")
        files.write_json(lone, {"id": "lone", "disk_format": "raw", "size": 1})
        self.assertFails(Refused, "image_not_found", self.images.show, "lone")
        self.create(b"x")
        self.assertTrue(os.path.exists(lone))  # someone may be about to bring the bytes
        os.utime(lone, (0, 0))
        self.create(b"x")
        self.assertFalse(os.path.exists(lone))


class ShowTest(ImagesTest):
    def test_unknown_and_malformed_ids(self):
        with open(os.path.join(self.dir, "secret"), "wb") as file:
            file.write(b"x")
        files.write_json(os.path.join(self.dir, "secret.json"), {"id": "secret"})
        for image_id in ("none", "", ".", "..", "../secret", "/etc/passwd", "a\0b", "a.json"):
            for function in (self.images.show, self.images.delete, self.download):
                error = self.assertFails(Refused, "image_not_found", function, image_id)
                self.assertIn(repr(image_id), error.what)

    def test_damaged_description(self):
        image, other = self.create(), self.create()
        path = os.path.join(self.path, image.id + ".json")
        for data in (b"", b"{", b"[]", b"{}", b'{"id": "another", "disk_format": "raw"}', b"\xff",
                     b'{"id": "%s", "disk_format": "raw"}' % image.id.encode(),
                     b'{"id": "%s", "disk_format": "raw", "size": "x"}' % image.id.encode(),
                     b'{"id": "%s", "disk_format": "raw", "size": 1, "properties": 7}'
                     % image.id.encode()):
            files.write(path, data)
            error = self.assertFails(Failed, "image_unreadable", self.images.show, image.id)
            self.assertIn(path, error.what)
            self.assertEqual([other], self.images.list())
        self.images.delete(image.id)

    def test_list_is_by_age(self):
        self.assertEqual([], self.images.list())
        made = [self.create(b"x", name=f"image {number}") for number in range(3)]
        for number, image in enumerate(made):
            os.utime(os.path.join(self.path, image.id), (1000 - number,) * 2)
        files.write(os.path.join(self.path, "README.txt"), b"not an image")
        self.assertEqual(made[::-1], self.images.list())

    def test_delete(self):
        image, other = self.create(), self.create()
        self.images.delete(image.id)
        self.assertEqual([other.id, other.id + ".json"], self.names())
        self.assertFails(Refused, "image_not_found", self.images.delete, image.id)


class DownloadTest(ImagesTest):
    def test_bytes_and_progress(self):
        image = self.create()
        seen = []
        self.assertEqual(DATA, self.download(image.id, lambda *args: seen.append(args)))
        self.assertEqual((len(DATA), len(DATA)), seen[-1])

    def test_cancel(self):
        def stop():
            raise Aborted("told to stop")

        self.assertRaises(Aborted, self.download, self.create().id, cancel=stop)

    def test_no_room_at_the_target(self):
        image = self.create()
        error = self.assertFails(Failed, "storage_failed", self.images.download, image.id,
                                 "/nowhere/target", nothing, nothing)
        self.assertIn("/nowhere/target", error.what)
