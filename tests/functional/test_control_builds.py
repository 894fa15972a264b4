"""Where servers are built: spreading, groups, trying elsewhere, lost messages, statements."""

import threading

import fixtures
from oslo_config import cfg
from sqlalchemy import event

from compute.errors import MagnetarError, Refused
from compute.rpc.primitives import data
from db.control import instances
from tests.functional.control_support import FAR, ControlTest, nova_errors
from tests.modes import DATABASE, once
from tests.waiting import PATIENCE, wait_until


class BuildsTest(ControlTest):
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


class SchedulingTest(BuildsTest):
    def setUp(self):
        super().setUp()
        self.other = self.agent("host2")

    def test_servers_spread(self):
        hosts = {self.active(name)["host"] for name in ("one", "two")}
        self.assertEqual({"host1", "host2"}, hosts)

    def test_a_burst_never_exceeds_what_there_is(self):
        self.control.flavor_create("half", vcpus=1, ram=4096)
        made, errors = [], []

        def create(number):
            try:
                made.append(self.control.server_create(f"s{number}", "tiny", "half"))
            except Refused as error:
                errors.append(error.code)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((4, ["no_valid_host"] * 3), (len(made), errors))
        self.assertEqual([8192, 8192],
                         [row["memory_mb_used"] for row in self.control.host_list()])

    def test_groups(self):
        self.control.group_create("apart", "anti-affinity")
        self.control.group_create("together", "affinity")
        hosts = [self.active(f"a{n}", hints={"group": "apart"})["host"] for n in range(2)]
        self.assertEqual({"host1", "host2"}, set(hosts))
        self.refused("no_valid_host", self.create, "a3", hints={"group": "apart"})
        hosts = {self.active(f"t{n}", hints={"group": "together"})["host"] for n in range(3)}
        self.assertEqual(1, len(hosts))
        self.assertEqual(3, len(self.control.group_show("together")["members"]))
        group = self.host.ask("InstanceGroup.get_by_hint", "together")
        self.assertEqual(sorted(hosts), data(group)["hosts"])

    def test_a_disabled_host_gets_nothing(self):
        self.control.host_disable("host1", "new disk")
        self.assertEqual({"enabled": False}, self.host.got("set_host_enabled")[0][1])
        self.assertEqual({"host2"}, {self.active(f"s{n}")["host"] for n in range(3)})
        row = self.control.host_enable("host1")
        self.assertEqual(("enabled", None), (row["status"], row["disabled_reason"]))

    def test_zones(self):
        self.control.host_set_zone("host2", "east")
        self.assertEqual("host2", self.active(availability_zone="east")["host"])
        self.assertEqual("host1", self.active("two", availability_zone="nova")["host"])


def hand_back(agent, context, args):
    """What an agent does that has no room after all."""
    retry = {**args["filter_properties"]["retry"], "exc_reason": ["no room left"]}
    agent.task(
        "build_instances", context, instances=[args["instance"]], image=args["image"],
        filter_properties={**args["filter_properties"], "retry": retry},
        admin_password=args["admin_password"], injected_files=args["injected_files"],
        requested_networks=args["requested_networks"], security_groups=args["security_groups"],
        legacy_bdm=False, block_device_mapping=args["block_device_mapping"],
        request_spec=args["request_spec"], host_lists=[args["host_list"]],
    )


class RescheduleTest(BuildsTest):
    def setUp(self):
        super().setUp()
        self.host.script["build_and_run_instance"] = hand_back

    def test_the_next_host_is_tried(self):
        other = self.agent("host2", memory_mb=4096 + 512)
        made = self.create()
        now = self.wait_for(made["id"], "active")
        self.assertEqual("host2", now["host"])
        [(_, first)] = self.host.got("build_and_run_instance")
        self.assertEqual(["host2"], [data(s)["service_host"] for s in first["host_list"]])
        [(context, args)] = other.got("build_and_run_instance")
        self.assertEqual(
            {"num_attempts": 2, "hosts": [["host1", "host1"], ["host2", "host2"]]},
            args["filter_properties"]["retry"],
        )
        self.assertEqual(("host2", [], made["request_id"]),
                         (args["node"], args["host_list"], context.request_id))
        self.assertEqual(0, self.control.host_show("host1")["servers"])
        self.assertEqual(1, self.control.host_show("host2")["servers"])

    def test_no_other_host_ends_in_error_and_says_why(self):
        self.control.network_create("net", "192.0.2.0/24")
        made = self.create()
        now = self.wait_for(made["id"], "error")
        self.assertIn("No valid host", now["fault"]["message"])
        self.assertIn("the build failed there before", now["fault"]["details"])
        self.assertIn("The last host said: no room left", now["fault"]["details"])
        self.assertEqual(0, self.control.host_show("host1")["servers"])
        self.control.server_delete("one")
        self.assertEqual([], self.control.server_list())

    def test_max_attempts(self):
        cfg.CONF.set_override("max_attempts", 2, "control")
        self.addCleanup(cfg.CONF.clear_override, "max_attempts", "control")
        for name in ("host2", "host3"):
            self.agent(name).script["build_and_run_instance"] = hand_back
        now = self.wait_for(self.create()["id"], "error")
        self.assertIn("2 hosts were tried", now["fault"]["message"])

    def test_a_deleted_server_is_not_rescheduled(self):
        other = self.agent("host2", memory_mb=4096 + 512)
        held = threading.Event()

        def hold(agent, context, args):
            held.wait(PATIENCE)
            hand_back(agent, context, args)

        self.host.script["build_and_run_instance"] = hold
        self.create()
        self.host.got("build_and_run_instance")
        self.control.server_delete("one")
        held.set()
        self.host.ask("Service.get_minimum_version", "nova-compute")  # after the cast
        self.assertEqual([], other.received)


