"""What flavors and images ask for of a host's CPUs and memory, and where guests are placed."""

from dataclasses import replace

import testtools

from compute.errors import Failed
from compute.model.numa import (
    HostCell,
    Placement,
    cpu_sets,
    format_set,
    parse_set,
)
from compute.resources.placing import Ground, NoPlace, Taken, place
from tests.golden.cases import guest
from virt import topology

DEDICATED = {"hw:cpu_policy": "dedicated"}
HUGE = {"hw:mem_page_size": "large"}


def wish(specs, vcpus=4, properties=None, memory_mb=512):
    made = guest(vcpus=vcpus, specs=specs, properties=properties)
    return topology.wish(replace(made, flavor=replace(made.flavor, memory_mb=memory_mb)))


class WishTest(testtools.TestCase):
    def refused(self, specs, *words, properties=None, code="flavor_unacceptable", **kwargs):
        error = self.assertRaises(Failed, wish, specs, properties=properties, **kwargs)
        self.assertEqual(code, error.code)
        for word in words:
            self.assertIn(word, str(error))

    def test_nothing_asked_is_no_wish(self):
        for specs in ({}, {"hw:cpu_policy": "shared"}, {"hw:cpu_thread_policy": "prefer"},
                      {"hw:emulator_threads_policy": "share"}, {"hw:cpu_realtime": "no"}):
            self.assertIsNone(wish(specs))

    def test_cells_are_even_unless_said(self):
        found = wish({"hw:numa_nodes": "2"})
        self.assertEqual([((0, 1), 256), ((2, 3), 256)],
                         [(cell.cpus, cell.memory_mb) for cell in found.cells])
        found = wish({"hw:numa_nodes": "2", "hw:numa_cpus.0": "0,2-3", "hw:numa_cpus.1": "1",
                      "hw:numa_mem.0": "400", "hw:numa_mem.1": "112"})
        self.assertEqual([((0, 2, 3), 400), ((1,), 112)],
                         [(cell.cpus, cell.memory_mb) for cell in found.cells])

    def test_cells_that_do_not_add_up_are_refused(self):
        two = {"hw:numa_nodes": "2"}
        even = {"hw:numa_mem.0": "256", "hw:numa_mem.1": "256"}
        self.refused({"hw:numa_nodes": "3"}, "divides 4 vCPUs")
        self.refused({**two, "hw:numa_cpus.0": "0-3"}, "each have")
        self.refused({**two, **even, "hw:numa_cpus.0": "0-2", "hw:numa_cpus.1": "2-3"}, "once")
        self.refused({**two, "hw:numa_cpus.0": "0-2", "hw:numa_cpus.1": "3",
                      "hw:numa_mem.0": "500", "hw:numa_mem.1": "13"}, "512 MiB")
        self.refused({**two, "hw:numa_cpus.0": "x"}, "hw:numa_cpus.0=x")
        self.refused({"hw:numa_nodes": "1", "hw:numa_cpus.1": "0"}, "cells 0 to 0")
        self.refused({"hw:numa_nodes": "129"}, "1 to 128")

    def test_policies(self):
        self.assertEqual((0, 1, 2, 3), wish(DEDICATED).cells[0].dedicated)
        mixed = {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "^0"}
        self.assertEqual((1, 2, 3), wish(mixed).cells[0].dedicated)
        self.assertEqual(3, wish(mixed).dedicated)
        isolated = {**DEDICATED, "hw:emulator_threads_policy": "isolate"}
        self.assertEqual(5, wish(isolated).dedicated)
        self.refused({"hw:cpu_policy": "mixed"}, "hw:cpu_dedicated_mask")
        self.refused({**mixed, "hw:cpu_dedicated_mask": "0-3"}, "some CPUs")
        self.refused({**mixed, "hw:cpu_dedicated_mask": "7"}, "0 to 3")
        self.refused({**mixed, "hw:cpu_dedicated_mask": "many"}, "such as")
        self.refused({"hw:cpu_thread_policy": "isolate"}, "dedicated")
        self.refused({"hw:emulator_threads_policy": "isolate"}, "dedicated")
        self.refused(DEDICATED, "as the flavor says", properties={"hw_cpu_policy": "shared"},
                     code="image_unacceptable")

    def test_realtime(self):
        base = {**DEDICATED, "hw:cpu_realtime": "yes"}
        found = wish({**base, "hw:cpu_realtime_mask": "^0-1"})
        self.assertEqual(((2, 3), True), (found.realtime, found.locked))
        whole = wish({**base, "hw:emulator_threads_policy": "share"})
        self.assertEqual((0, 1, 2, 3), whole.realtime)
        self.refused(base, "leaves a CPU")
        self.refused({"hw:cpu_realtime": "yes"}, "hw:cpu_policy=dedicated")
        mixed = {"hw:cpu_policy": "mixed", "hw:cpu_realtime": "yes",
                 "hw:cpu_realtime_mask": "1-2"}
        self.assertEqual((1, 2), wish(mixed).cells[0].dedicated)
        self.refused({**mixed, "hw:cpu_dedicated_mask": "1"}, "hw:cpu_dedicated_mask names")

    def test_pages(self):
        for text, size in (("small", "small"), ("4", "small"), ("large", "large"), ("any", "any"),
                           ("2048", 2048), ("2MB", 2048), ("1GB", 1048576), ("1g", 1048576)):
            self.assertEqual(size, wish({"hw:mem_page_size": text}).page, text)
        for text in ("huge", "2XB", "-1", "", "1"):
            self.refused({"hw:mem_page_size": text}, "such as 2MB")

    def test_an_image_may_choose_pages_where_the_flavor_leaves_it(self):
        two = {"hw_mem_page_size": "2MB"}
        self.assertEqual(2048, wish({"hw:mem_page_size": "any"}, properties=two).page)
        self.assertEqual(2048, wish({"hw:mem_page_size": "2048"}, properties=two).page)
        for specs in ({}, {"hw:mem_page_size": "small"}):
            self.refused(specs, "hw_mem_page_size", properties=two, code="image_unacceptable")

    def test_locked_memory_needs_a_page_size(self):
        self.refused({"hw:locked_memory": "true"}, "hw:mem_page_size")
        self.assertTrue(wish({"hw:locked_memory": "true", "hw:mem_page_size": "small"}).locked)


