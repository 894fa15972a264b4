"""The volume port over Cinder's REST API, against a local server."""

import json

import fixtures
import testtools

from compute.errors import MagnetarError, NeedsOperator, Refused, Retryable, Unknown
from compute.services import chosen
from compute.services.cinder import Cinder
from tests.functional.cloud_support import RESET, SILENCE, TENANT, TOKEN, Cloud

VOLUME = {
    "id": "v1", "name": "data", "status": "in-use", "size": 4, "multiattach": False,
    "bootable": "true", "volume_type": "fast", "migration_status": None,
    "volume_image_metadata": {"image_id": "i1"}, "links": [],
    "attachments": [{"id": "v1", "volume_id": "v1", "attachment_id": "a1", "server_id": "g1",
                     "host_name": "h1", "device": "/dev/vdb", "attached_at": "2026-01-01"}],
}
FLAT = {"driver_volume_type": "iscsi", "target_iqn": "iqn.2026-01.example:t", "target_lun": 1,
        "target_portal": "192.0.2.1:3260", "access_mode": "rw", "encrypted": False,
        "qos_specs": None, "attachment_id": "a1"}
ATTACHMENT = {"id": "a1", "volume_id": "v1", "instance": "g1", "status": "attaching",
              "attach_mode": "rw", "connection_info": FLAT}
TENANTS = {"request_id": "req-1", "auth_token": "token-of-the-owner", "project_id": TENANT}
NOT_FOUND = (404, {"itemNotFound": {"code": 404, "message": "Volume v1 could not be found."}})
BAD = (400, {"badRequest": {"code": 400, "message": "Invalid volume: status must be available."}})


class CinderCase(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch("compute.services.rest.PAUSE", 0.01))
        self.cloud = self.useFixture(Cloud())
        self.cloud.when("GET", "/attachments/detail", (200, {"attachments": [
            {"id": "a2", "volume_id": "v1", "instance": "g1", "status": "reserved"},
            {"id": "a3", "volume_id": "v1", "instance": "g1", "status": "attaching"}]}))
        self.port = self.make()

    def make(self, **values):
        conf = self.cloud.configured("cinder", **{"volume_service": "cinder", **values})
        return chosen.volumes(conf, None)

    def error(self, kind, code, function, *args, **kwargs):
        error = self.assertRaises(MagnetarError, function, *args, **kwargs)
        self.assertEqual((kind, code), (type(error), error.code), error)
        return error


