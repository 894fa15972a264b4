"""PCI devices: options, what libvirt tells of a host's, and the choice of a guest's."""

import types

import testtools
from fixtures import TempDir

from compute.errors import Failed
from compute.model.numa import HostCell
from compute.model.pci import PF, PLAIN, VF, Given, HostDevice
from compute.resources import pci
from compute.resources.pci import Nearness, NoDevice, Request
from tests.golden import nodes
from tests.golden.cases import guest
from tests.golden.test_domains import GoldenCase
from virt.devices import policy, wanted
from virt.libvirt.call import Calls
from virt.libvirt.connection import Connection, start_event_loop
from virt.libvirt.nodedevs import NodeDevices, parse

T4 = HostDevice("0001:af:00.0", "10de", "1eb8", PLAIN, 1)
PORT = HostDevice("0000:06:00.1", "8086", "10c9", PF, 0)
FIRST = HostDevice("0000:06:12.1", "8086", "10ca", VF, None, "0000:06:00.1")
SECOND = HostDevice("0000:06:12.5", "8086", "10ca", VF, None, "0000:06:00.1")
ALL = (T4, PORT, FIRST, SECOND)
NAMES = ('{"name": "gpu", "vendor_id": "10DE", "product_id": "1eb8", "numa_policy": "required"}',
         '{"name": "nic", "vendor_id": "8086", "device_type": "type-VF"}',
         '{"name": "port", "product_id": "10c9", "device_type": "type-PF"}',
         '{"name": "any"}',
         '[{"name": "both", "vendor_id": "10de"}, {"name": "both", "vendor_id": "8086"}]')
