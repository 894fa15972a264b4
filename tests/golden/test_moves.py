"""Golden XML of guests that move: what the destination is told, character by character."""

from dataclasses import replace
from pathlib import Path

from compute.model.move import MovePlan
from tests.golden.cases import BRIDGED, CASES, DIRECTORY, NIC
from tests.golden.test_domains import GoldenCase, build
from virt.libvirt import rewrite
from virt.libvirt.rewrite import Rewrite
from virt.xml.domain import Domain

HERE = Path(__file__).parent / "moves"
OTHER = DIRECTORY.replace("/var/lib/magnetar", "/srv/other")
# What libvirt adds to a definition while a guest runs, and an operator by hand.
ADDED = (
    ("<source file=\"{0}/disk\"/>", "<source file=\"{0}/disk\" index=\"2\"/><backingStore "
     "type=\"file\"><format type=\"raw\"/><source file=\"/base\"/></backingStore>"),
    ("<serial ", "<console type=\"pty\" tty=\"/dev/pts/3\"><log file=\"{0}/console.log\" "
     "append=\"on\"/><target type=\"serial\" port=\"0\"/></console><serial "),
    ("<source network=\"private\"/>", "<source network=\"private\" portid=\"77\" "
     "bridge=\"virbr7\"/><virtualport type=\"openvswitch\"/>"),
    ("<devices>", "<devices><hub type=\"usb\"/>"),
)  # fmt: skip


def leaving(case, screen=None):
    """The definition of a guest that runs, as libvirt would tell it."""
    text = build(case).to_xml()
    for old, new in ADDED:
        text = text.replace(old.format(DIRECTORY), new.format(DIRECTORY), 1)
    if screen:
        text = text.replace("<graphics type=\"vnc\">", screen, 1)
    return text


def plan(listen="", nics=(), cache="none", **changes):
    """A plan whose rewrite a destination described."""
    disks = {name: f"{OTHER}/{file}" for name, file in (
        ("vda", "disk"), ("vdb", "disk.eph0"), ("vdc", "disk.swap"), ("sda", "disk.config"))}
    told = rewrite.describe(disks, OTHER + "/console.log", listen, nics, shared=False, cache=cache)
    made = MovePlan(uri="qemu+tls://b/system", generation=4, operation="op-9", rewrite=told)
    return replace(made, **changes)


MOVED = (
    replace(NIC, mac=NIC.mac.upper(), source="private-b", mtu=1400),
    replace(BRIDGED, source="br1", mtu=9000),
)
SCREEN = ("<graphics type=\"vnc\" port=\"5903\" autoport=\"yes\" listen=\"10.0.0.1\" "
          "socket=\"/old\">")


class TestMovedDomains(GoldenCase):
    def moved(self, case, wanted, **options):
        return rewrite.rewrite(leaving(case, **options), Rewrite.of(wanted))

    def test_definitions_are_as_they_were(self):
        for name, text in (
            ("typical", self.moved(CASES["typical-kvm"], plan(nics=MOVED))),
            ("screen-to-address",
             self.moved(CASES["plain"], plan(listen="10.0.0.2"), screen=SCREEN)),
        ):
            self.check_golden(HERE / f"{name}.xml", text)
            self.check_valid("domain.rng", text)

    def test_consoles_listen_where_the_destination_says(self):
        before = Domain.parse(build(CASES["everything"]).to_xml())
        self.assertEqual((["vnc", "spice"], [10007]), (
            [each.type for each in before.devices.graphics],
            [each.service for each in before.devices.serials]))
        made = plan(listen="10.0.0.2")
        for serial, wanted in ((["10.0.0.2", 10012], ("tcp", "10.0.0.2", 10012)),
                               ([], ("pty", None, None))):
            told = {**made.rewrite, "spice": "10.0.0.2", "serial": serial}
            text = rewrite.rewrite(before.to_xml(), Rewrite.of(replace(made, rewrite=told)))
            self.check_valid("domain.rng", text)
            devices = Domain.parse(text).devices
            self.assertEqual({"10.0.0.2"}, {each.address for each in devices.graphics})
            [port] = devices.serials
            self.assertEqual(wanted, (port.type, port.host, port.service))

    def test_nothing_of_the_old_host_stays(self):
        text = self.moved(CASES["typical-kvm"], plan(nics=MOVED))
        for old in (DIRECTORY, "/base", "portid", "virbr7", "\"private\"", "\"br0\""):
            self.assertNotIn(old, text)

    def test_what_is_not_known_is_kept(self):
        text = self.moved(CASES["typical-kvm"], plan(nics=MOVED))
        self.assertIn("<hub type=\"usb\"/>", text)
        self.assertIn("<virtualport type=\"openvswitch\"/>", text)

    def test_a_plan_that_says_nothing_only_changes_the_owner(self):
        before = Domain.parse(leaving(CASES["typical-kvm"]))
        wanted = Rewrite.of(MovePlan(uri="x", generation=8, operation="op-8"))
        after = Domain.parse(rewrite.rewrite(before.to_xml(), wanted))
        owned = after.metadata.ownership
        self.assertEqual((8, "op-8"), (owned.generation, owned.operation))
        owned.generation, owned.operation = 3, "op-7"
        self.assertEqual(before.to_xml(), after.to_xml())

    def test_a_guest_without_our_metadata_gets_it(self):
        domain = Domain.parse(leaving(CASES["plain"]))
        domain.metadata = None
        wanted = Rewrite.of(plan())
        after = Domain.parse(rewrite.rewrite(domain.to_xml(), wanted))
        self.assertEqual(4, after.metadata.ownership.generation)

    def test_disks_are_cached_as_the_destination_can(self):
        text = self.moved(CASES["typical-kvm"], plan(cache="writeback"))
        disks = Domain.parse(text).devices.disks
        self.assertEqual({"writeback"}, {disk.cache for disk in disks})
        self.assertEqual({"threads", None}, {disk.io for disk in disks})

    def test_an_mtu_is_only_given_to_a_nic_that_had_one(self):
        domain = Domain.parse(self.moved(CASES["typical-kvm"], plan(nics=MOVED)))
        self.assertEqual([1400, None], [nic.mtu for nic in domain.devices.interfaces])

    def test_no_golden_file_is_left_over(self):
        self.assertEqual({"typical", "screen-to-address"}, {p.stem for p in HERE.glob("*.xml")})