class VolumesTest(CinderCase):
    def test_show(self):
        self.cloud.when("GET", "/volumes/v1", (200, {"volume": VOLUME}))
        self.assertIsInstance(self.port, Cinder)
        self.assertEqual({
            "id": "v1", "name": "data", "status": "in-use", "size": 4, "volume_type": "fast",
            "migration_status": None, "multiattach": False, "bootable": True,
            "image_metadata": {"image_id": "i1"},
            "attachments": [
                {"attachment_id": "a1", "server_id": "g1", "host_name": "h1",
                 "device": "/dev/vdb"},
                {"attachment_id": "a2", "server_id": "g1", "host_name": None, "device": None}]},
            self.port.show({}, "v1"))
        asked, listed = self.cloud.asked
        self.assertEqual({"volume_id": ["v1"], "status": ["reserved"], "all_tenants": ["1"]},
                         listed.query)
        self.assertEqual((TOKEN, TOKEN, "volume 3.44"), tuple(asked.header(name) for name in (
            "X-Auth-Token", "X-Service-Token", "OpenStack-API-Version")))
        self.cloud.when("GET", "/volumes/v1", (200, {"volume": {
            **VOLUME, "status": "available", "attachments": []}}))
        self.assertEqual([], self.port.show({}, "v1")["attachments"])
        self.assertEqual((3, 1), (len(self.cloud.asked), self.cloud.tokens))
        self.error(Refused, "volume_not_found", self.port.show, {}, "v2")

    def test_create_belongs_to_the_owner_and_happens_once(self):
        self.cloud.when("GET", "/volumes", (200, {"volumes": []}), (200, {"volumes": [VOLUME]}))
        self.cloud.when("POST", "/volumes", (202, {"volume": VOLUME}))
        self.assertEqual("v1", self.port.create(TENANTS, 4, "root", image_id="i1",
                                                volume_type="fast"))
        [made] = self.cloud.of("POST")
        self.assertEqual(
            {"volume": {"size": 4, "name": "root", "imageRef": "i1", "volume_type": "fast",
                        "metadata": {"magnetar_request_id": "req-1"}}}, made.body)
        self.assertEqual(("token-of-the-owner", f"/volume/v3/{TENANT}/volumes"),
                         (made.header("X-Auth-Token"), made.target))
        self.assertEqual("v1", self.port.create(TENANTS, 4, "root", image_id="i1"))
        self.assertEqual(1, len(self.cloud.of("POST")))
        query = self.cloud.of("GET")[0].query
        self.assertEqual((["root"], {"magnetar_request_id": "req-1"}),
                         (query["name"], json.loads(query["metadata"][0])))

    def test_create_without_the_owners_token_or_image(self):
        self.cloud.when("GET", "/volumes", (200, {"volumes": []}))
        self.cloud.when("POST", "/volumes", (202, {"volume": VOLUME}), NOT_FOUND)
        self.port.create({"request_id": "r"}, 4, "root", source_volume_id="v0")
        self.assertEqual("v0", self.cloud.of("POST")[0].body["volume"]["source_volid"])
        self.assertEqual(TOKEN, self.cloud.of("POST")[0].header("X-Auth-Token"))
        self.error(Refused, "volume_not_found", self.port.create, {}, 1, "r", image_id="gone")

    def test_delete_is_quiet_when_it_is_gone(self):
        self.cloud.when("DELETE", "/volumes/v1", (202,), NOT_FOUND, BAD)
        self.port.delete({}, "v1")
        self.port.delete({}, "v1")
        error = self.error(Refused, "volume_unavailable", self.port.delete, {}, "v1")
        self.assertIn("status must be available", error.what)

    def test_actions(self):
        self.cloud.when("POST", "/volumes/v1/action", (202,), (200, {"save_volume_id": "v1"}))
        self.port.roll_detaching({}, "v1")
        self.assertEqual({"os-roll_detaching": {}}, self.cloud.of("POST")[0].body)
        self.cloud.when("GET", "/volumes/v1",
                        (200, {"volume": {**VOLUME, "migration_status": "migrating"}}),
                        (200, {"volume": VOLUME}))
        self.assertEqual({"save_volume_id": "v1"},
                         self.port.migrate_completion({}, "v1", "v2", False))
        self.assertEqual({"os-migrate_volume_completion": {"new_volume": "v2", "error": False}},
                         self.cloud.of("POST")[1].body)
        self.assertEqual({"save_volume_id": "v2"},
                         self.port.migrate_completion({}, "v1", "v2", False))
        self.assertEqual({"save_volume_id": "v1"},
                         self.port.migrate_completion({}, "v1", "v2", True))
        self.assertEqual(2, len(self.cloud.of("POST")))


class AttachmentsTest(CinderCase):
    def test_reserve_connect_complete_delete(self):
        self.cloud.when("POST", "/attachments", (200, {"attachment": {"id": "a1"}}))
        self.cloud.when("PUT", "/attachments/a1", (200, {"attachment": ATTACHMENT}))
        self.cloud.when("POST", "/attachments/a1/action", (204,))
        self.cloud.when("DELETE", "/attachments/a1", (200, {"attachments": []}))
        self.assertEqual("a1", self.port.attachment_create({}, "v1", "g1"))
        info = self.port.attachment_update({}, "a1", {"host": "h1", "initiator": "i"}, "/dev/vdb")
        data = {k: v for k, v in FLAT.items() if k != "driver_volume_type"}
        self.assertEqual(("iscsi", "v1", data),
                         (info["driver_volume_type"], info["serial"], info["data"]))
        self.port.attachment_complete({}, "a1")
        self.port.attachment_delete({}, "a1")
        self.assertEqual([
            {"attachment": {"volume_uuid": "v1", "instance_uuid": "g1", "connector": None}},
            {"attachment": {"connector": {"mountpoint": "/dev/vdb", "host": "h1",
                                          "initiator": "i"}}},
            {"os-complete": {}}, None], [asked.body for asked in self.cloud.asked])

    def test_what_cannot_be_had_is_refused(self):
        self.cloud.when("POST", "/attachments", BAD, NOT_FOUND)
        self.error(Refused, "volume_unavailable", self.port.attachment_create, {}, "v1", "g1")
        self.error(Refused, "volume_not_found", self.port.attachment_create, {}, "v1", "g1")
        for call in (lambda: self.port.attachment_update({}, "a9", {}, "/dev/vdb"),
                     lambda: self.port.attachment_complete({}, "a9")):
            self.error(Refused, "attachment_not_found", call)
        self.port.attachment_delete({}, "a9")

    def test_asked_again_it_says_the_same(self):
        self.cloud.when("PUT", "/attachments/a1", BAD)
        self.cloud.when("GET", "/attachments/a1", (200, {"attachment": ATTACHMENT}),
                        (200, {"attachment": {**ATTACHMENT, "status": "attached"}}),
                        (200, {"attachment": {**ATTACHMENT, "status": "reserved"}}))
        self.assertEqual("iscsi", self.port.attachment_update(
            {}, "a1", {}, "/dev/vdb")["driver_volume_type"])
        self.cloud.when("POST", "/attachments/a1/action", BAD)
        self.port.attachment_complete({}, "a1")
        self.error(Refused, "service_refused", self.port.attachment_complete, {}, "a1")
        self.error(Refused, "volume_unavailable", self.port.attachment_update, {}, "a1", {},
                   "/dev/vdb")


