"""What flavors and images ask for, on real libvirt and QEMU: one guest with much of it."""

import os
from dataclasses import replace
from pathlib import Path

from compute.model import states
from compute.model.guest import Flavor, Image
from compute.model.numa import cpu_sets, format_set
from compute.resources.placing import Ground, Taken, place
from tests.integration.patience import until
from tests.integration.test_libvirt_driver import LibvirtCase
from virt import topology
from virt.storage import firmware
from virt.storage.store import Store
from virt.xml.domain import Domain

SPECS = {
    "hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb", "hw:boot_menu": "true",
    "hw:virtio_packed_ring": "true", "hw:sound_model": "ich9", "hw:viommu_model": "intel",
    "trait:HW_CPU_X86_AVX": "required", "quota:cpu_shares": "512",
}  # fmt: skip
PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
NEEDED = 32  # of 2 MiB: 64 MiB
PROPERTIES = {
    "hw_firmware_type": "uefi", "hw_disk_bus": "scsi", "hw_input_bus": "virtio",
    "hw_pointer_model": "usbtablet", "hw_time_hpet": "yes",
}  # fmt: skip


class FeatureTest(LibvirtCase):
    def setUp(self):
        super().setUp()
        if firmware.find(firmware.Wish()) is None:
            self.skipTest("no UEFI firmware is installed (package ovmf)")
        self.host = self.driver()

    def made(self, specs, properties, vcpus=2):
        """A guest as the agent would make it, its disks and definition."""
        image = Image("an-image", properties=properties)
        subject, _ = self.guest(flavor=Flavor("big", vcpus, 128, extra_specs=specs), image=image)
        os.unlink(os.path.join(self.base, "instances", subject.uuid, "disk"))
        disks = Store(self.conf).create_disks(subject, None, {})
        self.host.check_guest(subject)
        recorded = self.host.define(subject, disks, (), generation=1, operation="op-1")
        self.addCleanup(self.remove, subject.uuid)
        return subject, recorded

    def remove(self, number):
        self.host.power_off(number)
        self.host.undefine(number)

    def text(self, subject):
        return self.host.domains.find(subject.uuid).XMLDesc(0)

    def says(self, subject, word):
        return until(lambda: word in self.host.console_log(subject.uuid, 1 << 16))

    def test_uefi_with_a_tpm(self):
        if not self.host.host.abilities("qemu").tpm_models:
            self.skipTest("swtpm is not installed")
        subject, recorded = self.made(SPECS, PROPERTIES)
        self.assertEqual("uefi", recorded["hw_firmware_type"])
        [kept] = [disk.path for disk in self.host.disks(subject.uuid) if disk.role == "nvram"]
        with open(kept, "rb") as file:
            pristine = file.read()
        self.host.power_on(subject.uuid)
        self.assertTrue(self.says(subject, b"BdsDxe"), "the firmware says nothing")
        domain = Domain.parse(self.text(subject))
        self.assertEqual(("pflash", kept, "tpm-crb"), (
            domain.os.loader_type, domain.os.nvram, domain.devices.tpms[0].model))
        self.host.save(subject.uuid, 60)
        self.host.power_on(subject.uuid)  # goes on with its TPM and its variables
        self.assertEqual(states.RUNNING, self.host.state(subject.uuid).power_state)
        self.host.power_off(subject.uuid)
        with open(kept, "rb") as file:
            written = file.read()
        self.assertNotEqual(pristine, written)
        self.host.undefine(subject.uuid)
        self.host.define(subject, self.host.disks(subject.uuid), (), generation=1,
                         operation="op-2")  # fmt: skip
        with open(kept, "rb") as file:
            self.assertEqual(written, file.read(), "a hard reboot lost the guest's variables")

    def test_traits_are_what_guests_can_have(self):
        flags = self.host.host.abilities("qemu").flags
        self.assertLessEqual({"sse2", "hypervisor"}, set(flags))
        found = self.host.host_facts().traits
        self.assertLessEqual({"HW_CPU_X86_SSE2", "COMPUTE_FIRMWARE_UEFI"}, set(found))

    def placed(self, specs):
        """A guest of 64 MiB and its disk, at a place on this host's first cell."""
        [cell] = self.host.host.caps().cells[:1]
        subject, disk = self.guest(flavor=Flavor("placed", 2, 64, extra_specs=specs))
        shared, dedicated = cpu_sets(self.conf.compute, self.host.host.caps().cells)
        placement = place(topology.wish(subject), Ground((cell,), shared, dedicated), Taken([]))
        self.host.check_guest(subject)
        return replace(subject, placement=placement), disk

    def test_a_place_on_the_hosts_cells(self):
        """Pins, strict memory and a scheduler are what QEMU and the kernel really take."""
        specs = {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "1",
                 "hw:mem_page_size": "small"}
        [cell] = self.host.host.caps().cells[:1]
        last = max(cell.cpus)
        self.conf.set_override("cpu_dedicated_set", str(last), group="compute")
        shared, _ = cpu_sets(self.conf.compute, self.host.host.caps().cells)
        subject, disk = self.placed(specs)
        self.define(self.host, subject, disk)
        self.host.power_on(subject.uuid)
        self.assertTrue(self.says(subject, b"UP"))
        domain = Domain.parse(self.text(subject))
        self.assertEqual((str(last), format_set(shared & cell.cpus)),
                         (domain.cputune.pins[1].cpus, domain.cputune.pins[0].cpus))
        self.assertEqual(str(cell.id), domain.numatune.hosts)
        self.host.power_off(subject.uuid)

    def test_memory_in_huge_pages(self):
        self.enough_huge_pages()
        self.daemon.enter("mkdir", "-p", "/dev/hugepages")
        self.daemon.enter("mount", "-t", "hugetlbfs", "none", "/dev/hugepages")
        self.daemon.restart()  # it looks for such mounts when it starts, and counts pages
        self.host = self.driver()
        subject, disk = self.placed({"hw:mem_page_size": "large"})
        self.define(self.host, subject, disk)
        free = self.free_pages()
        self.host.power_on(subject.uuid)
        self.assertTrue(self.says(subject, b"UP"))
        self.assertEqual(NEEDED, free - self.free_pages())
        self.host.power_off(subject.uuid)
        self.assertTrue(until(lambda: self.free_pages() == free))

    def enough_huge_pages(self):
        """Have the kernel set pages aside for this test."""
        before = int((PAGES / "nr_hugepages").read_text())
        try:
            (PAGES / "nr_hugepages").write_text(str(before + NEEDED))
        except OSError as error:
            self.skipTest(f"the kernel sets no huge pages aside: {error}")
        self.addCleanup((PAGES / "nr_hugepages").write_text, str(before))
        if self.free_pages() < NEEDED:
            self.skipTest(f"the kernel has no room for {NEEDED} huge pages")

    def free_pages(self):
        return int((PAGES / "free_hugepages").read_text())
