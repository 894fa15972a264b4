"""Servers get volumes of the embedded service, boot from them, and give them back."""


from compute.errors import Failed, MagnetarError, Refused
from compute.rpc.primitives import data, objects
from db.control import records
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
