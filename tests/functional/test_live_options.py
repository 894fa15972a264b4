"""Options of one migration, asked for when it begins and while it goes on."""

from __future__ import annotations

from compute.errors import Refused
from compute.migration.policy import State
from compute.model.move import MovePlan
from compute.operator.verbs import OperatorVerbs
from db.journal import rows
from tests.functional.live_support import LiveTest

NOT_CHANGED = "Nothing was changed"


class Base(LiveTest):
    def plan(self, guest: str) -> MovePlan:
        """How its migration was begun."""
        return MovePlan.from_plain(self.hosts.fabric.move(guest)["plan"])

    def limits(self, guest: str) -> dict:
        """What may be done about it, as it was decided."""
        [row] = self.one.operations(guest, "live_out")
        [step] = [s for s in self.one.world.journal.steps(row.id) if s.name == "strategy"]
        return step.outcome["limits"]

    def moving(self, guest: str) -> dict:
        """How it stands, once its memory goes over."""
        def told() -> dict:
            return self.one.verbs.migration_progress(guest) or {}

        self.wait(lambda: told().get("phase") == "precopy")
        return told()

    def refused(self, code: str, ask, *args, **kwargs) -> Refused:
        error = self.assertRaises(Refused, ask, *args, **kwargs)
        self.assertEqual(code, error.code, error)
        self.assertIn(NOT_CHANGED, error.now)
        self.assertTrue(error.next, error)
        return error


class OptionsTest(Base):
    def test_what_was_asked_for_is_taken_instead_of_the_options(self):
        guest = self.boot()
        self.one.world.conf.libvirt.live_migration_bandwidth = 7
        self.one.world.conf.libvirt.live_migration_strategy = "auto-converge"
        self.migrate(guest, strategy="precopy", bandwidth=30, max_pause=60)
        self.assert_on(guest, self.two)
        plan, limits = self.plan(guest), self.limits(guest)
        self.assertEqual((30, 60, False), (plan.bandwidth, plan.downtime_ms, plan.auto_converge))
        self.assertEqual((30, 60), (limits["bandwidth"], limits["budget_ms"]))
        self.migrate(guest, source=self.two, dest=self.one)  # and only for that one
        self.assert_on(guest, self.one)
        self.assertEqual(0, self.plan(guest).bandwidth)

    def test_a_request_names_what_its_host_would_do(self):
        guest = self.boot()
        self.assertEqual(
            {"strategy": "auto", "bandwidth": 0, "max_pause": 500, "promised": False},
            self.one.verbs.migration_options(guest))
        self.assertEqual(
            {"strategy": "precopy", "bandwidth": 5, "max_pause": 50, "promised": False},
            self.one.verbs.migration_options(guest, "precopy", 5, 50))
        error = self.refused("strategy_not_permitted", self.one.verbs.migration_options, guest,
                             "postcopy")
        self.assertIn("live_migration_permit_post_copy = true", error.next)
        self.refused("bad_value", self.one.verbs.migration_options, guest, bandwidth=-1)
        self.refused("guest_not_found", self.one.verbs.migration_options, "nobody")

    def test_what_is_not_permitted_any_more_is_undone(self):
        guest = self.boot()
        moving = self.migrate(guest, strategy="postcopy")
        self.assert_on(guest, self.one)
        self.assertEqual("failed", self.conductor.migration_fields(moving)["status"])
        [row] = self.one.operations(guest, "live_out")
        self.assertEqual((rows.UNDONE, "strategy_not_permitted"), (row.state, row.error["code"]))

    def test_a_plan_reckons_with_it(self):
        guest = self.boot()
        plan = self.one.verbs.plan_live_migrate(
            guest, "host2", strategy="precopy", bandwidth=1, max_pause=20)
        self.assertEqual(("precopy", 1 << 20, 1, 20), (
            plan["strategy"], plan["bandwidth"], plan["bandwidth_limit"], plan["max_pause"]))
        self.refused("strategy_not_permitted", self.one.verbs.plan_live_migrate, guest, "host2",
                     strategy="multifd")
        self.refused("bad_value", self.one.verbs.plan_live_migrate, guest, "host2", max_pause=0)


