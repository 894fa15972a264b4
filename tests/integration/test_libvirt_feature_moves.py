"""UEFI variables, a TPM's state and a place on the host, taken along by real QEMU."""

from dataclasses import replace

from compute.model.guest import Flavor, Guest
from compute.model.numa import Placed, Placement
from tests.integration.move_case import WRITES, MoveCase
from tests.integration.patience import until
from tests.integration.repeats import repeated
from tests.modes import NATIVE, once
from virt import topology
from virt.storage import firmware
from virt.xml.domain import Domain

SPECS = {"hw:tpm_version": "2.0", "hw:cpu_policy": "dedicated"}


@once(NATIVE)
class FeatureMoveTest(MoveCase):
    def setUp(self):
        super().setUp()
        if firmware.find(firmware.Wish()) is None:
            self.skipTest("no UEFI firmware is installed (package ovmf)")
        if not self.a.driver.host.abilities("qemu").tpm_models:
            self.skipTest("swtpm is not installed")

    def placed(self, subject, cpu):
        """The guest with its CPU on this one of the host's."""
        [cell] = topology.wish(subject).cells
        there = self.a.driver.host.caps().cells[0].id
        placement = Placement((Placed(cell, there, {0: cpu}),), "dedicated")
        return replace(subject, placement=placement)

    def domain(self, side, subject):
        return Domain.parse(side.driver.domains.find(subject.uuid).XMLDesc(0))

    @repeated
    def test_live_with_disks_variables_and_tpm(self):
        image = replace(WRITES, properties={"hw_firmware_type": "uefi"})
        flavor = Flavor("tiny", 1, 128, extra_specs=SPECS)
        first = self.placed(Guest("", "", "", "", flavor, image), 0)
        subject = self.guest(self.a, flavor=flavor, image=image, placement=first.placement)
        self.assertTrue(until(lambda: "BdsDxe" in self.a.console(subject).decode(errors="replace")))
        for check in self.b.driver.check_incoming(
                subject, self.a.driver.outgoing(subject.uuid)):
            self.assertIsNot(False, check.ok, check)
        plan = self.plan(subject, self.a, self.b, to=self.placed(subject, 1), downtime_ms=30000)
        self.assertNotIn("nvram", plan.copy_disks)
        self.a.driver.migrate(subject.uuid, plan)
        self.ends(self.a, subject)
        self.is_only_on(self.b, self.a, subject)
        kept = [disk for disk in self.b.driver.arrived(subject) if disk.role == "nvram"]
        moved = self.domain(self.b, subject)
        self.assertEqual((str(self.b.instances / subject.uuid / "nvram.fd"), "tpm-tis", "1"),
                         (moved.os.nvram, moved.devices.tpms[0].model, moved.cputune.pins[0].cpus))
        self.assertEqual(moved.os.nvram, kept[0].path)
        there = self.a.instances / subject.uuid / "nvram.fd"
        self.assertEqual(there.read_bytes(), (self.b.instances / subject.uuid / "nvram.fd")
                         .read_bytes())
        self.b.driver.power_off(subject.uuid)
        self.b.driver.power_on(subject.uuid)  # boots with both
