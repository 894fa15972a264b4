"""The embedded volume service: files, states, attachments; servers and their volumes."""

import json
import os
import pathlib
import subprocess

from oslo_config import cfg

from compute.errors import Failed, MagnetarError, Refused, Retryable
from compute.rpc.primitives import data, objects
from control import volume_states
from db.control import records, volumes
from tests.functional.control_support import FAR
from tests.functional.volume_support import (
    CONNECTOR,
    VolumesTest,
    build,
    port,
    refuse_to_let_go,
)
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


class ServerVolumesTest(VolumesTest):
    def setUp(self):
        super().setUp()
        self.agent1 = self.host()
        self.server = self.active("web")

    def add(self, **more):
        self.volume()
        made = self.control.server_add_volume("web", "data", **more)
        self.until("in-use")
        return made

    def events(self, request_id):
        return [(action["action"], event["event"], event["result"])
                for action in self.control.server_actions("web")
                if action["request_id"] == request_id for event in action["events"]]

    def ended(self, request_id):
        wait_until(lambda: any(result for *_, result in self.events(request_id)))
        return self.events(request_id)

    def test_attach_and_detach_as_nova_does(self):
        made = self.add(device="/dev/vdc", tag="db", delete_on_termination=True)
        [(context, args)] = self.agent1.got("attach_volume")
        bdm = data(args["bdm"])
        self.assertEqual(
            (self.server["id"], "/dev/vdc", "db", made["attachment_id"], True, 1),
            tuple(bdm[name] for name in ("instance_uuid", "device_name", "tag", "attachment_id",
                                         "delete_on_termination", "volume_size")))
        [(_, asked)] = self.agent1.got("reserve_block_device_name")
        self.assertEqual({"instance", "device", "volume_id", "disk_bus", "device_type", "tag",
                          "multiattach"}, set(asked))
        self.assertEqual([("attach_volume", "compute_attach_volume", "Success")],
                         self.ended(made["request_id"]))
        self.assertEqual(made["request_id"], context.request_id)
        [listed] = self.control.server_volumes("web")
        self.assertEqual((made["volume_id"], "/dev/vdc"), (listed["volume_id"], listed["device"]))
        shown = self.control.volume_show("data")["attachments"]
        self.assertEqual([("web", "host1", "/dev/vdc")],
                         [(a["server"], a["host_name"], a["device"]) for a in shown])

        asked = self.control.server_remove_volume("web", "data")
        self.until("available")
        self.assertEqual([("detach_volume", "compute_detach_volume", "Success")],
                         self.ended(asked["request_id"]))
        [(_, args)] = self.agent1.got("detach_volume")
        self.assertEqual((made["volume_id"], made["attachment_id"]),
                         (args["volume_id"], args["attachment_id"]))
        self.assertEqual([], self.control.server_volumes("web"))

    def test_the_same_request_attaches_once(self):
        first = self.add(request_id="req-1")
        again = self.control.server_add_volume("web", "data", request_id="req-1")
        self.assertEqual(first["attachment_id"], again["attachment_id"])
        self.control.server_remove_volume("web", "data", request_id="req-2")
        self.until("available")
        again = self.control.server_remove_volume("web", "data", request_id="req-2")
        self.assertEqual("req-2", again["request_id"])
        self.assertEqual(1, len(self.agent1.got("detach_volume")))

    def test_a_guest_that_does_not_let_go_keeps_it(self):
        self.add()
        self.agent1.script["detach_volume"] = refuse_to_let_go
        asked = self.control.server_remove_volume("web", "data")
        self.assertEqual([("detach_volume", "compute_detach_volume", "Error")],
                         self.ended(asked["request_id"]))
        self.assertEqual("in-use", self.status())
        self.assertEqual(1, len(self.control.server_volumes("web")))

    def test_while_it_leaves_it_cannot_be_taken_out_again(self):
        self.add()
        self.hold(self.agent1, "detach_volume")
        self.control.server_remove_volume("web", "data")
        self.assertEqual("detaching", self.status())
        self.refused("volume_unavailable", self.control.server_remove_volume, "web", "data")
        self.refused("volume_in_use", self.control.volume_delete, "data")

    def test_when_the_host_refuses_nothing_stays(self):
        def refuse(agent, context, args):
            raise Refused("The bus is full.", code="no_room")

        self.agent1.script["reserve_block_device_name"] = refuse
        self.volume()
        self.assertRaises(MagnetarError, self.control.server_add_volume, "web", "data")
        self.assertEqual("available", self.status())
        self.assertEqual(["create"], [a["action"] for a in self.control.server_actions("web")])
        self.refused("bad_value", self.control.server_add_volume, "web", "data", device="sdb")

    def test_each_state_that_does_not_fit_is_refused(self):
        self.add()
        self.refused("volume_attached", self.control.server_add_volume, "web", "data")
        self.active("other")
        self.refused("volume_unavailable", self.control.server_add_volume, "other", "data")
        self.refused("volume_not_attached", self.control.server_remove_volume, "other", "data")
        self.refused("volume_not_found", self.control.server_add_volume, "web", "nope")
        self.volume("more")
        instance = self.agent1.ask("Instance.get_by_uuid", self.server["id"])
        for values, code in (({"vm_state": "suspended"}, "bad_state"),
                             ({"vm_state": "active", "task_state": "rebooting"}, "busy"),
                             ({"vm_state": "error", "task_state": None}, "bad_state")):
            instance = self.agent1.save(instance, **values)
            self.refused(code, self.control.server_add_volume, "web", "more")
            self.refused(code, self.control.server_remove_volume, "web", "data")
            self.refused(code, self.control.server_swap_volume, "web", "data", "more")
        self.assertEqual(("in-use", "available"), (self.status(), self.status("more")))

    def test_a_larger_size_is_told_to_the_servers_host(self):
        made = self.add()
        self.assertEqual(3, self.control.volume_set("data", size=3)["size"])
        [(context, args)] = self.agent1.got("external_instance_event")
        [event] = [data(event) for event in args["events"]]
        self.assertEqual(("volume-extended", made["volume_id"], self.server["id"]),
                         (event["name"], event["tag"], event["instance_uuid"]))
        self.assertEqual([("extend_volume", context.request_id)],
                         [(a["action"], a["request_id"])
                          for a in self.control.server_actions("web")][-1:])
        self.assertEqual("in-use", self.status())
        self.control.volume_set("data", size=3)
        self.agent1.got("external_instance_event", 2)

    def test_qcow2_is_not_changed_under_a_running_server(self):
        self.volume(disk_format="qcow2")
        self.control.server_add_volume("web", "data")
        self.until("in-use")
        self.refused("volume_unavailable", self.control.volume_set, "data", size=2)
        instance = self.agent1.ask("Instance.get_by_uuid", self.server["id"])
        self.agent1.save(instance, vm_state="stopped")
        self.assertEqual(2, self.control.volume_set("data", size=2)["size"])

    def test_swap(self):
        self.add()
        self.volume("small")
        self.volume("large", 2)
        self.control.volume_set("data", size=2)
        self.refused("volume_unavailable", self.control.server_swap_volume, "web", "data", "small")
        self.refused("volume_unavailable", self.control.server_swap_volume, "web", "data", "data")
        asked = self.control.server_swap_volume("web", "data", "large")
        self.assertEqual([("swap_volume", "compute_swap_volume", "Success")],
                         self.ended(asked["request_id"]))
        self.assertEqual(("available", "in-use"), (self.status(), self.status("large")))
        [listed] = self.control.server_volumes("web")
        self.assertEqual(asked["volume_id"], listed["volume_id"])

    def test_what_goes_with_its_server_can_be_changed(self):
        self.add()
        changed = self.control.server_update_volume("web", "data", True)
        self.assertTrue(changed["delete_on_termination"])
        self.control.server_delete("web")
        wait_until(lambda: not self.control.server_list())
        wait_until(lambda: self.control.sweep_volumes() == [] and not self.control.volume_list())

    def test_without_that_wish_it_stays(self):
        self.add()
        self.control.server_delete("web")
        wait_until(lambda: not self.control.server_list())
        self.until("available")