class ChangeTest(Base):
    def setUp(self) -> None:
        super().setUp()
        self.hosts.fabric.set(samples=10_000)

    def sped(self, guest: str) -> tuple:
        """Bandwidth and pause that the hypervisor was told."""
        move = self.hosts.fabric.move(guest)
        return move.get("bandwidth"), move["downtime_ms"]

    def test_it_is_changed_while_it_goes_on(self):
        guest = self.boot()
        self.migrate(guest, bandwidth=30)
        told = self.moving(guest)
        self.assertEqual((30, 500), (told["bandwidth_limit"], told["max_pause"]))
        self.assertEqual({"bandwidth_limit": 80, "max_pause": 500},
                         self.one.verbs.migration_set(guest, bandwidth=80))
        self.wait(lambda: self.sped(guest)[0] == 80)
        self.assertEqual({"bandwidth_limit": 80, "max_pause": 1000},
                         self.one.verbs.migration_set(guest, max_pause=1000))
        self.wait(lambda: self.moving(guest)["max_pause"] == 1000)
        self.hosts.fabric.set(samples=1)
        self.assert_on(guest, self.two)
        self.assertEqual([], self.one.world.journal.claims(kind="tuned"))

    def test_a_budget_that_is_lowered_lowers_the_pause(self):
        guest = self.boot()
        self.migrate(guest)
        self.moving(guest)
        self.assertEqual(200, self.sped(guest)[1])  # as it begins
        self.one.verbs.migration_set(guest, max_pause=40)
        self.wait(lambda: self.sped(guest)[1] == 40)

    def test_an_agent_that_starts_again_goes_by_it(self):
        guest = self.boot()
        self.migrate(guest)
        self.moving(guest)
        fabric = self.hosts.fabric
        self.one.verbs.migration_set(guest, bandwidth=80)
        self.one.verbs.migration_set(guest, max_pause=250)
        self.wait(lambda: self.sped(guest)[0] == 80)
        self.one.stop()
        with fabric.lock():
            fabric.set_move(guest, {**fabric.move(guest), "bandwidth": None})
        self.one.start()
        self.wait(lambda: self.sped(guest)[0] == 80)  # it may have died before it was done
        told = self.moving(guest)
        self.assertEqual((80, 250), (told["bandwidth_limit"], told["max_pause"]))
        self.one.verbs.migration_set(guest, bandwidth=0)
        self.wait(lambda: self.sped(guest)[0] == 0)
        shown = OperatorVerbs(self.one.reconciler, {}).explain(guest)["migration"]
        self.assertEqual(("host2", 0, 250), (
            shown["destination"], shown["bandwidth_limit"], shown["max_pause"]))
        self.assertTrue(shown["strategy"] and shown["reason"])

    def test_what_was_written_down_and_not_done_is_done_after_a_restart(self):
        """Killed in the moment before it told the hypervisor, the agent would wait for ever."""
        permits = {"live_migration_strategy": "postcopy", "live_migration_permit_post_copy": True}
        for done, given in (({"postcopy": True}, "post-copy"), ({"aborted": True}, "abort")):
            guest = self.boot()
            vars(self.one.world.conf.libvirt).update(permits)
            self.hosts.fabric.set(samples=10_000)
            self.migrate(guest)
            self.moving(guest)
            self.one.stop()
            [row] = self.one.operations(guest, "live_out")
            state = State(downtime_ms=100, **done)
            self.one.world.journal.claim("transfer", guest, guest, row.id, state.to_plain())
            self.one.start()
            self.wait(lambda g=guest: self.hosts.fabric.move(g)["phase"] in (
                "postcopy", "completed", "cancelled"))
            self.hosts.fabric.set(samples=1)
            self.assert_on(guest, self.two if given == "post-copy" else self.one)

    def test_in_the_queue_too(self):
        first, guest = self.boot(), self.boot()
        self.migrate(first)
        self.moving(first)
        self.migrate(guest, max_pause=70)
        self.wait(lambda: (self.one.verbs.migration_progress(guest) or {}).get("queue_position"))
        self.assertEqual(70, self.one.verbs.migration_progress(guest)["max_pause"])
        self.assertEqual({"bandwidth_limit": 12, "max_pause": 70},
                         self.one.verbs.migration_set(guest, bandwidth=12))
        self.hosts.fabric.set(samples=3)
        self.assert_on(guest, self.two)
        self.assertEqual((12, 70), self.sped(guest))

    def test_what_cannot_be_changed(self):
        guest = self.boot()
        self.refused("no_migration", self.one.verbs.migration_set, guest, bandwidth=1)
        self.migrate(guest)
        self.moving(guest)
        self.refused("bad_value", self.one.verbs.migration_set, guest)
        self.refused("bad_value", self.one.verbs.migration_set, guest, bandwidth=-1)
        self.refused("bad_value", self.one.verbs.migration_set, guest, max_pause=True)
        self.refused("guest_not_found", self.one.verbs.migration_set, "nobody", max_pause=9)
        self.assertEqual([], self.one.world.journal.claims(kind="tuned"))
        held = []
        wanted = self.one.world.peers.call

        def call(context, host, method, **args):
            if method == "post_live_migration_at_destination" and not held:
                held.append(self.assertRaises(
                    Refused, self.one.verbs.migration_set, guest, bandwidth=1))
            return wanted(context, host, method, **args)

        self.one.world.peers.call = call
        self.hosts.fabric.set(samples=1)
        self.assert_on(guest, self.two)
        self.assertEqual(["too_late"], [error.code for error in held])
        self.assertEqual([], self.one.world.journal.claims(kind="tuned"))
