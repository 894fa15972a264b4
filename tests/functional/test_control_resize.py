"""Sleep, resize and cold migration, between stand-ins for agents."""

import fixtures

from compute.errors import Retryable
from compute.rpc import primitives
from compute.rpc.primitives import data
from tests.functional import control_movers as movers
from tests.functional.control_movers import MovesTest
from tests.modes import DATABASE, once
from tests.waiting import wait_until


class SleepTest(MovesTest):
    hosts = ("host1",)

    def test_pause_and_suspend_and_back(self):
        self.active()
        host = self.agents["host1"]
        for verb, task, state, back, back_task in (
            ("pause", "pausing", "paused", "unpause", "unpausing"),
            ("suspend", "suspending", "suspended", "resume", "resuming"),
        ):
            for name, doing, end in ((verb, task, state), (back, back_task, "active")):
                shown = getattr(self.control, f"server_{name}")("one")
                self.assertEqual(doing, shown["task_state"])
                [(_, args)] = host.got(f"{name}_instance")
                self.assertEqual({"instance"}, set(args))
                host.save(args["instance"], None, [doing], vm_state=end, task_state=None)
        self.assertEqual(["create", "pause", "unpause", "suspend", "resume"],
                         [row["action"] for row in self.control.server_actions("one")])

    def test_only_from_the_states_that_nova_allows(self):
        self.active()
        for verb in ("unpause", "resume", "resize_confirm", "resize_revert"):
            self.refused("bad_state", getattr(self.control, f"server_{verb}"), "one")
        self.control.server_pause("one")
        for verb in ("pause", "suspend", "migrate", "live_migrate"):
            self.refused("busy", getattr(self.control, f"server_{verb}"), "one")


class ResizeTest(MovesTest):
    def test_to_another_host_confirmed(self):
        self.override("allow_resize_to_same_host", False)
        before = self.on("host1")
        shown = self.control.server_resize("one", "large")
        self.assertEqual(before["id"], shown["id"])
        now = self.wait_for("one", "resized")
        self.assertEqual(("VERIFY_RESIZE", "host2", "large", 2, 1024, 2, before["addresses"]), (
            now["status"], now["host"], now["flavor"], now["vcpus"], now["ram"], now["disk"],
            now["addresses"]))
        migration = self.migration()
        self.assertEqual(("resize", "finished", "host1", "host2", False), tuple(
            migration[k] for k in ("type", "status", "source_compute", "dest_compute", "ended")))
        self.assertEqual((512, 1024), self.used())
        self.control.server_resize_confirm("one")
        self.wait_for("one", "active")
        self.assertEqual(("confirmed", (0, 1024)), (self.migration()["status"], self.used()))
        self.assertEqual(["create", "resize", "confirmResize"],
                         [row["action"] for row in self.control.server_actions("one")])

    def test_reverted(self):
        self.override("allow_resize_to_same_host", False)
        self.on("host1")
        self.control.server_resize("one", "large")
        self.wait_for("one", "resized")
        shown = self.control.server_resize_revert("one")
        self.assertEqual("REVERT_RESIZE", shown["status"])
        now = self.wait_for("one", "active")
        self.assertEqual(("host1", "small", 512), (now["host"], now["flavor"], now["ram"]))
        self.assertEqual(("reverted", (512, 0)), (self.migration()["status"], self.used()))
        [(_, args)] = self.agents["host2"].got("revert_resize")
        self.assertEqual("small", data(data(args["request_spec"])["flavor"])["name"])

    def test_on_the_same_host_memory_is_claimed_once(self):
        self.on("host1")
        self.control.host_disable("host2")
        self.control.flavor_create("whole", vcpus=1, ram=8192, disk=1)
        self.control.server_resize("one", "whole")
        self.wait_for("one", "resized")
        self.assertEqual(((8192, 0), (2, 0)), (self.used(), self.used("local_gb_used")))
        self.control.server_resize_confirm("one")
        self.wait_for("one", "active")
        self.assertEqual((1, 0), self.used("local_gb_used"))

    def test_what_cannot_be_is_refused_and_changes_nothing(self):
        self.override("allow_resize_to_same_host", False)
        self.on("host1")
        self.control.flavor_create("tight", vcpus=1, ram=512, disk=0)
        self.control.flavor_create("huge", vcpus=1, ram=9999, disk=1)
        self.refused("same_flavor", self.control.server_resize, "one", "small")
        self.refused("disk_shrinks", self.control.server_resize, "one", "tight")
        self.refused("flavor_not_found", self.control.server_resize, "one", "nix")
        said = self.refused("no_valid_host", self.control.server_resize, "one", "huge").what
        self.assertIn("host1: the server is on it already", said)
        self.assertIn("host2: 9999 MiB of memory wanted", said)
        self.assertIsNone(self.control.server_show("one")["task_state"])
        self.assertEqual([], self.control.server_migration_list("one"))

    def test_the_message_is_novas(self):
        self.on("host1")
        self.script("prep_resize", None)
        self.control.server_resize("one", "large", request_id="req-r")
        host = self.migration()["dest_compute"]
        [(context, args)] = self.agents[host].got("prep_resize")
        self.assertIn(("prep_resize", "compute", "6.0"), self.agents[host].routes)
        self.assertEqual({"instance", "flavor", "image", "request_spec", "filter_properties",
                          "node", "migration", "clean_shutdown", "host_list"}, set(args))
        self.assertEqual("req-r", context.request_id)
        instance, migration = data(args["instance"]), data(args["migration"])
        self.assertEqual(
            ("resize_prep", None, None, "small", "large", "host1"),
            (instance["task_state"], instance["old_flavor"], instance["new_flavor"],
             data(instance["flavor"])["name"], data(args["flavor"])["name"], instance["host"]))
        self.assertLessEqual({"services", "pci_devices", "pci_requests", "numa_topology",
                              "vcpu_model", "trusted_certs", "resources", "info_cache",
                              "security_groups"}, set(instance))
        named = ("status", "migration_type", "dest_compute", "dest_host", "source_compute")
        self.assertEqual(["pre-migrating", "resize", None, None, "host1"],
                         [migration[name] for name in named])
        self.assertEqual([1, 2], [migration[f"{k}_instance_type_id"] for k in ("old", "new")])
        self.assertEqual({"limits": {}, "retry": {"num_attempts": 1, "hosts": [[host, host]]}},
                         args["filter_properties"])
        [port] = primitives.objects(data(args["request_spec"])["requested_networks"])
        self.assertIsNotNone(data(port)["port_id"])

    def test_asked_again_it_is_the_same(self):
        self.on("host1")
        self.script("prep_resize", None)
        for _ in range(2):
            self.control.server_resize("one", "large", request_id="req-r")
        self.assertEqual(1, len(self.control.server_migration_list("one")))
        self.refused("busy", self.control.server_resize, "one", "large")

    def test_a_broker_that_does_not_answer_leaves_all_as_it_was(self):
        def broken(*args, **kwargs):
            raise Retryable("no broker", code="broker_unreachable")

        self.on("host1")
        with fixtures.MonkeyPatch("control.messages.Computes._cast", broken):
            self.refused("broker_unreachable", self.control.server_resize, "one", "large",
                         request_id="req-r")
        now = self.control.server_show("one")
        self.assertEqual((None, "active"), (now["task_state"], now["vm_state"]))
        self.assertEqual("error", self.migration()["status"])
        self.control.server_resize("one", "large", request_id="req-r")
        self.wait_for("one", "resized")
        with fixtures.MonkeyPatch("control.messages.Computes._cast", broken):
            self.refused("broker_unreachable", self.control.server_resize_revert, "one")
        self.assertEqual("finished", self.migration()["status"])
        self.assertIsNone(self.control.server_show("one")["task_state"])

    def test_a_resized_server_is_deleted_on_both_hosts(self):
        self.override("allow_resize_to_same_host", False)
        self.on("host1")
        self.control.server_resize("one", "large")
        self.wait_for("one", "resized")
        self.control.server_delete("one")
        wait_until(lambda: not self.control.server_list())
        self.agents["host1"].got("confirm_resize")
        self.agents["host2"].got("terminate_instance")
        self.assertEqual((0, 0), self.used())

    def test_a_host_that_is_down_ends_nothing_half(self):
        self.override("allow_resize_to_same_host", False)
        self.on("host1")
        self.control.server_resize("one", "large")
        self.wait_for("one", "resized")
        self.silence("host1")
        error = self.refused("host_down", self.control.server_resize_confirm, "one")
        self.assertIn("host1 is down", error.what)
        self.refused("host_down", self.control.server_resize_revert, "one")
        self.assertEqual("finished", self.migration()["status"])


