"""The embedded volume service: files, states and attachments."""

import json
import os
import pathlib
import subprocess

from oslo_config import cfg

from compute.errors import Refused, Retryable
from control import volume_states
from db.control import volumes
from tests.functional.volume_support import CONNECTOR, VolumesTest, port
from tests.modes import DATABASE, once
from tests.waiting import wait_until

GIB = 1 << 30
ISCSI = {"driver_volume_type": "iscsi",
         "data": {"target_iqn": "iqn.2026-01.example:t", "target_portal": "192.0.2.1:3260",
                  "target_lun": 1, "auth_password": "secret"}}


def path_of(test, volume):
    return pathlib.Path(test.dir, "volumes", volume["id"])


class FilesTest(VolumesTest):
    def test_an_empty_volume_is_a_sparse_file(self):
        made = self.volume(size=3, description="for tests", properties={"a": "b"})
        self.assertEqual(("available", 3, "raw", "local", {"a": "b"}, "for tests"), tuple(
            made[name] for name in ("status", "size", "disk_format", "driver", "properties",
                                    "description")))
        stat = path_of(self, made).stat()
        self.assertEqual((3 * GIB, 0, 0o600), (stat.st_size, stat.st_blocks, stat.st_mode & 0o777))
        self.control.volume_delete("data")
        self.assertFalse(path_of(self, made).exists())
        self.assertEqual([], self.control.volume_list())
        self.refused("volume_not_found", self.control.volume_show, "data")

    def test_qcow2_is_what_it_says(self):
        cfg.CONF.set_override("volume_format", "qcow2", "control")
        self.addCleanup(cfg.CONF.clear_override, "volume_format", "control")
        made = self.volume(size=2)
        info = json.loads(subprocess.check_output(
            ["qemu-img", "info", "--output=json", path_of(self, made)]))
        self.assertEqual(("qcow2", 2 * GIB, "qcow2"),
                         (info["format"], info["virtual-size"], made["disk_format"]))
        self.control.volume_set("data", size=3)
        info = json.loads(subprocess.check_output(
            ["qemu-img", "info", "--output=json", path_of(self, made)]))
        self.assertEqual(3 * GIB, info["virtual-size"])

    def test_from_an_image_it_is_bootable_and_remembers_it(self):
        source = os.path.join(self.dir, "pattern.raw")
        pathlib.Path(source).write_bytes(b"boot" * 1024)
        self.control.image_create("os", source, disk_format="raw", min_disk=1,
                                  properties={"hw_disk_bus": "scsi"})
        made = self.volume(size=2, image="os", disk_format="qcow2")
        self.assertEqual("downloading", made["status"])
        done = self.until("available")
        self.assertTrue(done["bootable"])
        raw = os.path.join(self.dir, "raw")
        subprocess.check_call(["qemu-img", "convert", "-O", "raw", path_of(self, made), raw])
        self.assertEqual((b"boot" * 1024, 2 * GIB),
                         (pathlib.Path(raw).read_bytes()[:4096], os.stat(raw).st_size))

    def test_a_volume_that_is_too_small_for_its_image_is_refused(self):
        source = os.path.join(self.dir, "large.raw")
        pathlib.Path(source).write_bytes(b"x")
        self.control.image_create("large", source, disk_format="raw", min_disk=2)
        self.refused("volume_too_small", self.volume, size=1, image="large")
        self.assertEqual(2, self.volume(size=None, image="large")["size"])
        self.until("available")

    def test_a_copy_has_the_contents_and_keeps_its_source_from_use(self):
        source = self.volume("source", bootable=True)
        with path_of(self, source).open("r+b") as file:
            file.write(b"copied")
        made = self.volume("copy", None, source="source")
        done = self.until("available", "copy")
        self.assertEqual(b"copied", path_of(self, made).read_bytes()[:6])
        self.assertEqual((1, True, source["id"]),
                         (done["size"], done["bootable"], done["source_volume"]))
        self.until("available", "source")
        self.volume("two", 2)
        self.refused("volume_too_small", self.volume, "less", 1, source="two")

    def test_a_copy_that_cannot_be_made_says_why(self):
        source = self.volume("source")
        path_of(self, source).unlink()
        self.volume("copy", None, source="source")
        failed = self.until("error", "copy")
        self.assertIn("copy", failed["message"])
        self.until("available", "source")
        self.control.volume_delete("copy")
        self.control.volume_delete("source")
        self.assertEqual([], self.control.volume_list())

    def test_more_than_there_is_room_for_is_not_promised(self):
        error = self.assertRaises(Retryable, self.volume, size=1 << 20)
        self.assertEqual("disk_full", error.code)
        self.assertEqual([], self.control.volume_list())
        cfg.CONF.set_override("max_over_subscription_ratio", 1e9, "control")
        self.addCleanup(cfg.CONF.clear_override, "max_over_subscription_ratio", "control")
        cfg.CONF.set_override("volume_dir", os.path.join(self.dir, "elsewhere"), "control")
        self.addCleanup(cfg.CONF.clear_override, "volume_dir", "control")
        control = self.control.__class__(cfg.CONF, self.transport, self.control.store.engine,
                                         self.images)
        made = control.volume_create("huge", 4096)
        self.assertEqual(4096 * GIB, os.stat(f"{self.dir}/elsewhere/{made['id']}").st_size)
        error = self.assertRaises(Refused, control.volume_set, "huge", size=1)
        self.assertEqual("volume_too_small", error.code)

    def test_bad_requests_change_nothing(self):
        for code, words in (
            ("bad_value", {"size": None}), ("bad_value", {"size": 0}), ("bad_name", {"name": " "}),
            ("bad_value", {"disk_format": "vmdk"}), ("image_not_found", {"image": "nope"}),
            ("volume_not_found", {"source": "nope"}),
            ("bad_value", {"connection_info": {"data": {}}}),
            ("bad_value", {"connection_info": ISCSI, "image": "tiny"}),
        ):
            self.refused(code, self.control.volume_create, **{"name": "data", "size": 1, **words})
        self.assertEqual([], self.control.volume_list())
        self.volume()
        self.refused("bad_value", self.control.volume_set, "data", state="reserved")

    def test_the_same_request_makes_one_volume(self):
        first = self.volume(request_id="req-1")
        self.assertEqual(first, self.volume(request_id="req-1"))
        self.assertNotEqual(first["id"], self.volume(request_id="req-2")["id"])
        self.refused("ambiguous", self.control.volume_show, "data")

    def test_what_was_registered_is_not_shown_and_not_touched(self):
        made = self.volume(connection_info=ISCSI)
        self.assertEqual(("iscsi", None), (made["driver"], made["disk_format"]))
        self.assertNotIn("secret", json.dumps(self.control.volume_list()))
        self.control.volume_delete("data")
        self.assertFalse(path_of(self, made).exists())

    def test_unfinished_work_goes_on_at_the_next_start(self):
        image = self.control.image_show("tiny")["id"]
        source, doomed = self.volume("source"), self.volume("doomed")
        growing = self.volume("growing")
        with self.control.store.begin() as connection:
            for uuid, status in ((source["id"], "uploading"), (doomed["id"], "deleting"),
                                 (growing["id"], "extending")):
                volumes.save(connection, uuid, {"status": status})
            row = {"size": 1, "format": "raw"}
            half = [volumes.create(connection, {**row, "name": "half", "status": "downloading",
                                                "source_image": image}),
                    volumes.create(connection, {**row, "name": "copy", "status": "creating",
                                                "source_volume": source["id"]})]
        os.truncate(path_of(self, growing), 2 * GIB)
        self.control.stop()
        self.control = self.start_control()
        for name in ("half", "copy", "source", "growing"):
            self.until("available", name)
        wait_until(lambda: len(self.control.volume_list()) == 4)
        self.assertEqual(2, self.control.volume_show("growing")["size"])
        for row in half:
            self.assertEqual(GIB, path_of(self, {"id": row["uuid"]}).stat().st_size)


