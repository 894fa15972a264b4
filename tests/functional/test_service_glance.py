"""The image port over Glance's REST API, against a local server."""

import os

import fixtures
import testtools

from compute.errors import Aborted, Failed, MagnetarError, Refused, Retryable, Unknown
from compute.model.guest import Image
from compute.services import chosen
from compute.services.images import LocalImages
from tests.functional.cloud_support import RESET, SILENCE, Cloud

RECORD = {
    "id": "i1", "name": "tiny", "status": "active", "disk_format": "qcow2", "size": 6 << 20,
    "container_format": "bare", "min_disk": 1, "min_ram": 64, "os_hash_algo": "sha512",
    "os_hash_value": "00ff", "visibility": "public", "owner": "o", "tags": [], "protected": False,
    "hw_disk_bus": "scsi", "instance_uuid": "g1", "created_at": "2026-01-01T00:00:00Z",
    "file": "/v2/images/i1/file", "schema": "/v2/schemas/image", "checksum": None,
}
WAITING = {**RECORD, "status": "queued", "disk_format": None, "container_format": None,
           "size": None}
NOT_FOUND = (404, b"<html>404 Not Found</html>")


def nothing(*words):
    pass


class GlanceCase(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch("compute.services.rest.PAUSE", 0.01))
        self.cloud = self.useFixture(Cloud())
        self.port = self.make()
        self.path = os.path.join(self.useFixture(fixtures.TempDir()).path, "image")

    def make(self, **values):
        conf = self.cloud.configured("glance", **{"image_service": "glance", **values})
        return chosen.images(conf)

    def error(self, kind, code, function, *args):
        error = self.assertRaises(MagnetarError, function, *args)
        self.assertEqual((kind, code), (type(error), error.code), error)
        return error


class LookTest(GlanceCase):
    def test_the_option_chooses(self):
        self.assertIsInstance(self.make(image_service="local"), LocalImages)

    def test_show(self):
        self.cloud.when("GET", "/v2/images/i1", (200, RECORD))
        self.assertEqual(Image(
            id="i1", name="tiny", disk_format="qcow2", size=6 << 20, min_disk=1, min_ram=64,
            hash_algo="sha512", hash_value="00ff",
            properties={"hw_disk_bus": "scsi", "instance_uuid": "g1"}), self.port.show("i1"))
        self.error(Refused, "image_not_found", self.port.show, "i2")

    def test_status(self):
        for told, wanted in (("queued", "queued"), ("saving", "queued"), ("active", "active"),
                             ("pending_delete", None), ("deactivated", "deactivated")):
            self.cloud.when("GET", "/v2/images/i1", (200, {**RECORD, "status": told}))
            self.assertEqual(wanted, self.port.status({}, "i1"), told)
        self.assertIsNone(self.port.status({}, "i2"))

    def test_find_reads_all_pages_and_trusts_no_filter(self):
        other = {**RECORD, "id": "i3", "instance_uuid": "g2"}
        self.cloud.when("GET", "/v2/images", (200, {
            "images": [RECORD, other], "next": "/v2/images?marker=i3&instance_uuid=g1"}),
            (200, {"images": [{**RECORD, "id": "i4"}]}))
        found = self.port.find({}, {"instance_uuid": "g1"})
        self.assertEqual(["i1", "i4"], [image.id for image in found])
        first, second = self.cloud.asked
        self.assertEqual((["g1"], ["created_at:desc"], ["i3"]), (
            first.query["instance_uuid"], first.query["sort"], second.query["marker"]))

    def test_an_address_that_has_the_version_already(self):
        port = self.make(glance__endpoint_override=f"{self.cloud.url}/image/v2")
        self.cloud.when("GET", "/v2/images/i1", (200, RECORD))
        self.assertEqual("i1", port.show("i1").id)