def hand_back(agent, context, args):
    """What an agent does that cannot take a server: prep_resize fails, another host is tried."""
    filters = args["filter_properties"]
    filters["retry"]["exc_reason"] = [f"{agent.host} has no room"]
    agent.save(args["migration"], context, status="error")
    agent.task("migrate_server", context, instance=args["instance"],
               scheduler_hint={"filter_properties": filters}, live=False, rebuild=False,
               flavor=args["flavor"], block_migration=None, disk_over_commit=None,
               reservations=None, clean_shutdown=True, request_spec=args["request_spec"],
               host_list=args["host_list"])


class RescheduleTest(MovesTest):
    hosts = ("host1", "host2", "host3")

    def test_a_migration_handed_back_is_tried_elsewhere(self):
        self.on("host1")
        self.control.host_disable("host3")
        self.agents["host2"].script["prep_resize"] = hand_back
        self.control.server_migrate("one")
        wait_until(lambda: self.control.server_show("one")["task_state"] is None)
        failed = self.migration()
        self.assertEqual("error", failed["status"])
        self.assertIn("host2 has no room", failed["message"])
        self.assertIn("host3: it is disabled", failed["message"])
        self.assertEqual("active", self.control.server_show("one")["vm_state"])
        self.control.host_enable("host3")
        self.agents["host3"].script["prep_resize"] = hand_back
        self.agents["host2"].script["prep_resize"] = movers.prep_resize
        self.control.host_disable("host2")
        self.control.server_migrate("one", request_id="req-2")
        self.agents["host3"].got("prep_resize")
        wait_until(lambda: self.control.server_show("one")["task_state"] is None)
        self.control.host_enable("host2")
        self.control.server_migrate("one")
        self.wait_for("one", "resized")
        self.assertEqual("host2", self.control.server_show("one")["host"])
        self.assertEqual((512, 512, 0), self.used())

    def test_a_host_asked_for_by_name_is_the_only_one(self):
        self.on("host1")
        self.script("prep_resize", lambda agent, context, args: None)
        self.refused("host_not_found", self.control.server_migrate, "one", host="nix")
        self.refused("no_valid_host", self.control.server_migrate, "one", host="host1")
        self.control.server_migrate("one", host="host3")
        [(_, args)] = self.agents["host3"].got("prep_resize")
        self.assertEqual(({"limits": {}}, []), (args["filter_properties"], args["host_list"]))


@once(DATABASE)
class PostgreSQLResizeTest(ResizeTest):
    database = "postgresql"
