"""Emptying hosts: drained while they work, evacuated when they are lost."""

from compute.rpc.exceptions import nova_exception
from compute.rpc.primitives import data
from tests.functional import control_movers as movers
from tests.functional.control_movers import MovesTest
from tests.modes import DATABASE, once
from tests.waiting import wait_until


class DrainTest(MovesTest):
    hosts = ("host1", "host2", "host3")

    def ended(self, host="host1"):
        def look():
            self.control.drains.step()
            shown = self.control.host_drain_show(host)
            return shown if shown["status"] != "running" else None

        return wait_until(look)

    def where(self):
        return {row["name"]: row["host"] for row in self.control.server_list()}

    def state(self, name, **values):
        uuid = self.control.server_show(name)["id"]
        host = self.agents["host1"]
        host.save(host.ask("Instance.get_by_uuid", uuid), **values)

    def check(self, answer):
        def no(agent, context, args):
            raise nova_exception("MigrationPreCheckError")(answer)

        self.script("check_can_live_migrate_destination", no)

    def test_a_number_that_makes_no_sense_changes_nothing(self):
        for verb in (self.control.host_drain, self.control.host_evacuate):
            self.refused("bad_value", verb, "host1", max=0)
        self.assertEqual("enabled", self.control.host_show("host1")["status"])
        self.refused("drain_not_found", self.control.host_drain_show, "host1")

    def test_live_for_what_runs_and_cold_for_what_does_not(self):
        for name in ("a", "b", "c"):
            self.on("host1", name)
        self.state("c", vm_state="stopped")
        shown = self.control.host_drain("host1", 2)
        self.assertEqual(("running", 3, 2), (shown["status"], shown["total"], shown["max"]))
        done = self.ended()
        self.assertEqual(("done", 3, 3, [], []), tuple(
            done[k] for k in ("status", "moved", "total", "left", "moving")))
        self.assertNotIn("host1", self.where().values())
        kinds = {m["server"]: (m["type"], m["status"])
                 for m in self.control.migration_list(all=True)}
        live = ("live-migration", "completed")
        self.assertEqual({"a": live, "b": live, "c": ("migration", "confirmed")}, kinds)
        self.wait_for("c", "stopped")
        host = self.control.host_show("host1")
        self.assertEqual(("disabled", "its servers are moved away"),
                         (host["status"], host["disabled_reason"]))
        [(_, args)] = self.agents["host1"].got("set_host_enabled")[-1:]
        self.assertFalse(args["enabled"])

    def test_no_more_at_once_than_wanted(self):
        for name in ("a", "b", "c"):
            self.on("host1", name)
        self.script("live_migration", movers.running)
        self.control.host_drain("host1", 2)
        wait_until(lambda: len(self.messages("host1", "live_migration")) == 2)
        for _ in range(3):
            self.control.drains.step()
        shown = self.control.host_drain_show("host1")
        self.assertEqual((2, 1, 0), tuple(len(shown[k]) for k in ("moving", "left")) + (
            shown["moved"],))

    def test_a_killed_control_plane_goes_on(self):
        for name in ("a", "b"):
            self.on("host1", name)
        self.control.stop()
        self.control.host_drain("host1", 1)
        self.assertEqual({"host1"}, set(self.where().values()))
        self.control = self.start_control()
        self.assertEqual("done", self.ended()["status"])

    def test_cold_where_no_host_takes_it_live(self):
        self.on("host1", "a")
        self.check("the CPU is older")
        self.control.host_drain("host1")
        self.assertEqual(("done", 1), tuple(self.ended()[k] for k in ("status", "moved")))
        self.assertEqual([("live-migration", "error"), ("migration", "confirmed")], [
            (m["type"], m["status"]) for m in self.control.server_migration_list("a")])

    def test_what_cannot_move_is_said_and_tried_when_asked_again(self):
        for name in ("a", "b", "c"):
            self.on("host1", name)
        self.state("a", vm_state="suspended")
        self.state("b", vm_state="paused")
        self.check("no")
        self.control.host_drain("host1")
        stuck = self.ended()
        self.assertEqual("stuck", stuck["status"])
        reasons = {left["server"]: left["reason"] for left in stuck["left"]}
        self.assertEqual({"a", "b"}, set(reasons))
        self.assertIn("resume it", reasons["a"])
        self.assertIn("it is paused", reasons["b"])
        self.state("a", vm_state="active")
        self.script("check_can_live_migrate_destination", movers.check_destination)
        self.control.host_drain("host1")
        self.assertEqual("done", self.ended()["status"])

    def test_one_that_somebody_stopped_is_left(self):
        self.on("host1", "a")
        self.script("live_migration", movers.running)
        self.control.host_drain("host1")
        self.status("running", "a")
        self.control.server_migration_abort("a")
        stuck = self.ended()
        self.assertIn("somebody stopped", stuck["left"][0]["reason"])

    def test_enable_and_stop_end_it(self):
        self.on("host1", "a")
        self.script("live_migration", movers.queued)
        self.control.host_drain("host1")
        self.status("queued", "a")
        self.assertEqual("stopped", self.control.host_drain_stop("host1")["status"])
        self.assertEqual("disabled", self.control.host_show("host1")["status"])
        self.control.host_drain("host1")
        self.control.host_enable("host1")
        self.assertEqual("stopped", self.control.host_drain_show("host1")["status"])
        self.refused("drain_not_found", self.control.host_drain_show, "host2")
        self.refused("bad_value", self.control.host_drain, "host1", 0)

    def test_an_affinity_group_goes_together(self):
        self.control.group_create("near", "affinity")
        for name in ("a", "b"):
            self.on("host1", name, hints={"group": "near"})
        self.refused("no_valid_host", self.control.server_migrate, "a")
        self.control.host_drain("host1", 1)
        self.assertEqual("done", self.ended()["status"])
        self.assertEqual(1, len(set(self.where().values())))
        self.assertNotIn("host1", self.where().values())

    def test_a_host_that_is_lost(self):
        for name in ("a", "b", "c"):
            self.on("host1", name)
        self.state("c", vm_state="suspended")
        self.refused("not_fenced", self.control.host_evacuate, "host1")
        self.refused("host_up", self.control.host_evacuate, "host1", fenced=True)
        self.silence("host1")
        self.control.host_evacuate("host1", fenced=True)
        stuck = self.ended()
        self.assertEqual(("stuck", "evacuate", 2), tuple(
            stuck[k] for k in ("status", "kind", "moved")))
        self.assertEqual("a server that is suspended cannot be evacuated",
                         stuck["left"][0]["reason"])
        self.assertEqual("host1", self.where()["c"])
        for method in ("rebuild_instance",):
            sent = [m for host in ("host2", "host3") for m in self.messages(host, method)]
            self.assertEqual({True}, {args["recreate"] for _, _, args in sent})
            self.assertEqual({"host1"}, {data(args["instance"])["host"] for _, _, args in sent})


    def test_row_46_a_lost_host_that_never_returns_holds_no_room(self):
        for name in ("a", "b"):
            self.on("host1", name)
        self.silence("host1")
        self.control.host_evacuate("host1", fenced=True)
        self.assertEqual("done", self.ended()["status"])
        lost = self.control.host_show("host1")
        self.assertEqual(("down", 0, 0, 0), tuple(
            lost[k] for k in ("state", "servers", "vcpus_used", "memory_mb_used")))
        used = sum(self.control.host_show(host)["vcpus_used"] for host in ("host2", "host3"))
        self.assertEqual(2, used)


@once(DATABASE)
class PostgreSQLDrainTest(DrainTest):
    database = "postgresql"
