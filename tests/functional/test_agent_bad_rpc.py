"""Messages that are not as version 6.5 of the compute RPC API describes them."""

from __future__ import annotations

from typing import Any

from oslo_messaging.rpc.dispatcher import UnsupportedVersion

from compute.model import states
from compute.rpc.contract import METHODS
from compute.rpc.serializer import admin_context
from db.journal import rows
from tests.functional.agent_support import SharedTest
from tests.waiting import wait_until

# For each argument of what we carry out, values of types that it cannot have.
MISTYPED = {
    "build_and_run_instance": {
        "instance": ("text", 7, None, {}, {"nova_object.name": "Flavor"}),
        "image": ("text", 7), "filter_properties": ("text", []), "request_spec": ("text",),
        "admin_password": (7, []), "injected_files": ("text", {}),
        "requested_networks": ("text", []), "block_device_mapping": ("text", []),
        "host_list": ("text", {}), "node": (7, {}), "limits": ("text",),
    },
    "terminate_instance": {"instance": ("text", None), "bdms": ("text", [])},
    "start_instance": {"instance": ("text", [], {})},
    "stop_instance": {"instance": ("text",), "clean_shutdown": ("yes", 1, None)},
    "reboot_instance": {"instance": ("text",), "reboot_type": (7, None, "MAYBE", "soft")},
    "get_console_output": {"instance": ("text",), "tail_length": ({}, "many", 1.5)},
    "set_host_enabled": {"enabled": ("yes", 1, None)},
    "external_instance_event": {"instances": ("text",), "events": ("text", {})},
    "soft_delete_instance": {"instance": ("text", None)},
    "restore_instance": {"instance": ("text", None)},
    "attach_interface": {"instance": ("text", {}), "network_id": (7, {}, None),
                         "port_id": (7, []), "requested_ip": (7, {}), "tag": (7, [])},
    "detach_interface": {"instance": ("text", {}), "port_id": (7, None, {})},
    "get_vnc_console": {"instance": ("text", {}), "console_type": (7, None)},
    "cache_images": {"image_ids": ("text", {}, None, [7], [""])},
    "get_spice_console": {"instance": ("text", {}), "console_type": (7, None)},
    "get_serial_console": {"instance": ("text", {}), "console_type": (7, None)},
    "validate_console_port": {"instance": ("text",), "port": ({}, 1.5), "console_type": (7,)},
}
GOOD: dict[str, dict[str, Any]] = {
    "build_and_run_instance": {"image": {}, "request_spec": None, "filter_properties": {}},
    "terminate_instance": {"bdms": None}, "start_instance": {},
    "stop_instance": {"clean_shutdown": True},
    "reboot_instance": {"block_device_info": None, "reboot_type": "SOFT"},
    "get_console_output": {"tail_length": None}, "set_host_enabled": {"enabled": True},
    "external_instance_event": {"instances": [], "events": []},
    "soft_delete_instance": {}, "restore_instance": {},
    "attach_interface": {"network_id": "n", "port_id": None, "requested_ip": None},
    "detach_interface": {"port_id": "p"}, "get_vnc_console": {"console_type": "novnc"},
    "get_spice_console": {"console_type": "spice-html5"}, "cache_images": {"image_ids": []},
    "get_serial_console": {"console_type": "serial"},
    "validate_console_port": {"port": 5900, "console_type": "novnc"},
}
WITHOUT_INSTANCE = ("set_host_enabled", "cache_images", "external_instance_event")


