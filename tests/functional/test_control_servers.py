"""Servers from create to delete, over the real RPC stack with a stand-in for the agent."""

import threading
from datetime import timedelta

import fixtures
from testtools import matchers

from compute.errors import MagnetarError, Retryable
from compute.rpc import primitives
from compute.rpc.primitives import data
from db.control import services
from db.control.types import utcnow
from tests.functional.control_support import FAR, ControlTest, nova_errors
from tests.modes import DATABASE, once
from tests.waiting import wait_until


class ServersTest(ControlTest):
    def setUp(self):
        super().setUp()
        self.host = self.agent()
        self.prepare()

    def refused(self, code, function, *args, **kwargs):
        error = self.assertRaises(MagnetarError, function, *args, **kwargs)
        self.assertEqual(code, error.code, error)
        return error

    def quiet(self, *methods):
        """The agent takes these messages and does nothing."""
        for method in methods:
            self.host.script.pop(method, None)


class LifeTest(ServersTest):
    def test_create_list_show_delete(self):
        self.control.network_create("net", "192.0.2.0/24")
        go_on = self.hold(self.host, "build_and_run_instance")
        made = self.create(properties={"role": "web"})
        self.assertEqual(("BUILD", "scheduling"), (made["status"], made["task_state"]))
        go_on.set()
        now = self.wait_for(made["id"], "active")
        self.assertEqual(
            ("ACTIVE", "host1", {"net": ["192.0.2.2"]}, "tiny", "small", {"role": "web"}),
            (now["status"], now["host"], now["addresses"], now["image"], now["flavor"],
             now["properties"]),
        )
        self.assertEqual([now["id"]], [row["id"] for row in self.control.server_list()])
        self.assertEqual(1, self.control.host_show("host1")["servers"])

        self.control.server_delete("one")
        wait_until(lambda: not self.control.server_list())
        self.assertEqual("DELETED", self.control.server_show(made["id"])["status"])
        self.assertEqual(0, self.control.network_show("net")["ports"])
        self.assertEqual(0, self.control.host_show("host1")["memory_mb_used"])
        self.refused("server_not_found", self.control.server_show, "one")

    def test_the_build_message_is_novas(self):
        self.quiet("build_and_run_instance")
        self.control.network_create("net", "192.0.2.0/24")
        made = self.create(networks=["net"], user_data="#!/bin/sh\n", config_drive=True)
        [(context, args)] = self.host.got("build_and_run_instance")
        self.assertEqual(
            {"instance", "image", "request_spec", "filter_properties", "admin_password",
             "injected_files", "requested_networks", "security_groups", "block_device_mapping",
             "node", "limits", "host_list", "accel_uuids"}, set(args),
        )
        self.assertEqual(made["request_id"], context.request_id)
        self.assertThat(data(args["instance"]), matchers.ContainsDict({
            "uuid": matchers.Equals(made["id"]), "host": matchers.Is(None),
            "task_state": matchers.Equals("scheduling"), "config_drive": matchers.Equals("True"),
            "hostname": matchers.Equals("one"),
        }))
        self.assertEqual({"num_attempts": 1, "hosts": [["host1", "host1"]]},
                         args["filter_properties"]["retry"])
        [request] = primitives.objects(args["requested_networks"])
        self.assertEqual(self.control.network_show("net")["id"], data(request)["network_id"])
        [disk] = primitives.objects(args["block_device_mapping"])
        self.assertEqual(("image", "local", 0), (
            data(disk)["source_type"], data(disk)["destination_type"], data(disk)["boot_index"]))
        self.assertEqual(12, len(args["admin_password"]))

    def test_no_network_is_said_as_novas_api_says_it(self):
        self.quiet("build_and_run_instance")
        self.create(networks=[])
        [(_, args)] = self.host.got("build_and_run_instance")
        [request] = primitives.objects(args["requested_networks"])
        self.assertEqual("none", data(request)["network_id"])

    def test_the_same_request_makes_one_server(self):
        first = self.create(request_id="req-a")
        self.assertEqual(first["id"], self.create(request_id="req-a")["id"])
        other = self.create("two", request_id="req-a")
        self.assertNotEqual(first["id"], other["id"])
        self.assertEqual(2, len(self.control.server_list()))
        self.assertEqual(2, len(self.host.got("build_and_run_instance", 2)))
        self.wait_for(first["id"], "active")
        self.control.server_delete(first["id"])
        wait_until(lambda: len(self.control.server_list()) == 1)
        self.refused("request_used", self.create, request_id="req-a")

    def test_the_same_request_at_the_same_time_makes_one_server(self):
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(self.create(request_id="req-b")["id"]))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((6, 1), (len(found), len(set(found))))

    def test_power(self):
        server = self.active()
        self.control.server_stop("one")
        [(_, args)] = self.host.got("stop_instance")
        self.assertTrue(args["clean_shutdown"])
        self.assertEqual("powering-off", data(args["instance"])["task_state"])
        self.host.save(args["instance"], None, ["powering-off"], vm_state="stopped",
                       task_state=None, power_state=4)
        self.assertEqual("SHUTOFF", self.control.server_show("one")["status"])
        self.control.server_start(server["id"])
        [(_, args)] = self.host.got("start_instance")
        self.host.save(args["instance"], vm_state="active", task_state=None)
        self.assertEqual("REBOOT", self.control.server_reboot("one")["status"])
        [(_, args)] = self.host.got("reboot_instance")
        self.assertEqual(("SOFT", None), (args["reboot_type"], args["block_device_info"]))
        self.assertEqual("HARD_REBOOT", self.control.server_reboot("one", hard=True)["status"])
        self.assertEqual(["create", "stop", "start", "reboot", "reboot"],
                         [row["action"] for row in self.control.server_actions("one")])

    def test_of_two_conflicting_requests_the_second_is_refused(self):
        self.active()
        self.control.server_stop("one")
        error = self.refused("busy", self.control.server_reboot, "one")
        self.assertIn("busy with powering-off", error.what)
        self.refused("busy", self.control.server_stop, "one")
        self.refused("busy", self.control.server_start, "one")
        self.assertEqual(1, len(self.host.got("stop_instance")))
        self.assertEqual([], [m for m in self.host.received if m[0] == "reboot_instance"])

    def test_verbs_in_the_wrong_state_are_refused(self):
        self.active()
        error = self.refused("bad_state", self.control.server_start, "one")
        self.assertIn("while it is active", error.what)
        self.quiet("build_and_run_instance")
        self.create("two")
        self.refused("busy", self.control.server_stop, "two")
        self.refused("not_ready", self.control.console_log, "two")

    def test_a_repeated_request_has_one_effect(self):
        self.active()
        first = self.control.server_stop("one", request_id="req-s")
        again = self.control.server_stop("one", request_id="req-s")
        self.assertEqual((first["id"], "powering-off"), (again["id"], again["task_state"]))
        self.refused("busy", self.control.server_stop, "one", request_id="req-t")
        self.assertEqual(1, len(self.host.got("stop_instance")))

    def test_delete_during_another_verb(self):
        self.active()
        self.control.server_stop("one")
        go_on = self.hold(self.host, "terminate_instance")
        self.assertEqual("deleting", self.control.server_delete("one")["task_state"])
        go_on.set()
        wait_until(lambda: not self.control.server_list())

    def test_delete_before_a_host_has_it_is_done_here(self):
        self.quiet("build_and_run_instance")
        made = self.create()
        self.assertEqual("DELETED", self.control.server_delete("one")["status"])
        self.assertEqual([], self.control.server_list())
        [(context, args)] = self.host.got("build_and_run_instance")
        error = self.assertRaises(nova_errors(), self.host.save, args["instance"], context,
                                  ["scheduling", None], task_state="networking")
        self.assertEqual("InstanceNotFound", type(error).__name__)
        self.assertEqual([], [m for m in self.host.received if m[0] == "terminate_instance"])
        error = self.assertRaises(nova_errors(), self.host.own, "network_allocate",
                                  instance_uuid=made["id"], requests=[])
        self.assertEqual("InstanceNotFound", type(error).__name__)

    def test_delete_on_a_host_that_is_down_is_done_here(self):
        self.active()
        self.silence("host1")
        self.assertEqual("down", self.control.host_show("host1")["state"])
        self.assertEqual("DELETED", self.control.server_delete("one")["status"])
        self.assertEqual([], self.control.server_list())

    def silence(self, host, seconds=2 * FAR):
        with self.control.store.begin() as connection:
            row = services.get(connection, host)
            services.save(connection, row["id"], {"last_seen_up": utcnow() - timedelta(0, seconds)})

    def test_console(self):
        self.active()
        self.host.script["get_console_output"] = lambda agent, context, args: "UP\n"
        self.assertEqual("UP\n", self.control.console_log("one", 5))
        self.assertEqual(5, self.host.got("get_console_output")[0][1]["tail_length"])
        self.refused("bad_value", self.control.console_log, "one", -1)

    def test_a_host_that_cannot_answer_is_told_as_such(self):
        self.active()

        def broken(agent, context, args):
            raise NotImplementedError()

        self.host.script["get_console_output"] = broken
        self.refused("not_supported", self.control.console_log, "one")

    def test_two_servers_of_one_name_are_told_apart_by_id(self):
        one, two = self.active(), self.active()
        self.refused("ambiguous", self.control.server_stop, "one")
        self.assertEqual("powering-off", self.control.server_stop(two["id"])["task_state"])
        self.assertIsNone(self.control.server_show(one["id"])["task_state"])

    def test_an_error_shows_its_fault(self):
        server = self.active()
        self.host.action(primitives.make("InstanceFault", {
            "instance_uuid": server["id"], "code": 500, "message": "disk full",
            "details": "disk full, see log", "host": "host1"}), "create")
        self.assertIsNone(self.control.server_show("one")["fault"])
        instance = self.host.ask("Instance.get_by_uuid", server["id"])
        self.host.save(instance, vm_state="error")
        self.assertEqual("disk full", self.control.server_show("one")["fault"]["message"])

    def test_external_events_reach_the_host(self):
        self.active()
        self.control.server_event("one", "network-changed", tag="port")
        [(_, args)] = self.host.got("external_instance_event")
        self.assertEqual("network-changed", data(args["events"][0])["name"])
        self.assertRaises(ValueError, self.control.server_event, "one", "nonsense")


