"""Live migration and evacuation, between stand-ins for agents."""

import threading

from compute.errors import Refused
from compute.rpc import primitives
from compute.rpc.exceptions import nova_exception
from compute.rpc.primitives import data
from db.control import tables
from tests.functional import control_movers as movers
from tests.functional.control_movers import MovesTest
from tests.modes import DATABASE, once
from tests.waiting import PATIENCE, wait_until


class LiveTest(MovesTest):
    hosts = ("host1", "host2", "host3")

    def refuse(self, *hosts):
        def no(agent, context, args):
            raise nova_exception("MigrationPreCheckError")(f"the CPU of {agent.host} is older")

        for host in hosts:
            self.agents[host].script["check_can_live_migrate_destination"] = no

    def test_to_a_host_that_can(self):
        before = self.on("host1")
        self.refuse("host2")
        go_on = self.hold(self.agents["host1"], "live_migration")
        self.assertEqual("migrating", self.control.server_live_migrate("one")["task_state"])
        go_on.set()
        self.status("completed")
        now = self.wait_for("one", "active")
        self.assertEqual(("host3", before["addresses"]), (now["host"], now["addresses"]))
        self.assertEqual((0, 0, 512), self.used())
        self.assertEqual("live-migration", self.control.server_actions("one")[-1]["action"])
        with self.control.store.begin() as connection:
            hosts = {p["host"] for p in
                     connection.execute(tables.ports.select()).mappings()}
        self.assertEqual({"host3"}, hosts)

    def test_the_messages_are_novas(self):
        self.on("host1")
        self.script("live_migration", lambda agent, context, args: None)
        self.control.server_live_migrate("one", host="host3", block_migration=True,
                                         request_id="req-l")
        [(_, args)] = self.agents["host3"].got("check_can_live_migrate_destination")
        self.assertEqual({"instance", "block_migration", "disk_over_commit", "migration",
                          "limits"}, set(args))
        self.assertEqual(("accepted", "live-migration"), tuple(
            data(args["migration"])[k] for k in ("status", "migration_type")))
        [(context, args)] = self.agents["host1"].got("live_migration")
        self.assertEqual({"instance", "dest", "block_migration", "migration", "migrate_data"},
                         set(args))
        self.assertEqual(("host3", True, "req-l", "host3", "host3"), (
            args["dest"], args["block_migration"], context.request_id,
            data(args["migration"])["dest_compute"], data(args["migration"])["dest_node"]))
        self.assertEqual("LibvirtLiveMigrateData", args["migrate_data"]["nova_object.name"])
        self.assertEqual({}, primitives.own(args["migrate_data"]))
        self.assertIn(("live_migration", "compute-alt", "6.0"), self.agents["host1"].routes)
        self.assertIn(("check_can_live_migrate_destination", "compute", "6.0"),
                      self.agents["host3"].routes)
        self.refused("bad_value", self.control.server_live_migrate, "one",
                     block_migration="perhaps")

    def test_options_of_one_migration(self):
        one = self.on("host1")["id"]
        self.script("live_migration", movers.running)
        self.agents["host1"].script.update(
            migration_options=lambda agent, context, args: args,
            migration_set=lambda agent, context, args: {
                "bandwidth_limit": args["bandwidth"], "max_pause": 70})
        self.control.server_live_migrate("one", host="host3", strategy="precopy", max_pause=70)
        [(_, asked)] = self.agents["host1"].got("migration_options")
        self.assertEqual({"guest": one, "strategy": "precopy", "max_pause": 70}, asked)
        [(_, args)] = self.agents["host1"].got("live_migration")
        wanted = {"strategy": "precopy", "max_pause": 70}
        self.assertEqual({"asked": wanted}, primitives.own(args["migrate_data"]))
        self.status("running")
        self.assertEqual([wanted], [move["asked"] for move in self.control.migration_list()])
        now = self.control.server_migration_set("one", bandwidth=9)
        self.assertEqual((9, 70, {**wanted, "bandwidth": 9}),
                         (now["bandwidth_limit"], now["max_pause"], now["asked"]))
        [(_, args)] = self.agents["host1"].got("migration_set")
        self.assertEqual({"guest": one, "bandwidth": 9}, args)

    def test_options_that_the_host_refuses_begin_nothing(self):
        self.on("host1")

        def no(agent, context, args):
            raise Refused("The strategy postcopy is not permitted on this host.",
                          now="Nothing was changed.", code="strategy_not_permitted")

        self.agents["host1"].script.update(migration_options=no, migration_set=no)
        self.refused("strategy_not_permitted", self.control.server_live_migrate, "one",
                     strategy="postcopy")
        self.assertIsNone(self.control.server_show("one")["task_state"])
        self.assertEqual([], self.control.migration_list(all=True))
        self.refused("migration_not_found", self.control.server_migration_set, "one", bandwidth=1)
        self.script("live_migration", movers.running)
        self.control.server_live_migrate("one")
        self.status("running")
        self.refused("strategy_not_permitted", self.control.server_migration_set, "one",
                     max_pause=1)
        self.assertEqual([{}], [move["asked"] for move in self.control.migration_list()])

    def test_no_host_that_can_leaves_the_server_as_it_was(self):
        self.on("host1")
        self.refuse("host2", "host3")
        self.control.server_live_migrate("one")
        failed = self.status("error")
        for host in ("host2", "host3"):
            self.assertIn(f"the CPU of {host} is older", failed["message"])
        now = self.control.server_show("one")
        self.assertEqual(("active", None, "host1"),
                         (now["vm_state"], now["task_state"], now["host"]))
        self.assertEqual((512, 0, 0), self.used())
        self.assertEqual([], self.messages("host1", "live_migration"))
        self.control.server_live_migrate("one", host="host2")
        wait_until(lambda: self.control.server_show("one")["task_state"] is None)
        self.assertIn("Host host2:", self.migration()["message"])
        self.assertEqual(2, len(self.agents["host2"].got("check_can_live_migrate_destination", 2)))

    def test_abort_in_every_phase(self):
        self.on("host1")
        for script in (movers.queued, movers.running):
            self.script("live_migration", script)
            self.control.server_live_migrate("one")
            self.status(script.__name__)
            self.control.server_migration_abort("one")
            self.status("cancelled")
            self.assertEqual("active", self.wait_for("one", "active")["vm_state"])
        self.assertIn(("live_migration_abort", "compute", "6.0"), self.agents["host1"].routes)
        self.refused("migration_not_found", self.control.server_migration_abort, "one")

        hold, asked = threading.Event(), threading.Event()

        def slow(agent, context, args):
            asked.set()
            hold.wait(PATIENCE)
            return movers.check_destination(agent, context, args)

        self.script("check_can_live_migrate_destination", slow)
        self.control.server_live_migrate("one")
        wait_until(asked.is_set)
        self.control.server_migration_abort("one", self.migration()["id"])
        hold.set()
        self.assertEqual("cancelled", self.migration()["status"])
        self.assertIsNone(self.control.server_show("one")["task_state"])
        self.assertEqual(2, len(self.messages("host1", "live_migration")))

    def test_force_complete_while_it_runs(self):
        self.on("host1")
        self.script("live_migration", movers.queued)
        self.control.server_live_migrate("one")
        self.status("queued")
        self.refused("bad_state", self.control.server_migration_force_complete, "one")
        found = self.agents["host1"].ask("Migration.get_by_id", self.migration()["id"])
        self.agents["host1"].save(found, status="running")
        self.control.server_migration_force_complete("one")
        [(_, args)] = self.agents["host1"].got("live_migration_force_complete")
        self.assertEqual({"instance"}, set(args))

    def test_plan_and_progress_ask_the_servers_host(self):
        self.on("host1")
        self.agents["host1"].script.update(
            plan_live_migrate=lambda agent, context, args: {"verdict": "can", **args},
            migration_progress=lambda agent, context, args: {"phase": "precopy", **args})
        one = self.control.server_show("one")["id"]
        self.assertEqual({"verdict": "can", "guest": one, "host": "host3", "block": True},
                         self.control.server_plan_live_migrate("one", "host3", True))
        self.assertIn(self.control.server_plan_live_migrate("one")["host"], ("host2", "host3"))
        self.refused("host_not_found", self.control.server_plan_live_migrate, "one", "nix")
        self.refused("same_host", self.control.server_plan_live_migrate, "one", "host1")
        self.agents["host1"].script["explain"] = lambda agent, context, args: {"next": "-", **args}
        self.assertEqual({"next": "-", "guest": one}, self.control.server_explain("one"))
        self.script("live_migration", movers.running)
        self.control.server_live_migrate("one")
        self.status("running")
        now = self.control.server_migration_progress("one")
        self.assertEqual(("running", 40, {"phase": "precopy", "guest": one}),
                         (now["status"], now["memory_remaining"], now["progress"]))
        self.assertEqual([now["id"]], [m["id"] for m in self.control.migration_list(host="host1")])
        self.assertEqual([], self.control.migration_list(type="cold-migration", all=True))

    def test_a_deleted_server_ends_its_migration(self):
        server = self.on("host1")
        self.script("live_migration", movers.running)
        self.control.server_live_migrate("one")
        self.status("running")
        self.control.server_delete("one")
        wait_until(lambda: not self.control.server_list())
        self.assertEqual("error", self.migration(server["id"])["status"])
        self.assertEqual((0, 0, 0), self.used())