def host_cell(number, cpus=8, threads=2, memory_mb=4096, huge=0):
    """A cell with CPUs numbered from 100 times its number."""
    first = number * 100
    every = range(first, first + cpus)
    groups = tuple(frozenset(every[at:at + threads]) for at in range(0, cpus, threads))
    pages = {4: memory_mb * 256 - huge * 512, 2048: huge}
    return HostCell(number, frozenset(every), groups, memory_mb, pages, number)


def ground(*cells, dedicated=None, **more):
    cells = cells or (host_cell(0), host_cell(1))
    every = frozenset(cpu for cell in cells for cpu in cell.cpus)
    mine = every if dedicated is None else frozenset(dedicated)
    return Ground(cells, every - mine, mine, **more)


class PlaceTest(testtools.TestCase):
    def place(self, specs, there=None, taken=(), **kwargs):
        return place(wish(specs, **kwargs), there or ground(), Taken(taken))

    def no_place(self, specs, *words, there=None, taken=(), **kwargs):
        error = self.assertRaises(NoPlace, self.place, specs, there, taken, **kwargs)
        for word in words:
            self.assertIn(word, str(error))

    def test_each_guest_gets_cpus_of_its_own(self):
        first = self.place(DEDICATED)
        second = self.place(DEDICATED, taken=[first])
        self.assertEqual((4, 4), (len(first.held()), len(second.held())))
        self.assertFalse(first.held() & second.held())
        self.assertNotEqual(first.cells[0].host, second.cells[0].host)  # spread
        packed = self.place(DEDICATED, ground(spread=False), [first])
        self.assertEqual(first.cells[0].host, packed.cells[0].host)
        self.no_place(DEDICATED, "NUMA cell 0 has 0 of 4 dedicated CPUs free", "NUMA cell 1",
                      taken=[first, second, packed, self.place(
                          DEDICATED, taken=[first, second, packed])])

    def test_cells_go_to_cells_of_their_own(self):
        found = self.place({**DEDICATED, "hw:numa_nodes": "2"})
        self.assertEqual({0, 1}, {cell.host for cell in found.cells})
        self.no_place({**DEDICATED, "hw:numa_nodes": "4"}, "more NUMA cells")
        crooked = ground(host_cell(0, cpus=2), host_cell(1))
        found = self.place({**DEDICATED, "hw:numa_nodes": "2", "hw:numa_cpus.0": "0",
                            "hw:numa_mem.0": "256", "hw:numa_cpus.1": "1-3",
                            "hw:numa_mem.1": "256"}, crooked)
        self.assertEqual([0, 1], [cell.host for cell in found.cells])

    def test_threads(self):
        one = ground(host_cell(0))
        prefer = self.place(DEDICATED, one)
        self.assertEqual({0, 1, 2, 3}, prefer.held())
        isolate = self.place({**DEDICATED, "hw:cpu_thread_policy": "isolate"}, one)
        self.assertEqual((4, (1, 3, 5, 7)), (len(set(isolate.cells[0].pins.values())),
                                             isolate.blocked))
        self.no_place(DEDICATED, "0 of 4", there=one, taken=[isolate])
        self.no_place({**DEDICATED, "hw:cpu_thread_policy": "isolate"}, "2 of 4 cores", there=one,
                      taken=[self.place(DEDICATED, one)])
        require = {**DEDICATED, "hw:cpu_thread_policy": "require"}
        self.assertEqual({0, 1, 2, 3}, self.place(require, one).held())
        self.no_place(require, "cores with threads", there=ground(host_cell(0, threads=1)))

    def test_emulator(self):
        share = {**DEDICATED, "hw:emulator_threads_policy": "share"}
        some = ground(host_cell(0), dedicated=range(2, 8))
        self.assertEqual((0, 1), self.place(share, some).emulator)
        isolate = {**DEDICATED, "hw:emulator_threads_policy": "isolate"}
        found = self.place(isolate, some)
        self.assertEqual((1, 5), (len(found.isolated), len(found.held())))
        self.no_place(isolate, "emulator", there=ground(host_cell(0, cpus=4)))

    def test_mixed_floats_on_shared_cpus(self):
        mixed = {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "^0-1"}
        there = ground(host_cell(0), dedicated=(6, 7))
        found = self.place(mixed, there)
        self.assertEqual(((0, 1, 2, 3, 4, 5), {2: 6, 3: 7}),
                         (found.cells[0].floating, dict(found.cells[0].pins)))
        narrow = ground(host_cell(0), dedicated=range(1, 8))
        self.no_place(mixed, "1 shared CPUs for 2", there=narrow)
        nodes = {"hw:numa_nodes": "1"}
        shared = ground(host_cell(0), dedicated=(), cpu_ratio=1.5)
        found = [self.place(nodes, shared)]
        found += [self.place(nodes, shared, found), self.place(nodes, shared, found)]
        self.no_place(nodes, "12 being promised", there=shared,
                      taken=[*found[:2], self.place(nodes, shared, found[:2])])

    def test_pages(self):
        there = ground(host_cell(0, huge=100), host_cell(1, huge=300), reserved={(1, 2048): 44})
        found = self.place({"hw:mem_page_size": "large", "hw:cpu_policy": "dedicated"}, there)
        self.assertEqual((1, 2048), (found.cells[0].host, found.cells[0].page_kb))
        self.no_place(HUGE | DEDICATED, "200 MiB in pages of 2048 KiB", "0 MiB in pages",
                      there=there, taken=[found])
        any_page = self.place({"hw:mem_page_size": "any", **DEDICATED}, there, [found])
        self.assertEqual(4, any_page.cells[0].page_kb)
        self.no_place({"hw:mem_page_size": "1GB", **DEDICATED}, "1048576", there=there)
        self.no_place(HUGE | DEDICATED, "no huge pages free",
                      there=ground(replace(host_cell(0), pages={4: 1})))

    def test_small_memory_leaves_out_what_is_in_huge_pages(self):
        there = ground(host_cell(0, memory_mb=1024, huge=300))
        self.no_place({"hw:numa_nodes": "1", **DEDICATED}, "424 MiB in pages of 4 KiB",
                      there=there)
        wide = replace(there, ram_ratio=2.0)
        found = self.place({"hw:numa_nodes": "1", **DEDICATED}, wide)
        self.assertIsNone(found.cells[0].page_kb)

    def test_a_placement_is_plain_data_and_back_and_knows_what_it_fulfils(self):
        specs = {**DEDICATED, **HUGE, "hw:numa_nodes": "2"}
        found = self.place(specs, ground(host_cell(0, huge=200), host_cell(1, huge=200)))
        self.assertEqual(found, Placement.from_plain(found.to_plain()))
        for fits in (specs, {**specs, "hw:mem_page_size": "2MB"},
                     {**specs, "hw:mem_page_size": "any"}):
            self.assertTrue(found.fulfils(wish(fits)), fits)
        for other in ({**specs, "hw:mem_page_size": "1GB"}, {**specs, "hw:numa_nodes": "1"},
                      {**specs, "hw:mem_page_size": "small"},
                      {**specs, "hw:cpu_thread_policy": "prefer"}):
            self.assertFalse(found.fulfils(wish(other)), other)