CELLS = tuple(HostCell(number, frozenset((number,)), (), 1024, socket=number // 2)
              for number in range(4))


def options(specs=('{"address": "*:*:*.*"}',), names=NAMES):
    return types.SimpleNamespace(device_spec=list(specs), alias=list(names))


def addresses(offers):
    return [offer.device.address for offer in offers]


class TestOptions(testtools.TestCase):
    def offered(self, *specs):
        return addresses(pci.offered(pci.specs(options(specs)), ALL))

    def test_specs_choose_by_ids_and_addresses(self):
        self.assertEqual([T4.address], self.offered('{"vendor_id": "10de", "product_id": "*"}'))
        self.assertEqual([PORT.address, FIRST.address, SECOND.address],
                         self.offered('{"address": "06:*.*"}'))
        self.assertEqual([SECOND.address], self.offered('{"address": "0000:06:12.5"}'))
        self.assertEqual([T4.address], self.offered('{"address": {"domain": "000[1-9]"}}'))
        # That of a physical function stands for its virtual ones too.
        self.assertEqual([FIRST.address, SECOND.address], self.offered(
            '{"address": "0000:06:00.1", "product_id": "10ca"}'))
        self.assertEqual([], self.offered())

    def test_the_first_spec_that_fits_says_how(self):
        listed = pci.specs(options((
            '[{"address": "*:12.5", "managed": "no"}]'.replace("*:12", "06:12"),
            '{"vendor_id": "8086", "physical_network": "blue", "trusted": "true"}')))
        found = {offer.device: offer.spec for offer in pci.offered(listed, ALL)}
        self.assertEqual((False, True), (found[SECOND].managed, found[FIRST].managed))
        self.assertEqual({"physical_network": "blue", "trusted": "true"}, dict(found[FIRST].tags))

    def test_what_cannot_be_read_is_named(self):
        for text, why in (
            ("{", "no JSON"), ("[1]", "an object"), ('{"devname": "eth0"}', "devname"),
            ('{"vendor_id": "808"}', "vendor_id is not"), ('{"managed": "maybe"}', "managed is"),
            ('{"address": "6"}', "not like"), ('{"address": {"bus": "("}}', "regular expression"),
            ('{"address": {"line": "1"}}', "has no line"),
        ):
            error = self.assertRaises(Failed, pci.specs, options((text,)))
            self.assertEqual("bad_option", error.code)
            self.assertIn(f"[pci] device_spec = {text}", error.what)
            self.assertIn(why, error.what)
        for text, why in (('{"vendor_id": "8086"}', "no name"), ('{"name": "a", "to": 1}', "to is"),
                          ('{"name": "a", "device_type": "VF"}', "device_type is one of"),
                          ('{"name": "a", "numa_policy": "near"}', "numa_policy is one of")):
            error = self.assertRaises(Failed, pci.aliases, options(names=(text,)))
            self.assertIn(why, error.what)

    def test_flavors_ask_by_name_and_number(self):
        def asked(text):
            return wanted(guest(specs={"pci_passthrough:alias": text}))

        self.assertEqual({}, wanted(guest()))
        self.assertEqual({"gpu": 3, "nic": 1}, asked("gpu:1, nic:1,gpu:2"))
        for text in ("gpu", "gpu:0", "gpu:x", ":1", "gpu:65", "gpu:\u0661"):
            error = self.assertRaises(Failed, asked, text)
            self.assertEqual("flavor_unacceptable", error.code)
        self.assertEqual("socket", policy(guest(specs={"hw:pci_numa_affinity_policy": "socket"})))
        self.assertEqual("legacy", policy(
            guest(properties={"hw_pci_numa_affinity_policy": "legacy"})))
        self.assertRaises(Failed, policy, guest(specs={"hw:pci_numa_affinity_policy": "near"}))


class TestChoice(testtools.TestCase):
    def choose(self, wishes, devices=ALL, taken=(), cells=None, policy=None, own=()):
        told = options()
        requests = [Request(name, count, pci.aliases(told)[name], policy)
                    for name, count in wishes.items()]
        free = pci.free(pci.offered(pci.specs(told), devices), taken)
        near = None if cells is None else Nearness.of(cells, CELLS)
        return {(given.alias, given.address)
                for given in pci.choose(requests, free, near, frozenset(own))}

    def refused(self, *args, **kwargs):
        return str(self.assertRaises(NoDevice, self.choose, *args, **kwargs))

    def test_devices_are_found_for_all_wishes_together(self):
        self.assertEqual({("gpu", T4.address)}, self.choose({"gpu": 1}))
        # "any" could take the card that only "gpu" needs, in whichever order they are asked for.
        for wishes in ({"any": 2, "gpu": 1}, {"gpu": 1, "any": 2}):
            self.assertIn(("gpu", T4.address), self.choose(wishes))
        self.assertEqual(3, len(self.choose({"both": 3})))
        self.assertIn("4 of alias both (10de:*, 8086:*) asked for, 3 free",
                      self.refused({"both": 4}))

    def test_a_physical_function_goes_only_by_its_kind_and_takes_its_own_along(self):
        self.assertEqual({("port", PORT.address)}, self.choose({"port": 1}))
        self.assertIn("1 of alias nic", self.refused({"nic": 1, "port": 1}))
        self.assertIn("0 free", self.refused({"port": 1}, taken=[
            Given("nic", FIRST.address, parent=PORT.address)]))
        self.assertIn("0 free", self.refused({"nic": 1}, taken=[Given("port", PORT.address)]))
        self.assertEqual({("nic", SECOND.address)}, self.choose({"nic": 1}, taken=[
            Given("nic", FIRST.address, parent=PORT.address)]))

    def test_what_the_guest_has_it_keeps(self):
        for own in (FIRST, SECOND):
            self.assertEqual({("nic", own.address)}, self.choose({"nic": 1}, own=[own.address]))

    def test_policies_say_how_near(self):
        self.assertEqual(1, len(self.choose({"gpu": 1}, cells=[1])))
        self.assertIn("1 free, 0 of them near its NUMA cells", self.refused({"gpu": 1}, cells=[0]))
        for chosen, cells, fine in (
            ("socket", [0], True), ("socket", [2], False), ("preferred", [3], True),
            ("legacy", [0], False), ("legacy", [1], True), ("required", [0, 1], True),
        ):
            wishes, kwargs = {"gpu": 1}, {"cells": cells, "policy": chosen}
            if fine:
                self.assertEqual(1, len(self.choose(wishes, **kwargs)), chosen)
            else:
                self.refused(wishes, **kwargs)
        # Where a device's cell is not known, legacy takes it and required does not.
        self.assertEqual(1, len(self.choose({"nic": 1}, cells=[3])))
        self.refused({"nic": 1}, cells=[3], policy="required")


class TestNodeDevices(GoldenCase):
    def test_functions_are_told_apart(self):
        self.assertEqual([T4, PORT, SECOND], [
            parse(text) for text in (nodes.PLAIN, nodes.PHYSICAL, nodes.VIRTUAL)])
        self.assertEqual(PLAIN, parse(nodes.WITHOUT_FUNCTIONS).kind)
        self.assertIsNone(parse("<device><name>computer</name><capability type='system'/>"
                                "</device>"))

    def test_the_descriptions_are_as_libvirt_has_them(self):
        for text in (nodes.PLAIN, nodes.PHYSICAL, nodes.WITHOUT_FUNCTIONS, nodes.VIRTUAL):
            self.check_valid("nodedev.rng", text)

    def listed(self, uri):
        start_event_loop()
        calls = Calls()
        self.addCleanup(calls.close)
        connection = Connection(uri, calls, retry=0.05)
        self.addCleanup(connection.stop)
        connection.start(lambda number, what: None)
        return NodeDevices(connection).pci()

    def test_libvirt_lists_them(self):
        path = self.useFixture(TempDir()).path + "/node.xml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"<node>{nodes.VIRTUAL}{nodes.PLAIN}</node>")
        self.assertEqual((SECOND, T4), self.listed(f"test://{path}"))

    def test_a_host_without_any_has_none(self):
        self.assertEqual((), self.listed("test:///default"))
