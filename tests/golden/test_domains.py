"""Golden XML: what the agent writes, character by character, and valid by libvirt's own schema.

``MAGNETAR_REGENERATE=1`` writes the files anew; look at the difference before you commit it.
"""

import os
from pathlib import Path

import fixtures
import testtools
from lxml import etree
from oslo_config import cfg

from compute import conf as magnetar_conf
from tests.golden import nodes, volumes
from tests.golden.cases import CASES, DIRECTORY, NETWORKS
from virt.libvirt import (
    abilities,
    builder,
    caps,
    hardware,
    hostdevs,
    networks,
    nodedevs,
    othertypes,
    size,
)
from virt.storage.firmware import Firmware, Wish
from virt.xml import base
from virt.xml import metadata as xml_metadata
from virt.xml import network as xml_network
from virt.xml.domain import Domain

HERE = Path(__file__).parent
SCHEMAS = Path("/usr/share/libvirt/schemas")
CAPABILITIES = (HERE / "data/capabilities.xml").read_text()
DOMAIN_CAPABILITIES = (HERE / "data/domcapabilities.xml").read_text()
FLAGS = abilities.spelled_out((HERE / "data/cpu-flags.xml").read_text())
CODE, VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
SECURE = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"
UEFI = {
    Wish(): Firmware(CODE, VARIABLES, 540672, False, False),
    Wish(secure=True): Firmware(SECURE, VARIABLES, 540672, True, True),
    Wish(stateless=True): Firmware("/usr/share/OVMF/OVMF.amdsev.fd", None, 0, False, False),
}
ABILITIES = abilities.parse(DOMAIN_CAPABILITIES, FLAGS, 9000000, 7002000)


def options(overrides):
    """A configuration with some options of [libvirt] set."""
    conf = cfg.ConfigOpts()
    magnetar_conf.register(conf)
    conf([], default_config_files=[])
    for name, value in overrides.items():
        if name not in conf.libvirt:
            conf.register_opt(cfg.IntOpt(name, default=0), "libvirt")
        conf.set_override(name, value, group="libvirt")
    return conf


def build(case):
    """The domain of a case."""
    guest, disks, nics, overrides, virt_type, cache = case
    conf = options(overrides)
    decided = hardware.decide(
        guest, conf, caps.parse(CAPABILITIES), virt_type, ABILITIES.models
    )
    with fixtures.MonkeyPatch("virt.storage.firmware.find", lambda wish, size=None: UEFI[wish]):
        abilities.check(guest, decided, ABILITIES)
    chosen = UEFI[decided.firmware] if decided.firmware else None
    plan = builder.Plan(
        shared_cpus=frozenset((0, 1, 2, 5)) if virt_type == "kvm" else frozenset(),
        firmware=chosen, guest=guest, disks=disks, nics=nics, hardware=decided,
        options=conf.libvirt, cache=cache, serial_host="127.0.0.1",
        spice_listen="127.0.0.1" if overrides.get("vnc_listen") else None,
        console=DIRECTORY + "/console.log", generation=3, operation="op-7",
    )  # fmt: skip
    return builder.build(plan)


