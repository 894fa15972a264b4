"""Images that a host fills: queued until they are whole, and never changed afterwards."""

import os

from compute import concurrency
from compute.errors import Aborted, Failed, Refused
from tests.unit.storage_support import in_child, kill_self, nothing
from tests.unit.test_images_local import DATA, ImagesTest
from virt.storage import files

CONTEXT = {}


class QueuedTest(ImagesTest):
    def setUp(self):
        super().setUp()
        self.file = os.path.join(self.dir, "disk")
        with open(self.file, "wb") as file:
            file.write(DATA)
        self.image = self.images.reserve(name="copy", min_disk=2, min_ram=64,
                                         properties={"instance_uuid": "u", "image_type": "x"})

    def upload(self, progress=nothing, cancel=nothing, format="raw", path=None):
        self.images.upload(CONTEXT, self.image.id, path or self.file, format, progress, cancel)

    def status(self):
        return self.images.status(CONTEXT, self.image.id)

    def test_queued_then_active(self):
        self.assertEqual(("queued", [self.image]), (self.status(), self.images.list()))
        self.assertFails(Refused, "image_not_found", self.download, self.image.id)
        self.upload()
        made = self.images.show(self.image.id)
        self.assertEqual(
            ("active", "copy", "raw", len(DATA), 2, 64, self.image.properties),
            (made.status, made.name, made.disk_format, made.size, made.min_disk, made.min_ram,
             made.properties))
        self.assertEqual(DATA, self.download(self.image.id))
        self.assertEqual([self.image.id, self.image.id + ".json"], self.names())

    def test_never_filled_twice(self):
        self.upload()
        with open(self.file, "wb") as file:
            file.write(b"other")
        self.upload()
        self.assertEqual(DATA, self.download(self.image.id))

    def test_stopped_it_is_as_it_was(self):
        def stop():
            raise Aborted("told to stop")

        self.assertRaises(Aborted, self.upload, cancel=stop)
        self.assertFails(Failed, "storage_failed", self.upload, path="/nowhere")
        self.assertFails(Refused, "image_unacceptable", self.upload, format="qcow2")
        self.assertEqual(("queued", [self.image.id + ".json"]), (self.status(), self.names()))
        self.upload()
        self.assertEqual("active", self.status())

    def test_killed_in_the_middle_it_is_filled_again(self):
        if concurrency.mode() == "eventlet":
            self.skipTest("a forked process has no native threads under eventlet")
        for moment in ("write_json", "publish"):
            status = in_child(lambda moment=moment: self.killed_at(moment))
            self.assertEqual(-9, os.waitstatus_to_exitcode(status))
            self.assertEqual("queued", self.status())
        self.upload()
        self.assertEqual(("active", DATA), (self.status(), self.download(self.image.id)))
        self.assertEqual([self.image.id, self.image.id + ".json"], self.names())

    def killed_at(self, moment):
        setattr(files, moment, lambda *args, **kwargs: kill_self())
        self.upload()

    def test_a_queued_one_is_no_leftover(self):
        os.utime(os.path.join(self.path, self.image.id + ".json"), (0, 0))
        self.create()
        self.assertEqual("queued", self.status())

    def test_found_by_properties_the_newest_first(self):
        other = self.images.reserve(name="other", min_disk=0, min_ram=0,
                                    properties={"instance_uuid": "u"})
        self.create()
        os.utime(os.path.join(self.path, other.id + ".json"), (0, 0))
        self.assertEqual((self.image, other), self.images.find(CONTEXT, {"instance_uuid": "u"}))
        self.assertEqual((self.image,), self.images.find(CONTEXT, {"image_type": "x"}))

    def test_one_id_once(self):
        self.assertFails(Refused, "image_exists", self.images.reserve, name="again", min_disk=0,
                         min_ram=0, properties={}, image_id=self.image.id)

    def test_removed(self):
        self.upload()
        for _ in range(2):
            self.images.remove(CONTEXT, self.image.id)
        self.assertEqual(([], None), (self.names(), self.status()))
        self.images.remove(CONTEXT, "../disk")
        self.assertTrue(os.path.exists(self.file))