@once(DATABASE)
class LostTest(VolumesTest):
    """Rows 6, 8 and 29 of what Nova leaves behind."""

    def test_row_29_a_reservation_that_nobody_took_up_is_given_back(self):
        agent = self.host()
        self.active("web")
        self.volume()
        agent.script["attach_volume"] = None
        self.control.server_add_volume("web", "data")
        self.assertEqual([], self.control.sweep_volumes())
        self.assertEqual("reserved", self.status())
        self.assertEqual(1, len(self.control.sweep_volumes(older_than=-FAR)))
        self.assertEqual("available", self.status())
        self.assertEqual([], self.control.server_volumes("web"))

    def test_row_29_a_block_device_without_an_attachment_goes(self):
        self.host()
        server = self.active("web")
        made = self.volume()
        with self.control.store.begin() as connection:
            records.create_device(connection, {
                "instance_uuid": server["id"], "volume_id": made["id"], "source_type": "volume",
                "destination_type": "volume"})
        self.assertEqual([made["id"]], self.control.sweep_volumes(older_than=-FAR))
        self.assertEqual([], self.control.server_volumes("web"))

    def test_a_detach_that_no_host_took_up_ends_as_if_it_was_not_asked_for(self):
        agent = self.host()
        server = self.active("web")
        self.volume()
        made = self.control.server_add_volume("web", "data")
        self.until("in-use")
        agent.script["detach_volume"] = None
        self.control.server_remove_volume("web", "data")
        [(context, _)] = agent.got("detach_volume")
        self.assertEqual([], self.control.sweep_volumes())
        event = (server["id"], "compute_detach_volume")
        agent.ask("InstanceActionEvent.event_start", *event, context=context, want_result=False,
                  host="host1")
        self.assertEqual([], self.control.sweep_volumes(older_than=-FAR))
        self.assertEqual("detaching", self.status())
        agent.ask("InstanceActionEvent.event_finish", *event, context=context)
        self.assertEqual([made["volume_id"]], self.control.sweep_volumes(older_than=-FAR))
        self.assertEqual("in-use", self.status())
        self.control.server_remove_volume("web", "data")
        port(agent).attachment_delete({}, made["attachment_id"])
        self.assertEqual("available", self.status())

    def test_what_an_agent_is_at_is_left_alone(self):
        agent = self.host()
        self.active("web")
        self.volume()
        agent.script["attach_volume"] = None
        made = self.control.server_add_volume("web", "data")
        port(agent).attachment_update({}, made["attachment_id"], CONNECTOR, "/dev/vdb")
        self.assertEqual([], self.control.sweep_volumes(older_than=-FAR))
        self.assertEqual("attaching", self.status())

    def test_row_8_what_a_lost_host_may_write_to_is_not_freed(self):
        agent = self.host()
        self.active("web")
        self.volume()
        made = self.control.server_add_volume("web", "data", delete_on_termination=True)
        self.until("in-use")
        agent.save(agent.service, forced_down=True)
        self.control.server_delete("web")
        self.assertEqual([], self.control.server_list())
        self.assertEqual("in-use", self.status())
        self.refused("volume_in_use", self.control.volume_delete, "data")
        self.assertEqual([], self.control.sweep_volumes(older_than=-FAR))
        # the host is back, takes its domain away, and gives the volume back: it goes as was wished
        port(agent).attachment_delete({}, made["attachment_id"])
        self.assertEqual([], self.control.volume_list())

    def test_an_operator_can_free_what_a_dead_host_had(self):
        agent = self.host()
        self.active("web")
        self.volume()
        self.control.server_add_volume("web", "data")
        self.until("in-use")
        self.refused("volume_in_use", self.control.volume_set, "data", detached=True)
        agent.save(agent.service, forced_down=True)
        self.control.server_delete("web")
        self.control.volume_set("data", detached=True)
        self.assertEqual("available", self.status())
        self.control.volume_set("data", state="error")
        self.assertEqual("error", self.status())


