"""The ways to get stuck in a resize or cold migration, each named after its row in the list of
partial failures that the project was measured against."""

from __future__ import annotations

from compute.errors import Failed, Retryable, Unknown
from compute.model import states
from db.journal import rows
from tests.functional.resize_support import LARGE, LARGE_ROOM, ROOM, PartialFailureTest
from tests.waiting import wait_until


class ForwardTest(PartialFailureTest):
    def test_50_destination_dies_between_its_claim_and_its_word_to_the_source(self):
        for point in ("resize_prep.claim.after_effect", "resize_prep.claim.after_record",
                      "resize_prep.handover.after_intent"):
            guest = self.boot()
            id = self.killed(self.two, point, guest)
            self.assert_arrived(guest, id)

    def test_50_the_request_is_lost_before_any_journal_has_it(self):
        guest = self.boot()
        self.loses("prep_resize")
        id = self.ask(guest)
        self.assertEqual([], self.two.operations(guest))
        self.pass_of(self.one)
        self.assert_stayed(guest, id)
        self.assertIn("lost", self.faults(guest)[0])

    def test_50_a_destination_that_is_still_at_it_is_left_alone(self):
        guest = self.boot()
        self.loses("resize_instance", 3)
        id = self.ask(guest)
        wait_until(lambda: self.conductor.migration_fields(id)["dest_compute"])
        self.pass_of(self.one)
        self.assert_arrived(guest, id)
        self.assertEqual([], self.faults(guest))

    def test_51_source_dies_while_it_stops_the_guest_and_sets_disks_aside(self):
        for point in ("begun.after_effect", "shutdown.after_effect", "off.after_effect",
                      "aside.after_intent", "aside.after_effect", "leave.after_intent"):
            guest = self.boot()
            id = self.killed(self.one, f"resize_out.{point}", guest)
            self.assert_arrived(guest, id)

    def test_51_stopped_in_the_middle_all_is_undone_in_order(self):
        guest = self.boot()
        self.kill_at("resize_out.aside.after_effect")
        id = self.ask(guest)
        self.dies(self.one)
        [row] = [r for r in self.one.operations(guest) if r.verb == "resize_out"]
        self.one.world.journal.update(row.id, abort="an operator stopped it")
        self.again(self.one)
        self.assert_stayed(guest, id)
        self.assertIn("operator", self.faults(guest)[0])

    def test_51_disks_that_cannot_be_set_aside(self):
        guest = self.boot()
        self.fails(self.one, "set_aside_disks", Failed("The directory is read-only."))
        id = self.ask(guest)
        self.assert_stayed(guest, id)
        self.assertIn("read-only", self.faults(guest)[0])

    def test_51_on_one_host_the_room_for_the_new_size_is_given_up_as_well(self):
        guest = self.boot()
        self.fails(self.one, "set_aside_disks", Failed("The directory is read-only."))
        id = self.ask(guest, dest=self.one)
        self.assert_stayed(guest, id)

    def test_52_source_dies_after_the_guest_was_given_to_the_destination(self):
        for point in ("leave.after_effect", "leave.after_record", "handover.after_intent",
                      "handover.after_effect", "vacate.after_effect"):
            guest = self.boot()
            id = self.killed(self.one, f"resize_out.{point}", guest)
            self.assert_arrived(guest, id)

    def test_52_the_word_to_the_destination_is_lost(self):
        guest = self.boot()
        self.loses("finish_resize", 2)
        id = self.ask(guest)
        self.assert_arrived(guest, id)

    def test_52_the_destination_is_away_when_it_is_told(self):
        guest = self.boot()
        self.kill_at("resize_out.leave.after_effect")
        id = self.ask(guest)
        self.dies(self.one)
        self.two.stop()
        self.again(self.one)
        self.assertEqual(states.RESIZE_MIGRATED, self.conductor.fields(guest)["task_state"])
        self.again(self.two)
        self.assert_arrived(guest, id)

    def test_53_destination_dies_while_it_finishes(self):
        for point in ("flavor.after_effect", "ports.after_effect", "image.after_effect",
                      "disks.after_intent", "disks.after_effect", "domain.after_effect",
                      "power.after_effect", "record.after_intent", "record.after_effect"):
            guest = self.boot()
            id = self.killed(self.two, f"resize_in.{point}", guest)
            self.assert_arrived(guest, id)

    def test_54_the_destination_has_no_space_for_the_disks(self):
        guest = self.boot()
        self.hosts.fabric.set(disk_full=["host2"])
        id = self.ask(guest)
        self.assert_stayed(guest, id)
        self.assertIn("room", self.faults(guest)[0])
        self.assertEqual(("finish_resize", "Error"),
                         [e for e in self.events(guest) if e[0] == "finish_resize"][0])
        self.assertEqual(rows.UNDONE, self.two.operations(guest, "resize_in")[0].state)
        self.hosts.fabric.set(disk_full=[])
        self.assert_arrived(guest, self.ask(guest))

    def test_54_the_guest_cannot_be_started_there(self):
        guest = self.boot()
        self.fails(self.two, "power_on", Failed("QEMU does not know its machine type."))
        id = self.ask(guest)
        self.assert_stayed(guest, id)
        self.assertIn("machine type", self.faults(guest)[0])

    def test_54_on_one_host_it_goes_back_as_well(self):
        guest = self.boot()
        self.fails(self.one, "grow_disks", Failed("The file system is full."))
        id = self.ask(guest, dest=self.one)
        self.assert_stayed(guest, id)
        self.assertIn("full", self.faults(guest)[0])

    def test_54_the_way_back_outlives_kills_on_both_sides(self):
        for point, agent in (("resize_in.conclude-handback.after_intent", "two"),
                             ("resize_in.conclude-handback.after_effect", "two"),
                             ("resize_in.disks.after_undo_effect", "two"),
                             ("resize_back.disks.after_effect", "one"),
                             ("resize_back.domain.after_effect", "one"),
                             ("resize_back.record.after_effect", "one")):
            guest = self.boot()
            self.hosts.fabric.set(disk_full=["host2"])
            id = self.killed(getattr(self, agent), point, guest)
            self.assert_stayed(guest, id)

    def test_60_a_copy_that_breaks_for_good_leaves_no_half(self):
        guest = self.boot()
        self.fails(self.two, "copy_disks", Failed("The volume cannot be read."), when="during")
        id = self.ask(guest)
        self.assert_stayed(guest, id)
        self.assertEqual([], [p for p in self.two.world.driver.root.glob(f"{guest}*")])
        self.assert_arrived(guest, self.ask(guest))

    def test_60_a_copy_that_breaks_goes_on(self):
        guest = self.boot()
        self.fails(self.two, "copy_disks", Retryable("The link is cut."), times=3, when="during")
        id = self.ask(guest)
        self.assert_arrived(guest, id)

    def test_60_a_way_back_that_is_blocked_is_left_to_a_person(self):
        guest = self.boot()
        self.kill_at("resize_out.aside.after_effect")
        self.ask(guest)
        self.dies(self.one)
        stray = self.one.world.driver.root / guest
        stray.mkdir()
        (stray / "disks.json").write_text("[]")
        [row] = [r for r in self.one.operations(guest) if r.verb == "resize_out"]
        self.one.world.journal.update(row.id, abort="an operator stopped it")
        self.again(self.one)
        wait_until(lambda: self.one.world.journal.row(row.id).state == rows.NEEDS_OPERATOR)
        error = self.one.world.journal.row(row.id).error
        self.assertTrue(error["next"])
        self.assertTrue(self.one.world.driver.aside_disks(guest))