class SetTest(testtools.TestCase):
    def test_sets_are_read_and_written(self):
        self.assertEqual({0, 1, 3, 7}, parse_set("0-3,^2,7"))
        self.assertEqual({1, 2, 3}, parse_set("^0", range(4)))
        for text in ("", "a", "3-1", "-1", "9999", "1;2"):
            self.assertRaises(ValueError, parse_set, text)
        self.assertEqual("0-2,5,7-8", format_set({8, 7, 0, 1, 2, 5}))

    def test_cpu_shared_set_and_cpu_dedicated_set(self):
        class Options:
            cpu_shared_set, cpu_dedicated_set = None, None

        cells = (host_cell(0, cpus=4),)
        for shared, dedicated, wanted in (
            (None, None, ({0, 1, 2, 3}, set())), (None, "2-9", ({0, 1}, {2, 3})),
            ("1", None, ({1}, set())), ("0-1", "1-2", ({0}, {1, 2})),
        ):
            Options.cpu_shared_set, Options.cpu_dedicated_set = shared, dedicated
            self.assertEqual(wanted, cpu_sets(Options, cells))
        Options.cpu_dedicated_set = "most"
        self.assertIn("cpu_dedicated_set", str(
            self.assertRaises(ValueError, cpu_sets, Options, cells)))