class DownloadTest(GlanceCase):
    def test_bytes_come_with_holes(self):
        data = b"a" * (1 << 20) + bytes(4 << 20) + b"z" * (1 << 20)
        self.cloud.when("GET", "/v2/images/i1/file", (200, data))
        told = []
        self.port.download("i1", self.path, lambda *how: told.append(how), nothing)
        with open(self.path, "rb") as file:
            self.assertEqual(data, file.read())
        self.assertEqual((6 << 20, 6 << 20), told[-1])

    def test_zeros_at_the_end_count(self):
        self.cloud.when("GET", "/v2/images/i1/file", (200, bytes(3 << 20)))
        self.port.download("i1", self.path, nothing, nothing)
        self.assertEqual((3 << 20, 0), (os.stat(self.path).st_size, os.stat(self.path).st_blocks))

    def test_what_was_cut_is_retryable(self):
        self.cloud.when("GET", "/v2/images/i1/file",
                        (200, b"short", {"Content-Length": "100", "Connection": "close"}))
        self.error(Retryable, "service_unreachable", self.port.download, "i1", self.path, nothing,
                   nothing)

    def test_what_has_no_bytes_or_is_gone(self):
        self.cloud.when("GET", "/v2/images/i1/file", (204,))
        self.error(Failed, "image_unacceptable", self.port.download, "i1", self.path, nothing,
                   nothing)
        self.error(Refused, "image_not_found", self.port.download, "i2", self.path, nothing,
                   nothing)

    def test_it_can_be_stopped(self):
        def stop():
            raise Aborted("Stop.")

        self.cloud.when("GET", "/v2/images/i1/file", (200, b"data"))
        self.assertRaises(Aborted, self.port.download, "i1", self.path, nothing, stop)


class UploadTest(GlanceCase):
    def setUp(self):
        super().setUp()
        with open(self.path, "wb") as file:
            file.write(b"snapshot" * 300_000)
        self.cloud.when("GET", "/v2/images/i1", (200, WAITING))
        self.cloud.when("PATCH", "/v2/images/i1", (200, WAITING))

    def upload(self, cancel=nothing):
        self.port.upload({}, "i1", self.path, "qcow2", nothing, cancel)

    def test_formats_first_then_bytes(self):
        self.cloud.when("PUT", "/v2/images/i1/file", (204,))
        self.upload()
        patch, put = self.cloud.asked[1:]
        self.assertEqual(
            [{"op": "replace", "path": "/disk_format", "value": "qcow2"},
             {"op": "replace", "path": "/container_format", "value": "bare"}], patch.body)
        self.assertEqual("application/openstack-images-v2.1-json-patch",
                         patch.header("Content-Type"))
        self.assertEqual((b"snapshot" * 300_000, "application/octet-stream"),
                         (put.raw, put.header("Content-Type")))

    def test_what_is_active_is_left_alone(self):
        self.cloud.when("GET", "/v2/images/i1", (200, RECORD))
        self.upload()
        self.assertEqual(["GET"], [asked.method for asked in self.cloud.asked])

    def test_without_an_answer_it_is_unknown(self):
        for answer in (SILENCE, RESET):
            self.cloud.when("PUT", "/v2/images/i1/file", answer)
            self.error(Unknown, "service_silent", self.upload)
        self.assertEqual(2, len(self.cloud.of("PUT")))

    def test_an_earlier_attempt_is_waited_for(self):
        self.cloud.when("PUT", "/v2/images/i1/file", (409, {"message": "Image status is saving."}))
        self.error(Failed, "image_unacceptable", self.upload)
        self.cloud.when("GET", "/v2/images/i1", (200, {**WAITING, "status": "saving"}))
        self.error(Retryable, "service_unreachable", self.upload)

    def test_it_can_be_stopped_while_it_goes_on(self):
        def stop():
            raise Aborted("Stop.")

        self.cloud.when("PUT", "/v2/images/i1/file", (204,))
        self.assertRaises(Aborted, self.upload, stop)

    def test_remove_is_quiet_when_it_is_gone(self):
        self.cloud.when("DELETE", "/v2/images/i1", (204,), NOT_FOUND,
                        (403, {"message": "Image i1 is protected and cannot be deleted."}))
        self.port.remove({}, "i1")
        self.port.remove({}, "i1")
        error = self.error(Refused, "service_refused", self.port.remove, {}, "i1")
        self.assertIn("protected", error.what)

    def test_retries_can_be_switched_off(self):
        self.cloud.asked.clear()
        self.cloud.when("GET", "/v2/images/i1", (503, {}))
        port = self.make(glance__num_retries=0)
        self.error(Retryable, "service_unreachable", port.show, "i1")
        self.assertEqual(1, len(self.cloud.asked))