class EndsTest(PartialFailureTest):
    def test_55_what_cannot_be_cleared_on_the_source_is_tried_again(self):
        guest = self.boot()
        id = self.resized(guest)
        self.fails(self.one, "delete_aside_disks", Failed("The directory is busy."), times=10**6)
        self.confirm(guest, id)
        wait_until(lambda: self.one.operations(guest)[-1].attempts >= 2)
        self.assertEqual(states.RESIZED, self.conductor.fields(guest)["vm_state"])
        self.one.world.driver.hook = lambda method, when: None
        self.until(guest, states.ACTIVE)
        self.assertEqual([], self.faults(guest))
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assert_sound()

    def test_55_source_dies_while_it_confirms(self):
        for point in ("aside.after_effect", "vacate.after_effect", "record.after_intent",
                      "record.after_effect"):
            guest = self.boot()
            id = self.resized(guest)
            self.kill_at(f"resize_confirm.{point}")
            self.confirm(guest, id)
            self.dies(self.one)
            self.again(self.one)
            self.until(guest, states.ACTIVE)
            self.assertEqual("confirmed", self.status(id))
            self.assertEqual({}, self.claims(self.one, guest))
            self.assert_sound()

    def test_55_a_confirmation_that_was_lost_is_found(self):
        guest = self.boot()
        id = self.resized(guest)
        self.loses("confirm_resize")
        self.confirm(guest, id)
        self.assertEqual("confirming", self.status(id))
        self.pass_of(self.one)
        self.until(guest, states.ACTIVE)
        self.assertEqual("confirmed", self.status(id))
        self.assert_sound()

    def test_56_a_record_that_cannot_be_saved_is_saved_later(self):
        guest = self.boot()
        id = self.resized(guest)
        left = [3]

        def fail(method: str) -> None:
            if method in ("save", "save_migration", "drop_migration_context") and left[0] > 0:
                left[0] -= 1
                raise Unknown("The conductor did not answer.", code="rpc_timeout")

        self.one.world.conductor.fail = fail
        self.conductor = self.two.world.conductor
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual(0, left[0])
        self.assertEqual("confirmed", self.status(id))
        self.assertEqual({}, self.claims(self.one, guest))
        self.assert_sound()

    def test_57_the_word_to_the_source_is_lost_after_the_guest_is_gone(self):
        guest = self.boot()
        id = self.resized(guest)
        self.loses("finish_revert_resize", 2)
        self.revert(guest, id)
        self.assert_stayed(guest, id, "reverted", reverted=True)

    def test_57_the_source_is_down_when_the_guest_comes_back(self):
        guest = self.boot()
        id = self.resized(guest)
        self.kill_at("resize_revert.disks.after_effect")
        self.revert(guest, id)
        self.dies(self.two)
        self.one.stop()
        self.again(self.two)
        wait_until(lambda: self.conductor.fields(guest)["host"] == "host1")
        self.again(self.one)
        self.assert_stayed(guest, id, "reverted", reverted=True)

    def test_57_either_side_dies_while_it_reverts(self):
        cases = [("two", f"resize_revert.{point}") for point in (
            "way.after_effect", "off.after_effect", "disks.after_intent", "disks.after_effect",
            "leave.after_effect", "handover.after_intent", "handover.after_effect")]
        cases += [("one", f"resize_back.{point}") for point in (
            "disks.after_intent", "disks.after_effect", "flavor.after_effect",
            "ports.after_effect", "domain.after_effect", "power.after_effect",
            "record.after_intent", "record.after_effect")]
        for name, point in cases:
            guest = self.boot()
            id = self.resized(guest)
            self.kill_at(point)
            self.revert(guest, id)
            self.dies(getattr(self, name))
            self.again(getattr(self, name))
            self.assert_stayed(guest, id, "reverted", reverted=True)

    def test_57_a_revert_that_was_lost_is_found(self):
        guest = self.boot()
        id = self.resized(guest)
        self.loses("revert_resize")
        self.revert(guest, id)
        self.pass_of(self.two)
        self.assert_stayed(guest, id, "reverted", reverted=True)

    def test_57_a_way_back_that_nobody_knows_of_any_more_is_found(self):
        guest = self.boot()
        id = self.resized(guest)
        self.kill_at("resize_back.event.after_effect")
        self.revert(guest, id)
        self.dies(self.one)
        [row] = self.one.operations(guest, "resize_back")
        self.one.world.journal.update(row.id, abort="an operator stopped it")
        self.again(self.one)
        self.one.at_rest()
        self.assertEqual(states.RESIZE_REVERTING, self.conductor.fields(guest)["task_state"])
        self.pass_of(self.one)
        self.assert_stayed(guest, id, "reverted", reverted=True)

    def test_58_the_source_cannot_save_while_the_guest_comes_back(self):
        guest = self.boot()
        id = self.resized(guest)
        saved = [0]

        def after(method: str) -> None:  # the answer is lost: it was saved, and nobody knows
            if method == "save" and saved[0] < 3:
                saved[0] += 1
                raise Unknown("The conductor's answer was lost.", code="rpc_timeout")

        self.one.world.conductor.after = after
        self.revert(guest, id)
        self.assert_stayed(guest, id, "reverted", reverted=True)
        self.assertEqual(3, saved[0])

    def test_59_room_is_counted_once_on_each_host(self):
        guest = self.boot()
        id = self.resized(guest)
        self.assertEqual(ROOM, self.one.world.inventory.used())
        self.assertEqual(LARGE_ROOM, self.two.world.inventory.used())
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual(dict.fromkeys(ROOM, 0), self.one.world.inventory.used())
        self.assertEqual(LARGE_ROOM, self.two.world.inventory.used())

    def test_59_two_guests_cannot_have_the_same_room(self):
        first, second = self.boot(), self.boot()
        self.two.world.driver.memory_mb = 200
        self.two.world.inventory.conf.reserved_host_memory_mb = 0
        self.two.world.inventory.conf.ram_allocation_ratio = 1.0
        self.two.world.inventory.facts(refresh=True)
        ids = [self.ask(first), self.ask(second)]
        wait_until(lambda: {self.status(id) for id in ids} == {"finished", "error"})
        self.assertLessEqual(self.two.world.inventory.used()["memory_mb"], 200)

    def test_a_tenant_deletes_while_it_waits_to_be_confirmed(self):
        guest = self.boot()
        self.resized(guest)
        self.two.world.conductor.set(guest, task_state=states.DELETING)
        self.say(self.two, "terminate_instance", bdms=None,
                 instance=self.conductor.instance(None, guest))
        wait_until(lambda: self.conductor.fields(guest)["deleted"])
        self.two.at_rest()
        self.pass_of(self.one)
        self.one.at_rest()
        self.assertEqual({}, self.claims(self.one, guest))
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assert_sound()

    def test_a_tenant_deletes_while_the_guest_is_on_its_way(self):
        guest = self.boot()
        self.fails(self.two, "copy_disks", Retryable("The link is cut."), times=1000)
        self.ask(guest, flavor=LARGE)
        wait_until(lambda: self.conductor.fields(guest)["task_state"] == states.RESIZE_FINISH)
        prim = self.conductor.set(guest, task_state=states.DELETING)
        self.say(self.two, "terminate_instance", instance=prim, bdms=None)
        wait_until(lambda: self.conductor.fields(guest)["deleted"])
        for agent in (self.two, self.one):
            agent.at_rest()
            self.pass_of(agent)
            agent.at_rest()
            self.assertEqual({}, self.claims(agent, guest))
            self.assertIsNone(self.power(agent, guest))
            self.assertFalse(agent.world.driver.aside_disks(guest))
        self.assert_sound()