class LostMessagesTest(BuildsTest):
    def test_a_build_that_nobody_took_up_is_sent_again_under_its_own_request(self):
        self.quiet("build_and_run_instance")
        made = self.create()
        self.host.got("build_and_run_instance")
        self.assertEqual([], self.control.builds.resume(FAR))
        self.host.received.clear()
        self.assertEqual([made["id"]], self.control.builds.resume(0))
        [(context, args)] = self.host.got("build_and_run_instance")
        self.assertEqual((made["request_id"], made["id"]),
                         (context.request_id, data(args["instance"])["uuid"]))

    def test_a_control_plane_that_died_before_sending_sends_at_its_next_start(self):
        def dies(*args, **kwargs):
            raise SystemExit

        with fixtures.MonkeyPatch("control.builds.Builds.send", dies):
            self.assertRaises(SystemExit, self.create)
            self.control.stop()
        self.control = self.start_control()
        [row] = self.control.server_list()
        self.wait_for(row["id"], "active")
        self.assertEqual(1, len(self.host.got("build_and_run_instance")))
        wait_until(lambda: self.control.server_actions(row["id"])[0]["finish_time"])

    def test_a_build_that_was_given_up_goes_to_the_next_host_once(self):
        handed_back = []

        def give_up(agent, context, args):
            agent.save(args["instance"], context, host="host1", node="host1", compute_id=1,
                       task_state="networking")
            now = agent.ask("Instance.get_by_uuid", data(args["instance"])["uuid"])
            agent.save(now, context, host=None, node=None, compute_id=None,
                       task_state="scheduling")
            handed_back.append((context, args))  # and its message is late

        self.host.script["build_and_run_instance"] = give_up
        other = self.agent("host2", memory_mb=4096 + 512)
        other.script.clear()
        made = self.create()
        [(context, args)] = wait_until(lambda: handed_back)
        self.assertEqual(0, self.control.host_show("host1")["servers"])
        self.assertEqual([made["id"]], self.control.builds.resume(0))
        other.got("build_and_run_instance")
        hand_back(self.host, context, args)
        self.assertEqual([made["id"]], self.control.builds.resume(0))  # to host2 again
        self.assertEqual(2, len(other.got("build_and_run_instance", 2)))
        self.assertEqual(1, len(self.host.got("build_and_run_instance")))

    def test_a_build_that_was_taken_up_is_not_sent_again(self):
        self.active()
        self.host.received.clear()
        self.assertEqual([], self.control.builds.resume(0))
        with self.control.store.begin() as connection:
            [row] = instances.query(connection, extra=("build_args",))
        self.assertIsNone(row["build_args"])

    def test_two_hosts_never_build_one_server(self):
        other = self.agent("host2")
        self.quiet("build_and_run_instance")
        other.script.clear()
        self.create()
        sent = wait_until(lambda: [m for a in (self.host, other) for m in a.received])
        instance = sent[0][2]["instance"]
        self.host.save(instance, None, ["scheduling", None], task_state=None, host="host1",
                       node="host1", compute_id=1)
        error = self.assertRaises(
            nova_errors(), other.save, instance, None, ["scheduling", None],
            task_state="networking", host="host2", node="host2", compute_id=2)
        self.assertEqual("InstanceUpdateConflict", type(error).__name__)


class StatementsTest(BuildsTest):
    def count(self, work):
        seen = []

        def note(connection, cursor, statement, *args):
            seen.append(statement)

        engine = self.control.store.engine
        event.listen(engine, "before_cursor_execute", note)
        try:
            work()
        finally:
            event.remove(engine, "before_cursor_execute", note)
        return len(seen)

    def settled(self, name="one"):
        """A server for which nothing at all goes on any more."""
        self.active(name)
        wait_until(lambda: self.control.server_actions(name)[0]["finish_time"])

    def test_lists_take_the_same_statements_however_many_there_are(self):
        self.control.network_create("net", "192.0.2.0/24")
        self.settled()
        verbs = (self.control.server_list, self.control.host_list, self.control.network_list,
                 lambda: self.host.ask("InstanceList.get_by_host", "host1"))
        one = [self.count(verb) for verb in verbs]
        for number in range(4):
            self.settled(f"s{number}")
        self.assertEqual(one, [self.count(verb) for verb in verbs])
        self.assertTrue(all(count <= 5 for count in one), one)

    def test_a_save_is_one_statement(self):
        self.settled()
        server = self.control.server_show("one")
        instance = self.host.ask("Instance.get_by_uuid", server["id"])
        saves = self.count(lambda: self.host.save(instance, None, [None], progress=5))
        self.assertEqual(2, saves)  # the UPDATE, and SQLite's BEGIN


@once(DATABASE)
class PostgreSQLSchedulingTest(SchedulingTest):
    database = "postgresql"


@once(DATABASE)
class PostgreSQLRescheduleTest(RescheduleTest):
    database = "postgresql"