class GoldenCase(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch("virt.libvirt.metadata.VERSION", "1.2.3"))

    def check_golden(self, path, text):
        if os.environ.get("MAGNETAR_REGENERATE"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.assertTrue(path.exists(), f"{path.name} is missing: run with MAGNETAR_REGENERATE=1")
        self.assertEqual(path.read_text(), text, f"{path.name} differs")

    def check_valid(self, schema, text):
        if not (SCHEMAS / schema).exists():
            self.skipTest(f"{SCHEMAS / schema} is not installed (package libvirt-daemon)")
        rules = etree.RelaxNG(etree.parse(str(SCHEMAS / schema)))
        document = etree.fromstring(text)
        self.assertTrue(rules.validate(document), rules.error_log)


class TestGolden(GoldenCase):
    def test_domains_are_as_they_were(self):
        for name, case in CASES.items():
            self.check_golden(HERE / f"domains/{name}.xml", build(case).to_xml())

    def test_networks_are_as_they_were(self):
        for name, network in NETWORKS.items():
            text = networks.document(network).to_xml()
            self.check_golden(HERE / f"networks/{name}.xml", text)

    def test_no_golden_file_is_left_over(self):
        for folder, cases in (("domains", CASES), ("networks", NETWORKS)):
            found = {path.stem for path in (HERE / folder).glob("*.xml")}
            self.assertEqual(set(cases), found)

    def test_domains_are_valid(self):
        for case in CASES.values():
            self.check_valid("domain.rng", build(case).to_xml())

    def test_networks_are_valid(self):
        for network in NETWORKS.values():
            self.check_valid("network.rng", networks.document(network).to_xml())

    def test_building_twice_gives_the_same(self):
        for case in CASES.values():
            self.assertEqual(build(case).to_xml(), build(case).to_xml())

    def test_parsing_and_writing_changes_nothing(self):
        for case in CASES.values():
            text = build(case).to_xml()
            self.assertEqual(text, Domain.parse(text).to_xml())


class Touches(fixtures.Fixture):
    """Notes which declared properties are read or written."""

    def _setUp(self):
        self.seen = set()
        for cls in (base.Prop, base.Flag, base.Child, base.Children):
            for method in ("__get__", "__set__"):
                if method in vars(cls):
                    self._watch(cls, method)
        add = base.Element.add

        def watched(element, child):
            for item in element.declared.values():
                if isinstance(item, base.Children) and item.cls is type(child):
                    self.seen.add((item.owner, item.name))
            add(element, child)

        self.useFixture(fixtures.MonkeyPatch("virt.xml.base.Element.add", watched))

    def _watch(self, cls, method):
        original, seen = vars(cls)[method], self.seen

        def watched(declared, element, value=None):
            if element is not None and (method == "__get__" or value is not None):
                seen.add((declared.owner, declared.name))
            return original(declared, element, value)

        self.useFixture(fixtures.MonkeyPatch(f"virt.xml.base.{cls.__name__}.{method}", watched))


def declared_properties():
    """Every (class, property) that any element class declares."""
    classes, found = [base.Element], set()
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        found |= {(item.owner, item.name) for item in cls.declared.values()}
    return found


class TestEveryProperty(GoldenCase):
    def test_no_property_is_declared_that_nothing_uses(self):
        from tests.golden.test_other_types import plan as other

        touches = self.useFixture(Touches())
        for case in CASES.values():
            build(case)
        for name in volumes.DISKS:
            volumes.disk(name)
        for usage in volumes.SECRETS:
            volumes.secret(usage)
        for type in othertypes.KINDS:
            othertypes.build(other(type))
        parsed = caps.parse(CAPABILITIES)
        self.assertEqual({"x86_64", "i686", "aarch64"}, set(parsed.support))
        found = abilities.parse(DOMAIN_CAPABILITIES, FLAGS, 9000000, 7002000)
        self.assertTrue(found.models["Nehalem"])
        self.assertIn("EPYC", abilities.host_model(DOMAIN_CAPABILITIES))
        for network in NETWORKS.values():
            self.assertTrue(networks.document(network).metadata.network.spec)
        xml_network.Host(mac="52:54:00:00:00:01", name="a", ip="10.0.0.5")
        xml_network.DHCP(hosts=[])
        xml_metadata.Ownership.parse(xml_metadata.Ownership(generation=1).to_xml())
        rewritten = Domain.parse(build(CASES["growing"]).to_xml())
        self.assertEqual(2, size.current_vcpus(rewritten))
        disk = rewritten.devices.disks[0]
        self.assertFalse(disk.backing_store)
        held = build(CASES["pci-devices"]).to_xml()
        self.assertEqual(("0000:06:12.5", "0001:af:00.0"), hostdevs.of_domain(held))
        self.assertEqual("type-VF", nodedevs.parse(nodes.VIRTUAL).kind)
        screen = rewritten.devices.graphics[0]
        screen.port = screen.socket = screen.former_listen = screen.listen_socket = None
        self.assertEqual((None,) * 4, (screen.port, screen.socket, screen.former_listen,
                                       screen.listen_socket))  # fmt: skip
        self.assertEqual([], rewritten.devices.consoles)
        mine = {pair for pair in declared_properties() if not pair[0].startswith("Example")}
        self.assertEqual(set(), mine - touches.seen)