class BadInputTest(ServersTest):
    def test_nothing_is_created_for_a_bad_request(self):
        create = self.control.server_create
        for code, args in (
            ("image_not_found", ("s", "nope", "small")),
            ("flavor_not_found", ("s", "tiny", "nope")),
            ("bad_name", ("", "tiny", "small")),
        ):
            self.refused(code, create, *args)
        for code, kwargs in (
            ("network_not_found", {"networks": ["nope"]}), ("bad_value", {"networks": [{"x": 1}]}),
            ("keypair_not_found", {"key_name": "nope"}), ("bad_key", {"public_key": "nope"}),
            ("server_group_not_found", {"hints": {"group": "nope"}}),
            ("bad_hint", {"hints": {"different_host": "x"}}),
            ("no_valid_host", {"availability_zone": "nowhere"}),
            ("bad_request", {"request_id": "a b"}), ("bad_user_data", {"user_data": "x y" * 40000}),
            ("bad_value", {"properties": {"a": "b" * 256}}),
        ):
            self.refused(code, self.create, **kwargs)
        self.assertEqual([], self.control.server_list())
        self.assertEqual([], [m for m in self.host.received if m[0] == "build_and_run_instance"])

    def test_a_flavor_too_large_is_refused_in_numbers(self):
        self.control.flavor_create("huge", vcpus=1, ram=999999)
        error = self.refused("no_valid_host", self.control.server_create, "s", "tiny", "huge")
        self.assertIn("host1: 999999 MiB of memory wanted, 8192 of 8192 MiB free", error.what)

    def test_a_flavor_too_small_for_its_image_is_refused(self):
        self.control.image_create("big", f"{self.dir}/tiny.raw", disk_format="raw", min_disk=5)
        self.refused("flavor_too_small", self.control.server_create, "s", "big", "small")

    def test_images_of_other_formats_are_refused(self):
        self.refused("bad_image_format", self.control.image_create, "i", "x", disk_format="vmdk")

    def test_auto_needs_one_network_at_most(self):
        self.control.network_create("a", "192.0.2.0/24")
        self.control.network_create("b", "198.51.100.0/24")
        self.assertIn("a, b", self.refused("ambiguous", self.create).what)

    def test_names_are_taken_once(self):
        self.refused("flavor_exists", self.control.flavor_create, "small", vcpus=1, ram=1)
        self.control.group_create("g")
        self.refused("server_group_exists", self.control.group_create, "g")
        self.refused("bad_value", self.control.group_create, "h", policy="nearby")

    def test_a_broker_that_does_not_answer_leaves_nothing(self):
        def broken(*args, **kwargs):
            raise Retryable("no broker", code="broker_unreachable")

        server = self.active()
        self.useFixture(fixtures.MonkeyPatch("control.messages.Computes._cast", broken))
        self.refused("broker_unreachable", self.create, "two", request_id="req-c")
        self.assertEqual(["one"], [row["name"] for row in self.control.server_list()])
        self.refused("broker_unreachable", self.control.server_stop, "one")
        self.refused("broker_unreachable", self.control.server_delete, "one")
        self.assertIsNone(self.control.server_show(server["id"])["task_state"])


@once(DATABASE)
class PostgreSQLLifeTest(LifeTest):
    database = "postgresql"
