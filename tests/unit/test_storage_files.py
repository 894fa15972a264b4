import errno
import os

import fixtures
import testtools

from compute.errors import Failed, Retryable
from tests.unit.storage_support import in_child
from virt.storage import files


class Recorder:
    """Stands for the os module: writes down the calls that change the disk, passes on the rest.

    :param die_at: number of the call before which the process ends without any clean-up.
    """

    CALLS = ("open", "fsync", "replace", "unlink")

    def __init__(self, die_at=None):
        self.die_at, self.seen = die_at, []

    def __getattr__(self, name):
        function = getattr(os, name)
        if name not in self.CALLS:
            return function

        def call(*args, **kwargs):
            if len(self.seen) == self.die_at:
                os._exit(9)
            what = args[0]
            if name == "fsync":
                what = os.readlink(f"/proc/self/fd/{what}")
            self.seen.append((name, what, *args[1:2]))
            return function(*args, **kwargs)

        return call


class WriteTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.dir = os.path.realpath(self.useFixture(fixtures.TempDir()).path)
        self.path = os.path.join(self.dir, "state.json")

    def record(self, die_at=None):
        recorder = Recorder(die_at)
        self.useFixture(fixtures.MonkeyPatch("virt.storage.files.os", recorder))
        return recorder

    def test_contents_and_mode(self):
        files.write_json(self.path, {"a": 1}, mode=0o640)
        self.assertEqual({"a": 1}, files.read_json(self.path))
        self.assertEqual(0o640, os.stat(self.path).st_mode & 0o777)
        self.assertEqual(["state.json"], os.listdir(self.dir))

    def test_data_is_durable_before_the_name_and_the_name_at_the_end(self):
        seen = self.record().seen
        files.write(self.path, b"new")
        [(_, part, target)] = [call for call in seen if call[0] == "replace"]
        renamed = seen.index(("replace", part, target))
        self.assertIn(("fsync", part), seen[:renamed])
        self.assertIn(("fsync", self.dir), seen[renamed:])

    def test_publish_is_durable_in_the_same_order(self):
        part = files.part_name(self.path)
        with open(part, "wb") as file:
            file.write(b"large")
        seen = self.record().seen
        files.publish(part, self.path)
        renamed = seen.index(("replace", part, self.path))
        self.assertIn(("fsync", part), seen[:renamed])
        self.assertIn(("fsync", self.dir), seen[renamed:])

    def test_death_at_every_call_leaves_old_or_new(self):
        recorder = self.record()
        files.write(self.path, b"x")
        calls = len(recorder.seen)
        self.assertTrue(calls >= 5, recorder.seen)
        outcomes = []
        for die_at in range(calls):
            files.write(self.path, b"old")

            def die(die_at=die_at):
                files.os = Recorder(die_at)
                files.write(self.path, b"new contents")

            self.assertEqual(9, os.waitstatus_to_exitcode(in_child(die)))
            with open(self.path, "rb") as file:
                outcomes.append(file.read())
        self.assertEqual({b"old", b"new contents"}, set(outcomes))
        self.assertEqual(sorted(outcomes, key=lambda data: data != b"old"), outcomes)

    def test_failure_leaves_the_old_and_nothing_else(self):
        files.write(self.path, b"old")

        class Broken(Recorder):
            def __getattr__(self, name):
                if name == "fsync":
                    def fail(_fd):
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return fail
                return super().__getattr__(name)

        self.useFixture(fixtures.MonkeyPatch("virt.storage.files.os", Broken()))
        self.assertRaises(OSError, files.write, self.path, b"new")
        with open(self.path, "rb") as file:
            self.assertEqual(b"old", file.read())
        self.assertEqual(["state.json"], os.listdir(self.dir))

    def test_json_that_is_no_object(self):
        files.write(self.path, b"[1]")
        self.assertRaises(ValueError, files.read_json, self.path)
        files.write(self.path, b"\xff\xfe{")
        self.assertRaises(ValueError, files.read_json, self.path)


class PartTest(testtools.TestCase):
    def test_names_are_unlike_and_tell_their_process(self):
        first, second = files.part_name("/x/disk"), files.part_name("/x/disk")
        self.assertNotEqual(first, second)
        self.assertEqual(str(os.getpid()), files.PART.search(first)[1])
        self.assertFalse(files.is_dead_part(first))

    def test_parts_of_the_dead(self):
        pid, start, _ = files.PART.search(files.part_name("x")).groups()
        self.assertTrue(files.is_dead_part(f"x.part.{pid}-{int(start) + 1}-0"))
        self.assertTrue(files.is_dead_part("x.part.4194305-1-0"))
        self.assertFalse(files.is_dead_part("x.part.download"))

    def test_remove_parts_leaves_other_names(self):
        path = self.useFixture(fixtures.TempDir()).path
        for name in ("disk", "disk.part.1-2-3", "eph.part.1-2-3", "disk.part.old"):
            files.write(os.path.join(path, name), b"")
        os.makedirs(os.path.join(path, "disk.d.part.1-2-3", "sub"))
        files.remove_parts(path, "disk")
        self.assertEqual(["disk", "disk.part.old", "eph.part.1-2-3"], sorted(os.listdir(path)))


class CopyTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir()).path
        self.source, self.target = (os.path.join(self.dir, name) for name in "ab")

    def make_sparse(self):
        with open(self.source, "wb") as file:
            file.seek(3 * 1024 * 1024)
            file.write(b"middle" * 1000)
            file.truncate(64 * 1024 * 1024)

    def assertCopied(self):
        with open(self.source, "rb") as one, open(self.target, "rb") as two:
            self.assertEqual(one.read(), two.read())

    def test_holes_stay_holes(self):
        self.make_sparse()
        done = []
        files.copy(self.source, self.target, lambda count, total: done.append((count, total)))
        self.assertCopied()
        self.assertTrue(os.stat(self.target).st_blocks * 512 < 2**20)
        self.assertEqual((64 * 2**20, 64 * 2**20), done[-1])

    def test_file_systems_without_range_copy(self):
        self.make_sparse()

        def refuse(*_args):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        self.useFixture(fixtures.MonkeyPatch("os.copy_file_range", refuse))
        files.copy(self.source, self.target)
        self.assertCopied()

    def test_empty(self):
        files.write(self.source, b"")
        files.copy(self.source, self.target)
        self.assertCopied()

    def test_cancel_stops(self):
        self.make_sparse()

        def stop():
            raise Failed("stopped")

        self.assertRaises(Failed, files.copy, self.source, self.target, cancel=stop)


class ExplainedTest(testtools.TestCase):
    def raising(self, number):
        with files.explained("Making a disk"):
            raise OSError(number, os.strerror(number), "/there")

    def test_full_disk_and_quota_can_be_retried(self):
        for number in (errno.ENOSPC, errno.EDQUOT):
            error = self.assertRaises(Retryable, self.raising, number)
            self.assertEqual("disk_full", error.code)
            self.assertIn("/there", error.what)
            self.assertTrue(error.now and error.next)

    def test_others_fail(self):
        error = self.assertRaises(Failed, self.raising, errno.EROFS)
        self.assertEqual("storage_failed", error.code)
        self.assertIn("Read-only", error.what)
