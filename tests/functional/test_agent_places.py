"""Guests with a place on their host's NUMA cells: claimed, kept, moved along, given back."""

from __future__ import annotations

import json
import threading

from compute.errors import Refused
from compute.model import states, wire
from compute.model.numa import Placement
from compute.recovery.observe import observe
from compute.recovery.reconcile import restore_claims
from compute.resources.places import to_record
from compute.rpc.primitives import data
from db.journal import rows
from tests import fakes
from tests.functional.live_support import CONTEXT
from tests.functional.resize_support import LARGE, ROOM
from tests.functional.test_agent_features import FeatureTest

PINNED = {"vcpus": 2, "extra_specs": {"hw:cpu_policy": "dedicated"}}
TWO_CELLS = {"vcpus": 2, "extra_specs": {"hw:cpu_policy": "dedicated", "hw:numa_nodes": "2",
                                         "hw:mem_page_size": "2MB"}}


class PlaceTest(FeatureTest):
    def setUp(self) -> None:
        super().setUp()
        for agent in (self.one, self.two):
            self.prepare(agent)

    def prepare(self, agent) -> None:
        """Of its two cells with four CPUs each, all but 0 and 4 are for guests of their own."""
        agent.world.conf.compute.cpu_dedicated_set = "1-3,5-7"
        agent.world.driver.huge_pages = 64
        agent.world.inventory.facts(refresh=True)

    def place(self, agent, uuid: str) -> Placement:
        """Where the guest is by its domain, its claim and its record, which agree."""
        plain = agent.world.driver._need(uuid)["place"]
        self.assertEqual(plain, self.claims(agent, uuid)["resources"]["numa"])
        found = Placement.from_plain(plain)
        guest = type("Guest", (), {"uuid": uuid})
        self.assertEqual(data(to_record(guest, found)),
                         data(self.conductor.fields(uuid)["numa_topology"]))
        return found

    def held(self, agent) -> list[int]:
        """Host CPUs that are told as pinned."""
        told = json.loads(agent.world.inventory.fields()["numa_topology"])
        return sorted(cpu for cell in data(told)["cells"] for cpu in data(cell)["pinned_cpus"])

    # -- one host -----------------------------------------------------------------------------
    def test_guests_get_cpus_of_their_own_and_give_them_back(self):
        first, second = self.build(**PINNED), self.build(**PINNED)
        held = [self.place(self.one, guest).held() for guest in (first, second)]
        self.assertFalse(held[0] & held[1])
        self.assertEqual(sorted(held[0] | held[1]), self.held(self.one))
        fields = self.one.world.inventory.fields()
        self.assertEqual((4, 8), (fields["vcpus_used"], fields["vcpus"]))
        third = self.build(**{**PINNED, "vcpus": 3})
        [row] = self.one.operations(third, "spawn")
        self.assertEqual((rows.UNDONE, "no_room"), (row.state, row.error["code"]))
        self.assertIn("3 dedicated CPUs asked for, 2 of 6 free", row.error["what"])
        self.assertEqual([], self.one.world.journal.claims(guest=third))
        self.conductor.set(first, task_state=states.DELETING)
        self.say(self.one, "terminate_instance", instance=self.conductor.instance(None, first),
                 bdms=None)
        self.hosts.at_rest()
        self.assertEqual(sorted(held[1]), self.held(self.one))
        self.assert_sound()

    def test_enough_cpus_in_no_cell_is_said_before_anything_is_made(self):
        guest = self.build(**{**PINNED, "vcpus": 4})
        [row] = self.one.operations(guest, "spawn")
        self.assertEqual("no_room", row.error["code"])
        self.assertIn("NUMA cell 0 has 3 of 4 dedicated CPUs free", row.error["what"])
        self.assertNotIn("create_disks", self.one.world.driver.calls)

    def test_a_host_without_dedicated_cpus_names_the_option(self):
        self.one.world.conf.compute.cpu_dedicated_set = None
        guest = self.build(**PINNED)
        [row] = self.one.operations(guest, "spawn")
        self.assertIn("no_room", row.error["code"])
        self.assertIn("0 of 0 free", row.error["what"])

    def test_huge_pages_are_counted(self):
        guest = self.build(**TWO_CELLS)
        self.assertEqual({2048}, {cell.page_kb for cell in self.place(self.one, guest).cells})
        told = json.loads(self.one.world.inventory.fields()["numa_topology"])
        used = [data(pages)["used"] for cell in data(told)["cells"]
                for pages in data(cell)["mempages"] if data(pages)["size_kb"] == 2048]
        self.assertEqual([16, 16], used)
        self.one.world.conf.reserved_huge_pages = [
            {"node": str(node), "size": "2048", "count": "40"} for node in (0, 1)]
        other = self.build(**{**TWO_CELLS, "vcpus": 2})
        [row] = self.one.operations(other, "spawn")
        self.assertIn("16 MiB in pages of 2048 KiB", row.error["what"])

    def test_of_several_that_claim_at_once_none_gets_anothers_cpu(self):
        inventory, found = self.one.world.inventory, []
        flavor = fakes.flavor(**{**PINNED, "vcpus": 1})
        guests = [wire.guest(fakes.instance(flavor=flavor)) for _ in range(6)]
        threads = [threading.Thread(target=lambda g=guest: found.append(inventory.place(g, "op")))
                   for guest in guests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = [cpu for each in found for cpu in each.held()]
        self.assertEqual([1, 2, 3, 5, 6, 7], sorted(held))

    def test_a_restart_keeps_the_place(self):
        guest = self.build(**PINNED)
        before = self.place(self.one, guest)
        self.conductor.set(guest, task_state=states.REBOOTING_HARD)
        self.say(self.one, "reboot_instance", instance=self.conductor.instance(None, guest),
                 block_device_info=None, reboot_type="HARD")
        self.hosts.at_rest()
        self.assertEqual(before, self.place(self.one, guest))

    def test_a_lost_journal_learns_places_from_the_records(self):
        guest = self.build(**PINNED)
        before = self.place(self.one, guest)
        self.one.world.journal.release(guest=guest)
        restore_claims(self.one.world, observe(self.one.world, CONTEXT))
        self.assertEqual(before, self.place(self.one, guest))

    # -- between hosts ------------------------------------------------------------------------
    def test_a_live_migration_pins_it_anew(self):
        taken = self.build(**PINNED)
        self.migrate(taken)
        self.assert_on(taken, self.two)
        guest = self.build(**PINNED)
        self.migrate(guest)
        self.assert_on(guest, self.two)
        self.assertFalse(self.place(self.two, guest).held() & self.place(self.two, taken).held())
        self.assertEqual([], self.held(self.one))

    def test_a_live_migration_to_where_it_finds_no_place_is_refused(self):
        guest = self.build(**PINNED)
        self.two.world.conf.compute.cpu_dedicated_set = "1,5"
        error = self.assertRaises(Refused, self.migrate, guest)
        self.assertIn("NUMA cell 0 has 1 of 2 dedicated CPUs free", error.what)
        self.assertEqual([], self.two.world.journal.claims(guest=guest))

    def test_a_resize_holds_both_places_until_it_is_confirmed(self):
        guest = self.build(**PINNED)
        small = self.place(self.one, guest)
        id = self.resized(guest, dest=self.one, flavor={**LARGE, **TWO_CELLS})
        large = self.place(self.one, guest)
        self.assertEqual(sorted(small.held() | large.held()), self.held(self.one))
        self.assertFalse(small.held() & large.held())
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual(sorted(large.held()), self.held(self.one))
        self.assert_sound()

    def test_a_reverted_resize_has_its_former_place(self):
        for dest in (self.one, self.two):
            guest = self.build(**PINNED)
            small = self.place(self.one, guest)
            id = self.resized(guest, dest=dest, flavor={**LARGE, **TWO_CELLS})
            self.place(dest, guest)
            self.revert(guest, id, dest=dest)
            self.until(guest, states.ACTIVE)
            self.assertEqual(small, self.place(self.one, guest))
            self.assertNotIn("resources-move", self.claims(self.one, guest))
            self.assertEqual([], self.held(self.two))
            self.assert_sound()

    def test_a_resize_to_an_ordinary_flavor_forgets_the_place(self):
        guest = self.build(**PINNED)
        id = self.resized(guest, flavor=LARGE)
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertIsNone(self.two.world.driver._need(guest)["place"])
        self.assertIsNone(self.conductor.fields(guest)["numa_topology"])
        self.assertEqual([], self.held(self.one) + self.held(self.two))
        self.assertLessEqual(ROOM["vcpus"], self.claims(self.two, guest)["resources"]["vcpus"])
        self.assert_sound()