@once(DATABASE)
class StatesTest(VolumesTest):
    """The agent's port: Cinder's states."""

    def setUp(self):
        super().setUp()
        self.port = port(self.host())

    def test_from_reserved_to_in_use_and_back(self):
        uuid = self.volume()["id"]
        attachment = self.port.attachment_create({}, uuid, "guest")
        self.assertEqual("reserved", self.status())
        self.refused("volume_unavailable", self.port.attachment_create, {}, uuid, "other")
        info = self.port.attachment_update({}, attachment, CONNECTOR, "/dev/vdb")
        self.assertEqual(("local", uuid, "rw"), (info["driver_volume_type"], info["serial"],
                                                 info["data"]["access_mode"]))
        self.assertEqual(info, self.port.attachment_update({}, attachment, CONNECTOR, "/dev/vdb"))
        self.assertTrue(os.path.exists(info["data"]["device_path"]))
        self.assertEqual("attaching", self.status())
        self.port.attachment_complete({}, attachment)
        self.assertEqual("in-use", self.status())
        self.assertEqual(
            [{"attachment_id": attachment, "server_id": "guest", "host_name": "host1",
              "device": "/dev/vdb"}], self.port.show({}, uuid)["attachments"])
        self.refused("volume_in_use", self.port.delete, {}, uuid)
        self.port.attachment_delete({}, attachment)
        self.port.attachment_delete({}, attachment)
        self.assertEqual("available", self.status())
        self.refused("attachment_not_found", self.port.attachment_complete, {}, attachment)
        self.refused("attachment_not_found", self.port.attachment_update, {}, attachment,
                     CONNECTOR, "/dev/vdb")
        self.port.delete({}, uuid)
        self.port.delete({}, uuid)
        self.refused("volume_not_found", self.port.show, {}, uuid)

    def test_a_guest_that_moves_has_it_twice_for_a_while(self):
        uuid = self.volume()["id"]
        first = self.port.attachment_create({}, uuid, "guest")
        self.port.attachment_update({}, first, CONNECTOR, "/dev/vdb")
        self.port.attachment_complete({}, first)
        second = self.port.attachment_create({}, uuid, "guest")
        self.port.attachment_update({}, second, {**CONNECTOR, "host": "host2"}, "/dev/vdb")
        self.assertEqual("in-use", self.status())
        self.port.attachment_delete({}, first)
        self.assertEqual("attaching", self.status())
        self.port.attachment_complete({}, second)
        self.assertEqual("in-use", self.status())

    def test_several_guests_share_what_may_be_shared(self):
        uuid = self.volume(multiattach=True)["id"]
        taken = [self.port.attachment_create({}, uuid, guest) for guest in ("one", "two")]
        for attachment in taken:
            info = self.port.attachment_update({}, attachment, CONNECTOR, "/dev/vdb")
            self.assertTrue(info["multiattach"])
            self.port.attachment_complete({}, attachment)
        with self.control.store.begin() as connection:
            volume_states.begin_detaching(connection, uuid)
        self.port.attachment_delete({}, taken[0])
        self.assertEqual("in-use", self.status())
        self.port.attachment_delete({}, taken[1])
        self.assertEqual("available", self.status())

    def test_registered_ones_are_told_with_their_serial(self):
        uuid = self.volume(connection_info=ISCSI)["id"]
        attachment = self.port.attachment_create({}, uuid, "guest")
        info = self.port.attachment_update({}, attachment, CONNECTOR, "/dev/vdb")
        self.assertEqual(("iscsi", uuid, "192.0.2.1:3260", "secret"), (
            info["driver_volume_type"], info["serial"], info["data"]["target_portal"],
            info["data"]["auth_password"]))

    def test_created_by_an_agent_once_for_each_name(self):
        image = self.control.image_show("tiny")["id"]
        made = self.port.create({}, 1, "root", image_id=image)
        wait_until(lambda: self.port.show({}, made)["status"] == "available")
        told = self.port.show({}, made)
        self.assertEqual((1, True, False, image), (
            told["size"], told["bootable"], told["multiattach"],
            told["image_metadata"]["image_id"]))
        self.refused("image_not_found", self.port.create, {}, 1, "x", image_id="nope")

    def test_swapped_volumes_keep_their_ids(self):
        self.assertEqual({"save_volume_id": "new"},
                         self.port.migrate_completion({}, "old", "new", False))
        self.assertEqual({"save_volume_id": "old"},
                         self.port.migrate_completion({}, "old", "new", True))
