"""Moves whose messages, hosts or control planes go away; groups and records."""

from datetime import timedelta

from compute.rpc import primitives
from compute.rpc.primitives import data
from db.control import records
from db.control.types import utcnow
from tests.functional import control_movers as movers
from tests.functional.control_movers import MovesTest
from tests.waiting import wait_until


class LostTest(MovesTest):
    """Messages, hosts and control planes that go away."""

    def test_a_lost_prep_resize_is_sent_again_and_only_then(self):
        self.on("host1")
        self.script("prep_resize", lambda agent, context, args: None)
        server = self.control.server_migrate("one")
        self.assertEqual([], self.control.moves.resume(60))
        self.age()
        self.assertEqual([server["id"]], self.control.moves.resume(60))
        self.assertEqual([], self.control.moves.resume(60))
        first, second = self.agents["host2"].got("prep_resize", 2)
        self.assertEqual((first[0].request_id, data(first[1]["migration"])["id"]),
                         (second[0].request_id, data(second[1]["migration"])["id"]))
        movers.prep_resize(self.agents["host2"], *second)
        self.wait_for("one", "resized")
        self.age()
        self.assertEqual([], self.control.moves.resume(60))

    def test_a_host_that_went_down_before_it_took_the_server_up(self):
        self.on("host1")
        self.script("prep_resize", lambda agent, context, args: None)
        self.control.server_migrate("one")
        self.silence("host2")
        self.age()
        self.control.moves.resume(60)
        now = self.control.server_show("one")
        self.assertEqual((None, "active"), (now["task_state"], now["vm_state"]))
        self.assertIn("went down", self.migration()["message"])
        self.assertEqual((512, 0), self.used())

    def test_lost_words_of_confirm_and_revert_are_sent_again(self):
        self.on("host1")
        self.script("confirm_resize", lambda agent, context, args: None)
        self.control.server_migrate("one")
        self.wait_for("one", "resized")
        self.control.server_resize_confirm("one")
        self.refused("busy", self.control.server_resize_confirm, "one")
        self.agents["host1"].got("confirm_resize")
        self.age()
        self.agents["host1"].script["confirm_resize"] = movers.confirm_resize
        self.control.moves.resume(60)
        self.wait_for("one", "active")
        self.script("revert_resize", lambda agent, context, args: None)
        self.control.server_migrate("one")
        self.wait_for("one", "resized")
        self.control.server_resize_revert("one")
        self.agents["host1"].got("revert_resize")
        self.agents["host1"].script["revert_resize"] = movers.revert_resize
        self.age()
        self.control.moves.resume(60)
        self.wait_for("one", "active")
        self.assertEqual("host2", self.control.server_show("one")["host"])

    def test_a_live_migration_goes_on_after_a_kill(self):
        self.on("host1")
        self.control.moves.live.stop()  # what was begun is never looked at
        self.control.server_live_migrate("one")
        self.assertEqual("accepted", self.migration()["status"])
        again = self.start_control()
        wait_until(lambda: again.server_show("one")["host"] == "host2")
        self.status("completed")

    def test_a_task_state_that_was_reset_ends_the_migration(self):
        server = self.on("host1")
        self.script("prep_resize", lambda agent, context, args: None)
        self.control.server_migrate("one")
        instance = self.agents["host1"].ask("Instance.get_by_uuid", server["id"])
        self.agents["host1"].save(instance, task_state=None)
        self.age()
        self.control.moves.resume(60)
        self.assertEqual("error", self.migration()["status"])
        self.assertEqual((512, 0), self.used())


class GroupTest(MovesTest):
    hosts = ("host1", "host2", "host3")

    def test_anti_affinity_counts_both_ends_of_a_move(self):
        self.control.group_create("apart")
        self.on("host1", "a", hints={"group": "apart"})
        self.on("host2", "b", hints={"group": "apart"})
        self.script("prep_resize", lambda agent, context, args: None)
        error = self.refused("no_valid_host", self.control.server_migrate, "a", host="host2")
        self.assertIn("anti-affinity", error.what)
        self.assertEqual("host3", self.moved("a"))
        said = self.refused("no_valid_host", self.control.server_migrate, "b").what
        self.assertIn("host1: 1 of the server group (anti-affinity) are on it already", said)
        self.assertIn("host3: 1 of the server group (anti-affinity) are on it already", said)

    def moved(self, name):
        self.control.server_migrate(name)
        return self.migration(name)["dest_compute"]


class UnconfirmedTest(MovesTest):
    def test_only_those_that_waited_long_enough(self):
        self.on("host1")
        self.control.server_migrate("one")
        self.wait_for("one", "resized")
        ask = "MigrationList.get_unconfirmed_by_dest_compute"
        host = self.agents["host2"]
        self.assertEqual([], primitives.objects(host.ask(ask, 100, "host2")))
        number = self.migration()["id"]
        with self.control.store.begin() as connection:
            old = {"updated_at": utcnow() - timedelta(0, 101)}
            records.save_migration(connection, number, old)
        self.assertEqual(1, len(primitives.objects(host.ask(ask, 100, "host2"))))