@once(DATABASE)
class BootTest(VolumesTest):
    def test_from_a_volume_that_is_there(self):
        agent = self.host()
        self.volume("root", 1, image="tiny")
        self.until("available", "root")
        server = self.control.server_create("web", flavor="small", volume="root")
        now = self.wait_for(server["id"], "active")
        self.assertEqual("", now["image_id"])
        [(_, args)] = agent.got("build_and_run_instance")
        self.assertEqual("", data(args["instance"])["image_ref"])
        self.assertTrue(data(args["request_spec"])["is_bfv"])
        self.assertEqual(0, self.control.host_show("host1")["local_gb_used"])
        [bdm] = [data(bdm) for bdm in objects(args["block_device_mapping"])]
        self.assertEqual(("volume", "volume", 0, False), tuple(
            bdm[name] for name in ("source_type", "destination_type", "boot_index",
                                   "delete_on_termination")))
        self.assertEqual("in-use", self.status("root"))
        self.refused("root_volume", self.control.server_remove_volume, "web", "root")
        self.control.server_delete("web")
        self.until("available", "root")

    def test_from_a_new_volume_made_of_an_image(self):
        self.host()
        server = self.control.server_create(
            "web", "tiny", "small", boot_from_volume=1, block_devices=[
                {"source_type": "blank", "volume_size": 2, "delete_on_termination": True}])
        self.wait_for(server["id"], "active")
        root, blank = self.control.server_volumes("web")
        self.assertEqual((0, 1), (root["boot_index"], root["size"]))
        self.assertEqual(2, blank["size"])
        self.control.server_delete("web")
        wait_until(lambda: not self.control.server_list())
        wait_until(lambda: [v["id"] for v in self.control.volume_list() if self.control
                            .sweep_volumes() == []] == [root["volume_id"]])

    def test_a_further_volume_beside_an_image(self):
        agent = self.host()
        made = self.volume()
        server = self.control.server_create("web", "tiny", "small", block_devices=[
            {"source_type": "volume", "uuid": "data", "tag": "db"}])
        self.wait_for(server["id"], "active")
        [(_, args)] = agent.got("build_and_run_instance")
        root, more = [data(bdm) for bdm in objects(args["block_device_mapping"])]
        self.assertEqual(("local", made["id"], "db"),
                         (root["destination_type"], more["volume_id"], more["tag"]))
        self.assertEqual("in-use", self.status())

    def test_what_cannot_be_built_keeps_no_volume(self):
        self.volume()
        self.refused("no_valid_host", self.control.server_create, "web", "tiny", "small",
                     block_devices=[{"source_type": "volume", "uuid": "data"}])
        self.assertEqual("available", self.status())

    def test_a_build_that_waits_is_deleted_with_its_reservations(self):
        agent = self.host()
        agent.script["build_and_run_instance"] = None
        self.volume()
        self.control.server_create("web", "tiny", "small", block_devices=[
            {"source_type": "volume", "uuid": "data"}])
        self.assertEqual("reserved", self.status())
        self.assertEqual([], self.control.sweep_volumes(older_than=-FAR))
        self.control.server_delete("web")
        self.assertEqual("available", self.status())

    def test_bad_block_devices_are_refused(self):
        self.host()
        self.volume()
        volume = {"source_type": "volume", "uuid": "data"}
        for code, words in (
            ("bad_block_device", {"image": None}), ("bad_block_device", {"volume": "data"}),
            ("bad_block_device", {"image": None, "boot_from_volume": 1}),
            ("volume_not_bootable", {"image": None, "volume": "data"}),
            ("bad_block_device", {"block_devices": [volume, volume]}),
            ("bad_block_device", {"block_devices": [{**volume, "boot_index": 0}]}),
            ("bad_block_device", {"block_devices": [{"source_type": "snapshot"}]}),
            ("bad_block_device", {"block_devices": [{**volume, "colour": "red"}]}),
            ("bad_block_device", {"block_devices": [{"source_type": "blank"}]}),
            ("bad_block_device", {"block_devices": [
                {"source_type": "blank", "destination_type": "local", "volume_size": 1}]}),
            ("bad_block_device", {"block_devices": [{"source_type": "image", "uuid": "tiny"}]}),
            ("bad_block_device", {"image": None, "block_devices": [
                {"source_type": "blank", "volume_size": 1, "boot_index": 0}]}),
            ("bad_value", {"boot_from_volume": -1}),
            ("volume_not_found", {"block_devices": [{**volume, "uuid": "nope"}]}),
        ):
            self.refused(code, self.control.server_create, "web",
                         **{"image": "tiny", "flavor": "small", **words})
        self.assertEqual(([], "available"), (self.control.server_list(), self.status()))

    def test_a_host_that_fails_the_build_leaves_the_volume_to_the_delete(self):
        agent = self.host()

        def fail(agent, context, args):
            try:
                build(agent, context, args)
            finally:
                instance = agent.ask("Instance.get_by_uuid", data(args["instance"])["uuid"])
                agent.save(instance, vm_state="error", task_state=None)
            raise Failed("No.")

        agent.script["build_and_run_instance"] = fail
        self.volume()
        made = self.control.server_create("web", "tiny", "small", block_devices=[
            {"source_type": "volume", "uuid": "data"}])
        self.wait_for(made["id"], "error")
        self.control.server_delete("web")
        self.until("available")
