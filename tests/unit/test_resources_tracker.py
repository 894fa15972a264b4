"""Room on a host: what there is, what is claimed, what the control plane is told."""

from __future__ import annotations

import dataclasses
import json
import types

import fixtures
import testtools

from compute.errors import Failed, Refused
from compute.model.guest import Flavor, Guest
from compute.resources.tracker import Tracker, new_record
from compute.rpc.primitives import changes, data, name, patch
from compute.steps.claim import need
from tests import fakes

GUEST, OTHER = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"
SMALL = {"vcpus": 1, "memory_mb": 64, "disk_gb": 1}


def a_guest(flavor, uuid=GUEST):
    """A guest of a flavor."""
    return Guest(uuid, "g", "g", "g", flavor)


class Saver:
    """A conductor that remembers what it was asked to save."""

    def __init__(self):
        self.saved = []

    def save(self, context, prim, values):
        self.saved.append(values)
        return patch(prim, values)


class TrackerTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        root = self.useFixture(fixtures.TempDir()).path
        world = fakes.world(root, vcpus=4, memory_mb=1024, disk_gb=10)
        self.addCleanup(world.journal.engine.dispose)
        self.conf = types.SimpleNamespace(**{
            **vars(world.conf), "reserved_host_cpus": 1, "reserved_host_memory_mb": 512,
            "reserved_host_disk_mb": 2048, "cpu_allocation_ratio": 2.0,
            "ram_allocation_ratio": 1.5, "disk_allocation_ratio": 1.0})
        self.journal, self.saver, self.driver = world.journal, Saver(), world.driver
        self.tracker = Tracker(self.conf, fakes.HOST, self.journal, world.driver, self.saver)

    def claim(self, guest, **sizes):
        self.journal.claim("resources", guest, guest, "op", {**SMALL, **sizes})

    def refused(self, **sizes) -> str:
        error = self.assertRaises(Refused, self.tracker.check, GUEST, {**SMALL, **sizes})
        self.assertEqual("no_room", error.code)
        self.assertTrue(error.now and error.next)
        return error.what

    def test_limits_are_the_totals_less_what_is_reserved_times_the_ratio(self):
        self.assertEqual({"vcpus": 6.0, "pcpus": 0, "memory_mb": 768.0, "disk_gb": 8.0},
                         self.tracker.limits())

    def test_what_fits_to_the_last_bit_fits(self):
        self.tracker.check(GUEST, {"vcpus": 6, "memory_mb": 768, "disk_gb": 8})

    def test_each_kind_is_refused_with_its_figures(self):
        self.claim(OTHER, vcpus=2, memory_mb=256, disk_gb=3)
        self.assertIn("5 vCPUs asked for, 4 of 6 free", self.refused(vcpus=5))
        self.assertIn("513 MiB of memory asked for, 512 of 768 free", self.refused(memory_mb=513))
        self.assertIn("6 GiB of disk asked for, 5 of 8 free", self.refused(disk_gb=6))
        everything = self.refused(vcpus=9, memory_mb=999, disk_gb=9)
        self.assertEqual(2, everything.count(";"))

    def test_none_of_a_kind_fits_always(self):
        self.claim(OTHER, disk_gb=100)
        self.tracker.check(GUEST, {**SMALL, "disk_gb": 0})

    def test_of_those_that_claim_at_once_the_first_stays(self):
        self.claim(GUEST, memory_mb=700)
        self.claim(OTHER, memory_mb=700)
        self.tracker.check(GUEST, {**SMALL, "memory_mb": 700})
        self.assertRaises(Refused, self.tracker.check, OTHER, {**SMALL, "memory_mb": 700})

    def test_packing_host_numa_cells_allocation_strategy(self):
        """Guests are spread over the host's cells, or fill one before the next."""
        self.conf.compute.cpu_dedicated_set = "0-3"
        pinned = Flavor("f", 1, 64, extra_specs={"hw:cpu_policy": "dedicated"})
        for packing, cells in ((False, 2), (True, 1)):
            self.conf.compute.packing_host_numa_cells_allocation_strategy = packing
            found = [self.tracker.place(a_guest(pinned, uuid=uuid), "op")
                     for uuid in (GUEST, OTHER)]
            self.assertEqual(cells, len({each.cells[0].host for each in found}))
            for uuid in (GUEST, OTHER):
                self.journal.release(guest=uuid)

    def test_sets_that_cannot_be_read_are_named(self):
        self.conf.compute.cpu_dedicated_set = "all"
        error = self.assertRaises(Failed, self.tracker.limits)
        self.assertIn("[compute] cpu_dedicated_set = all", error.what)

    def test_dedicated_cpus_are_no_shared_ones(self):
        self.conf.compute.cpu_dedicated_set, self.conf.compute.cpu_shared_set = "2-3", "0-2"
        limits = self.tracker.limits()
        self.assertEqual((2.0, 2), (limits["vcpus"], limits["pcpus"]))  # one is reserved
        pinned = Flavor("f", 2, 64, extra_specs={"hw:cpu_policy": "mixed",
                                                 "hw:cpu_dedicated_mask": "1"})
        found = need(a_guest(pinned))
        self.assertEqual((1, 1), (found["vcpus"], found["pcpus"]))

    def test_the_hosts_cells_are_told_in_novas_words(self):
        told = json.loads(self.tracker.fields()["numa_topology"])
        self.assertEqual(("NUMATopology", "1.2"), (name(told), told["nova_object.version"]))
        first, second = (data(cell) for cell in data(told)["cells"])
        self.assertEqual(([0, 1], [], [2, 3]), (first["cpuset"], first["pcpuset"],
                                                second["cpuset"]))
        self.assertEqual([[0, 1]], first["siblings"])
        self.assertEqual({4: 512 * 256, 2048: 0},
                         {data(each)["size_kb"]: data(each)["total"]
                          for each in first["mempages"]})

    def test_what_a_flavor_needs(self):
        flavor = Flavor("f", 2, 128, root_gb=3, ephemeral_gb=4, swap_mb=1025)
        self.assertEqual({"vcpus": 2, "memory_mb": 128, "disk_gb": 9}, need(a_guest(flavor)))

    def test_the_record_of_a_new_host(self):
        record = new_record(self.tracker, "node-uuid", 7)
        fields = data(record)
        self.assertEqual(("node-uuid", fakes.HOST, 7, fakes.HOST),
                         (fields["uuid"], fields["host"], fields["service_id"],
                          fields["hypervisor_hostname"]))
        self.assertEqual(sorted(fields), changes(record))

    def test_only_changes_are_told(self):
        self.assertFalse(self.tracker.report({}))
        self.assertRaises(Refused, self.tracker.compute_id, {})
        self.tracker.record = patch(new_record(self.tracker, "u", 1), {"id": 9})
        self.assertEqual(9, self.tracker.compute_id({}))
        self.assertFalse(self.tracker.report({}))
        self.claim(GUEST, vcpus=2, memory_mb=100)
        self.assertTrue(self.tracker.report({}))
        [saved] = self.saver.saved
        self.assertEqual((2, 612, 412, 1, "1"), (
            saved["vcpus_used"], saved["memory_mb_used"], saved["free_ram_mb"],
            saved["running_vms"], saved["stats"]["num_instances"]))
        self.assertNotIn("vcpus", saved)
        self.assertFalse(self.tracker.report({}))

    def test_the_host_is_looked_at_again_when_asked_to(self):
        self.assertEqual(4, self.tracker.facts().vcpus)
        self.driver.vcpus = 8
        self.assertEqual(4, self.tracker.facts().vcpus)
        self.assertEqual(8, self.tracker.facts(refresh=True).vcpus)

    def test_what_has_no_column_is_told_in_the_statistics(self):
        """Machine types were never told at all: 'host show' and the scheduler knew of none."""
        facts = dataclasses.replace(self.driver.host_facts(), machine_types=("pc-q35-7.2", "q35"),
                                    storage="id")
        self.driver.host_facts = lambda: facts
        self.tracker.facts(refresh=True)
        stats = self.tracker.fields()["stats"]
        self.assertEqual(("pc-q35-7.2,q35", "id"), (stats["machine_types"], stats["storage"]))

    def test_its_name_of_the_first_look_stays(self):
        self.tracker.facts()
        self.driver.hostname = "renamed"
        self.tracker.facts(refresh=True)
        self.assertEqual(fakes.HOST, self.tracker.node)