class BadMessageTest(SharedTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.guest = cls.shared.boot("steady")

    def setUp(self):
        super().setUp()
        self.before = self.state()
        self.addCleanup(self.unchanged)

    def state(self):
        """Everything that must not change."""
        return (len(self.host.operations()), self.host.driver.states(),
                self.cloud.show(self.guest))

    def unchanged(self):
        self.assertEqual(self.before, self.state())
        self.assert_clean()

    def refused(self, name: str, method: str, version: str = "6.0", **args: Any) -> str:
        """It is answered with an error of this class; returns its text."""
        try:
            answer = self.cloud.client(version).call(admin_context(), method, **args)
        except Exception as error:  # noqa: BLE001 - its class is what is looked at
            self.assertEqual(name, type(error).__name__, f"{method} with {args}: {error!r}")
            return str(error)
        raise AssertionError(f"{method} with {args} is answered with {answer!r}")

    def good(self, method: str) -> dict[str, Any]:
        args = dict(GOOD[method])
        if method not in WITHOUT_INSTANCE:
            args["instance"] = self.cloud.instance(self.guest)
        return args

    def test_unknown_method(self):
        self.refused("NoSuchMethod", "make_coffee", sugar=True)

    def test_wrong_versions(self):
        for version in ("5.0", "6.6", "7.0"):
            self.refused("UnsupportedVersion", "get_host_uptime", version)
        for version in ("6.0", "6.5"):
            answer = self.cloud.client(version).call(admin_context(), "get_host_uptime")
            self.assertIn("load average", answer)

    def test_wrong_namespace(self):
        client = self.cloud.client(namespace="no-such-namespace")
        self.assertRaises(UnsupportedVersion, client.call, admin_context(), "ping", arg=1)

    def test_missing_and_unknown_arguments(self):
        for method in GOOD:
            for missing in METHODS[method].args:
                args = self.good(method)
                del args[missing]
                text = self.refused("Invalid", method, **args)
                self.assertIn(f"The call of {method} lacks {missing}.", text)
                self.assertIn("Nothing was done for this message.", text)
                self.assertIn("version 6.5", text)
            text = self.refused("Invalid", method, **self.good(method), surprise=1)
            self.assertIn("has no argument surprise", text)

    def test_mistyped_arguments(self):
        for method, wrong in MISTYPED.items():
            for argument, values in wrong.items():
                for value in values:
                    args = {**self.good(method), argument: value}
                    text = self.refused("Invalid", method, **args)
                    self.assertIn("Nothing was done for this message.", text)

    def test_objects_with_mistyped_fields(self):
        for field, value in (("uuid", None), ("uuid", 7), ("uuid", "short"), ("flavor", None),
                             ("launch_index", "first"), ("info_cache", "text"),
                             ("system_metadata", 7), ("keypairs", "text")):
            args = self.good("build_and_run_instance")
            args["instance"]["nova_object.data"][field] = value
            text = self.refused("Invalid", "build_and_run_instance", **args)
            self.assertIn("Nothing was done for this message.", text)

    def test_flavors_that_cannot_be(self):
        for field, value in (("vcpus", 0), ("vcpus", "many"), ("memory_mb", -1), ("root_gb", -1),
                             ("vcpus", None)):
            args = self.good("build_and_run_instance")
            args["instance"]["nova_object.data"]["flavor"]["nova_object.data"][field] = value
            text = self.refused("Invalid", "build_and_run_instance", **args)
            self.assertIn("flavor", text)

    def test_images_that_cannot_be(self):
        for image in ({"id": "i", "size": "big"}, {"id": "i", "properties": "text"},
                      {"id": "i", "min_disk": [1]}):
            self.refused("Invalid", "build_and_run_instance",
                         **{**self.good("build_and_run_instance"), "image": image})

    def test_injected_files_that_are_not_base64(self):
        for files in ([["/etc/motd", "%%%"]], [["/etc/motd"]], [7]):
            self.refused("Invalid", "build_and_run_instance",
                         **{**self.good("build_and_run_instance"), "injected_files": files})

    def test_a_bad_cast_reaches_the_log(self):
        self.cloud.client().cast(admin_context(), "stop_instance", instance="text")
        wait_until(lambda: "Argument 'instance' of stop_instance cannot be str" in self.log.output)

    def test_an_instance_of_another_world_has_no_console(self):
        args = self.good("get_console_output")
        args["instance"]["nova_object.data"]["uuid"] = "00000000-0000-4000-8000-000000000000"
        answer = self.cloud.client().call(admin_context(), "get_console_output", **args)
        self.assertEqual("", answer)


class EndpointTest(SharedTest):
    """What is answered besides the verbs of a tenant."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.guest = cls.shared.boot("steady")

    def test_ping_on_both_topics(self):
        for topic in ("compute", "compute-alt"):
            client = self.cloud.client("1.0", topic, namespace="baseapi")
            self.assertEqual({"service": "compute", "arg": "are you there"},
                             client.call(admin_context(), "ping", arg="are you there"))
            self.assertIsNone(client.call(admin_context(), "get_backdoor_port"))

    def test_the_operators_verbs_over_rpc(self):
        client = self.cloud.client("1.0", namespace="magnetar")
        audit = client.call(admin_context(), "audit")["result"]
        self.assertEqual((True, 1), (audit["clean"], audit["guests"]))
        shown = client.call(admin_context(), "op_show", op="no-such-operation")
        self.assertEqual("operation_not_found", shown["error"]["code"])
        self.assert_speaks(shown["error"])

    def test_the_host_is_disabled_and_enabled(self):
        for enabled, word in ((False, "disabled"), (True, "enabled")):
            self.assertEqual(word, self.cloud.client().call(
                admin_context(), "set_host_enabled", enabled=enabled))

    def test_events_wake_what_waits(self):
        self.control.server_event(self.guest, "network-vif-plugged", "tag")
        wait_until(lambda: "Event network-vif-plugged (tag)" in self.log.output)

    def test_what_is_not_carried_out_clears_its_task_and_says_so(self):
        self.cloud.change(self.guest, task_state="sharing")
        self.cloud.cast(self.guest, "allow_share", share_mapping={})
        self.cloud.wait_for(self.guest, states.ACTIVE)
        row = self.assert_ended(rows.UNDONE, self.guest, "unsupported")
        self.assertIn("allow_share is not implemented", row.error["what"])
        self.assert_speaks(row.error)
        self.assertEqual(states.RUNNING, self.host.power(self.guest))
        self.assert_clean()

    def test_a_call_that_is_not_carried_out_is_answered_so(self):
        error = self.assertRaises(
            NotImplementedError, self.cloud.client().call, admin_context(),
            "get_mks_console", console_type="x", instance=self.cloud.instance(self.guest))
        self.assertIn("get_mks_console", str(error))