class TroubleTest(CinderCase):
    """What a timeout, a cut and an overload mean."""

    def test_a_write_without_an_answer_is_unknown_and_not_repeated(self):
        for answer in (SILENCE, RESET, (502, {}), (500, {})):
            self.cloud.asked.clear()
            self.cloud.when("POST", "/attachments", answer)
            self.error(Unknown, "service_silent", self.port.attachment_create, {}, "v1", "g1")
            self.assertEqual(1, len(self.cloud.of("POST")), answer)

    def test_what_does_no_harm_is_asked_again(self):
        self.cloud.when("GET", "/volumes/v1", SILENCE, RESET, (503, {}), (200, {"volume": VOLUME}))
        self.assertEqual("v1", self.port.show({}, "v1")["id"])
        self.cloud.when("DELETE", "/attachments/a1", (500, {}), RESET, (200, {}))
        self.port.attachment_delete({}, "a1")
        self.assertEqual(3, len(self.cloud.of("DELETE")))

    def test_in_the_end_it_is_told(self):
        self.cloud.when("GET", "/volumes/v1", (503, {}))
        self.error(Retryable, "service_unreachable", self.port.show, {}, "v1")
        self.assertEqual(4, len(self.cloud.asked))
        self.cloud.when("DELETE", "/attachments/a1", (500, {}))
        self.error(Unknown, "service_silent", self.port.attachment_delete, {}, "a1")

    def test_retries_can_be_switched_off(self):
        port = self.make(cinder__http_retries=0)
        self.cloud.when("GET", "/volumes/v1", (503, {}))
        self.error(Retryable, "service_unreachable", port.show, {}, "v1")
        self.assertEqual(1, len(self.cloud.asked))

    def test_a_service_that_is_not_there_was_not_asked(self):
        port = self.make(cinder__endpoint_template="http://127.0.0.1:1/v3")
        error = self.error(Retryable, "service_unreachable", port.attachment_create, {}, "v", "g")
        self.assertIn("127.0.0.1:1", error.what)

    def test_the_catalog_and_the_identity_service(self):
        port = self.make(cinder__catalog_info="blockstore::publicURL")
        self.error(Refused, "service_refused", port.show, {}, "v1")
        port = self.make(cinder__os_region_name="two")
        self.error(Refused, "service_refused", port.show, {}, "v1")
        port = self.make(cinder__catalog_info="volumev3::internalURL",
                         cinder__os_region_name="one")
        self.cloud.when("GET", "/volumes/v1", (200, {"volume": VOLUME}))
        self.assertEqual("v1", port.show({}, "v1")["id"])
        self.cloud.identity = (401, {"error": {"message": "The password is wrong."}})
        error = self.error(Refused, "service_refused", self.make().show, {}, "v1")
        self.assertIn("[cinder]", error.next)
        self.cloud.identity = (503, {"error": {"message": "Later."}})
        self.error(Retryable, "service_unreachable", self.make().show, {}, "v1")

    def test_what_is_not_configured_is_told_at_start(self):
        error = self.error(NeedsOperator, "not_configured", self.make, cinder__auth_type=None)
        self.assertIn("[cinder]", error.next)