class EvacuateTest(MovesTest):
    def test_only_from_a_host_that_is_surely_off(self):
        self.on("host1")
        self.refused("host_up", self.control.server_evacuate, "one")
        self.refused("host_up", self.control.server_evacuate, "one", fenced=True)
        self.silence("host1")
        error = self.refused("not_fenced", self.control.server_evacuate, "one")
        self.assertIn("run twice", error.what)
        self.assertIsNone(self.control.server_show("one")["task_state"])
        self.control.server_evacuate("one", fenced=True)
        self.status("done")
        now = self.wait_for("one", "active")
        self.assertEqual(("host2", (0, 512)), (now["host"], self.used()))

    def test_a_heartbeat_ends_the_confirmation(self):
        self.on("host1")
        self.on("host1", "two")
        self.silence("host1")
        self.control.server_evacuate("one", fenced=True)
        self.status("done")
        self.agents["host1"].beat()
        self.silence("host1")
        self.refused("not_fenced", self.control.server_evacuate, "two")

    def test_the_message_is_novas(self):
        self.on("host1")
        self.silence("host1")
        self.script("rebuild_instance", lambda agent, context, args: None)
        self.control.server_evacuate("one", fenced=True)
        [(_, args)] = self.agents["host2"].got("rebuild_instance")
        self.assertIn(("rebuild_instance", "compute", "6.2"), self.agents["host2"].routes)
        self.assertEqual({
            "instance", "new_pass", "injected_files", "image_ref", "orig_image_ref",
            "orig_sys_metadata", "bdms", "recreate", "on_shared_storage", "preserve_ephemeral",
            "migration", "scheduled_node", "limits", "request_spec", "accel_uuids",
            "reimage_boot_volume", "target_state"}, set(args))
        self.assertEqual((True, "rebuilding", "host1", "accepted", "evacuation"), (
            args["recreate"], data(args["instance"])["task_state"],
            data(args["instance"])["host"], data(args["migration"])["status"],
            data(args["migration"])["migration_type"]))
        self.age()
        self.control.moves.resume(60)
        self.agents["host2"].got("rebuild_instance", 2)

    def test_a_host_that_returns_finds_what_was_taken_from_it(self):
        self.on("host1")
        self.silence("host1")
        self.control.server_evacuate("one", fenced=True)
        self.status("done")
        found = primitives.objects(self.agents["host1"].ask("MigrationList.get_by_filters", {
            "source_compute": "host1", "migration_type": "evacuation",
            "status": ["accepted", "pre-migrating", "done"]}))
        self.assertEqual([("done", "host2")],
                         [(data(m)["status"], data(m)["dest_compute"]) for m in found])


@once(DATABASE)
class PostgreSQLLiveTest(LiveTest):
    database = "postgresql"
