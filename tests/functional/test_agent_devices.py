"""Guests with PCI devices of their host: claimed, kept, given back, claimed anew elsewhere."""

from __future__ import annotations

import json
import threading

from compute.errors import Refused
from compute.model import states, wire
from compute.operator.verbs import OperatorVerbs
from compute.recovery.observe import observe
from compute.recovery.reconcile import restore_claims
from compute.rpc.primitives import data, objects
from db.journal import rows
from tests import fakes
from tests.crash.devices import DEVICES, offer
from tests.functional.live_support import CONTEXT
from tests.functional.resize_support import LARGE
from tests.functional.test_agent_features import FeatureTest

ALIAS = "pci_passthrough:alias"
ONE, TWO, FOUR = ({"extra_specs": {ALIAS: f"nic:{number}"}} for number in (1, 2, 4))
PINNED = {"hw:cpu_policy": "dedicated", "hw:pci_numa_affinity_policy": "required"}


class DeviceTest(FeatureTest):
    def setUp(self) -> None:
        super().setUp()
        for agent in (self.one, self.two):
            agent.world.conf.compute.cpu_dedicated_set = "1-3,5-7"
            offer(agent.world)

    def devices(self, agent, uuid: str) -> set[str]:
        """What a guest has, by its domain and its claim, which agree."""
        has = agent.world.driver.host_devices(uuid)
        held = self.claims(agent, uuid)["resources"]["pci"]
        self.assertEqual(list(has), [each["address"] for each in held])
        return set(has)

    def pools(self, agent) -> dict[tuple, int]:
        """Free devices as the control plane is told them, by product and cell."""
        told = map(data, objects(agent.world.inventory.fields()["pci_device_pools"]))
        return {(pool["product_id"], pool["numa_node"]): pool["count"] for pool in told}

    def delete(self, uuid: str) -> None:
        self.conductor.set(uuid, task_state=states.DELETING)
        self.say(self.one, "terminate_instance", instance=self.conductor.instance(None, uuid),
                 bdms=None)
        self.hosts.at_rest()

    # -- one host -----------------------------------------------------------------------------
    def test_no_device_is_two_guests_and_all_come_back(self):
        self.assertEqual({("10c9", 0): 1, ("10ca", 0): 2, ("10ca", 1): 2}, self.pools(self.one))
        first, second = self.build(**TWO), self.build(**TWO)
        self.assertFalse(self.devices(self.one, first) & self.devices(self.one, second))
        # The physical function is not free either while its virtual ones are held.
        self.assertEqual({("10c9", 0): 0, ("10ca", 0): 0, ("10ca", 1): 0}, self.pools(self.one))
        third = self.build(**ONE)
        [row] = self.one.operations(third, "spawn")
        self.assertEqual((rows.UNDONE, "no_room"), (row.state, row.error["code"]))
        self.assertIn("1 of alias nic (8086:10ca type-VF) asked for, 0 free", row.error["what"])
        self.assertEqual([], self.one.world.journal.claims(guest=third))
        self.assertFalse(self.one.world.driver._dir(third).exists())
        self.delete(first)
        pools = self.pools(self.one)
        self.assertEqual(2, pools["10ca", 0] + pools["10ca", 1])
        self.assert_sound()

    def test_an_alias_that_nobody_knows_is_refused_by_name(self):
        guest = self.build(extra_specs={ALIAS: "gpu:1"})
        [row] = self.one.operations(guest, "spawn")
        self.assertEqual("no_room", row.error["code"])
        self.assertIn("no PCI alias gpu", row.error["what"])
        guest = self.build(extra_specs={ALIAS: "nic:many"})
        [row] = self.one.operations(guest, "spawn")
        self.assertEqual("flavor_unacceptable", row.error["code"])
        self.assertNotIn("create_disks", self.one.world.driver.calls)

    def test_of_several_that_claim_at_once_none_gets_anothers_device(self):
        inventory, held, late = self.one.world.inventory, [], []

        def claim(guest) -> None:
            try:
                inventory.place(guest, "op")
                [own] = self.one.world.journal.claims(guest=guest.uuid)
                held.extend(each["address"] for each in own.data["pci"])
            except Refused as error:
                late.append(error.code)

        guests = [wire.guest(fakes.instance(flavor=fakes.flavor(**ONE))) for _ in range(6)]
        threads = [threading.Thread(target=claim, args=(guest,)) for guest in guests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(one.address for one in DEVICES[1:]), sorted(held))
        self.assertEqual(["no_room"] * 2, late)

    def test_a_hard_reboot_keeps_the_devices(self):
        guest = self.build(**TWO)
        before = self.devices(self.one, guest)
        self.conductor.set(guest, task_state=states.REBOOTING_HARD)
        self.say(self.one, "reboot_instance", instance=self.conductor.instance(None, guest),
                 block_device_info=None, reboot_type="HARD")
        self.hosts.at_rest()
        self.assertEqual(before, self.devices(self.one, guest))

    def test_a_lost_journal_learns_devices_from_the_domain(self):
        self.build(**ONE)
        guest = self.build(**TWO)
        before = self.devices(self.one, guest)
        self.one.world.journal.release(guest=guest)
        restore_claims(self.one.world, observe(self.one.world, CONTEXT))
        self.assertEqual(before, self.devices(self.one, guest))

    def test_a_place_is_chosen_near_the_devices(self):
        for agent in (self.one, self.two):  # only cell 1 has what is wanted
            agent.world.driver.pci = DEVICES[3:]
        for _ in range(2):
            guest = self.build(extra_specs={**PINNED, ALIAS: "nic:1"})
            place = self.claims(self.one, guest)["resources"]["numa"]
            self.assertEqual([1], [cell["host"] for cell in place["cells"]])
            self.assertEqual(1, len(self.devices(self.one, guest)))
        self.assert_sound()

    def test_what_has_to_be_near_and_is_not_is_refused(self):
        self.one.world.driver.pci = DEVICES[3:]
        self.one.world.conf.compute.cpu_dedicated_set = "1-3"  # of cell 0
        guest = self.build(extra_specs={**PINNED, ALIAS: "nic:1"})
        [row] = self.one.operations(guest, "spawn")
        self.assertEqual("no_room", row.error["code"])
        self.assertIn("2 free, 0 of them near its NUMA cells", row.error["what"])
        near = {**PINNED, "hw:pci_numa_affinity_policy": "preferred"}
        guest = self.build(extra_specs={**near, ALIAS: "nic:1"})
        self.assertEqual(1, len(self.devices(self.one, guest)))

    def test_explain_names_the_devices(self):
        guest = self.build(**ONE)
        [address] = self.devices(self.one, guest)
        told = OperatorVerbs(self.one.reconciler, {}).explain(guest)["facts"]
        self.assertIn(f"resources (device {address} as nic)", json.dumps(told))

    # -- between hosts ------------------------------------------------------------------------
    def test_a_live_migration_is_refused_in_its_checks(self):
        guest = self.build(**TWO)
        before = self.devices(self.one, guest)
        error = self.assertRaises(Refused, self.migrate, guest)
        self.assertIn("host devices: it has devices of its host for itself (nic)", error.what)
        self.assertEqual([], self.two.world.journal.claims(guest=guest))
        self.assertEqual(before, self.devices(self.one, guest))

    def test_a_resize_claims_anew_at_the_destination(self):
        guest = self.build(**ONE)
        other = self.build(**TWO)
        id = self.resized(guest, dest=self.two, flavor={**LARGE, **FOUR})
        self.assertEqual(4, len(self.devices(self.two, guest)))
        # The way back stays open here, with the devices from before.
        self.assertEqual(1, len(self.claims(self.one, guest)["resources-move"]["pci"]))
        self.assertEqual(1, self.pools(self.one)["10ca", 0] + self.pools(self.one)["10ca", 1])
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual(2, len(self.devices(self.one, other)))
        self.assertEqual([], self.one.world.journal.claims(guest=guest))
        self.assert_sound()

    def test_a_reverted_resize_has_its_devices_from_before(self):
        guest = self.build(**ONE)
        before = self.devices(self.one, guest)
        for dest in (self.two, self.one):
            id = self.resized(guest, dest=dest, flavor={**LARGE, **TWO})
            self.assertEqual(2, len(self.devices(dest, guest)))
            self.revert(guest, id, dest=dest)
            self.until(guest, states.ACTIVE)
            self.assertEqual(before, self.devices(self.one, guest))
            self.assertEqual([], self.two.world.journal.claims(guest=guest))
        self.assertEqual(3, self.pools(self.one)["10ca", 0] + self.pools(self.one)["10ca", 1])
        self.assert_sound()
