"""Details of the domain that golden files show but do not explain."""

import subprocess
import sys
from dataclasses import replace

import testtools

from compute.errors import Failed
from compute.model.guest import Disk
from tests.golden.cases import CONFIG, EPHEMERAL, GUEST, NIC, RAW, ROOT, SWAP, guest
from tests.golden.test_domains import build
from tests.waiting import PATIENCE
from virt.libvirt import metadata
from virt.xml.metadata import OURS, Ownership

SYSTEM = Disk("rescue", "/x/disk.rescue", "qcow2", 1)


def domain(subject=GUEST, disks=(ROOT,), nics=(), virt_type="qemu", cache="none", **options):
    return build((subject, list(disks), list(nics), options, virt_type, cache))


class TestDisks(testtools.TestCase):
    def test_names_are_given_in_order_on_each_bus(self):
        made = domain(disks=[ROOT, EPHEMERAL, SWAP, CONFIG]).devices.disks
        self.assertEqual(["vda", "vdb", "vdc", "sda"], [disk.target for disk in made])
        scsi = guest(properties={"hw_disk_bus": "scsi", "hw_cdrom_bus": "sata"})
        made = domain(scsi, [ROOT, CONFIG, SWAP]).devices.disks
        self.assertEqual(["sda", "sdb", "sdc"], [disk.target for disk in made])

    def test_only_the_root_disk_boots(self):
        made = domain(disks=[CONFIG, ROOT, SWAP]).devices.disks
        self.assertEqual([None, 1, None], [disk.boot_order for disk in made])

    def test_a_fifth_disk_does_not_fit_on_ide(self):
        subject = guest(properties={"hw_machine_type": "pc", "hw_disk_bus": "ide"})
        error = self.assertRaises(Failed, domain, subject, [ROOT, EPHEMERAL, SWAP, CONFIG, RAW])
        self.assertEqual("image_unacceptable", error.code)
        self.assertIn("ide", error.what)

    def test_native_io_only_for_raw_past_the_page_cache(self):
        for disk, cache, io in (
            (RAW, "none", "native"), (RAW, "writeback", "threads"), (ROOT, "none", "threads"),
        ):  # fmt: skip
            self.assertEqual(io, domain(disks=[disk], cache=cache).devices.disks[0].io)

    def test_virtio_disks_take_turns_on_the_iothreads(self):
        made = domain(disks=[ROOT, EPHEMERAL, SWAP], disk_iothreads=2)
        self.assertEqual([1, 2, 1], [disk.iothread for disk in made.devices.disks])
        self.assertEqual(2, made.iothreads)
        self.assertEqual(1, domain(disk_iothreads=4).iothreads)
        self.assertIsNone(domain(guest(properties={"hw_disk_bus": "sata"})).iothreads)

    def test_a_cdrom_is_read_only_and_not_tuned(self):
        made = domain(disks=[ROOT, CONFIG]).devices.disks[1]
        self.assertTrue(made.readonly)
        self.assertEqual((None, None, None), (made.discard, made.iothread, made.queues))

    def test_the_recorded_format_is_written_not_the_file_name(self):
        odd = Disk("root", "/x/disk.qcow2", "raw", 1)
        self.assertEqual("raw", domain(disks=[odd]).devices.disks[0].format)


class TestRescue(testtools.TestCase):
    """Where another system goes, beside the guest's own disks."""

    def disks(self, subject, *drives):
        made = domain(subject, drives)
        return [(d.target, d.bus, d.device, d.boot_order) for d in made.devices.disks], made

    def test_it_boots_and_the_root_disk_does_not(self):
        found, _ = self.disks(GUEST, SYSTEM, ROOT, CONFIG)
        self.assertEqual([("vda", "virtio", "disk", 1), ("vdb", "virtio", "disk", None),
                          ("sda", "scsi", "cdrom", None)], found)

    def test_on_a_bus_of_its_own_it_moves_nothing(self):
        for bus, device in (("usb", "disk"), ("scsi", "cdrom"), ("sata", "disk")):
            found, made = self.disks(GUEST, ROOT, replace(SYSTEM, bus=bus, device=device))
            self.assertEqual([("vda", "virtio", "disk", None), ("sda", bus, device, 1)], found)
            models = {c.type: c.model for c in made.devices.controllers}
            self.assertEqual("qemu-xhci" if bus == "usb" else "none", models["usb"])
            self.assertEqual(bus == "scsi", "scsi" in models)

    def test_virtio_in_a_guest_without(self):
        found, made = self.disks(guest(properties={"hw_disk_bus": "sata"}), ROOT,
                                 replace(SYSTEM, bus="virtio"))
        self.assertEqual([("sda", "sata", "disk", None), ("vda", "virtio", "disk", 1)], found)
        self.assertEqual(made.devices.disks[1].iothread, made.iothreads)

    def test_no_ide_where_the_machine_has_none(self):
        error = self.assertRaises(Failed, domain, GUEST, [ROOT, replace(SYSTEM, bus="ide")])
        self.assertEqual("image_unacceptable", error.code)
        old = guest(properties={"hw_machine_type": "pc"})
        found, _ = self.disks(old, ROOT, replace(SYSTEM, bus="ide"))
        self.assertEqual(("hda", "ide", "disk", 1), found[1])


class TestNics(testtools.TestCase):
    def test_the_model_of_the_port_wins(self):
        made = domain(guest(vcpus=4), nics=[replace(NIC, model="e1000")]).devices.interfaces[0]
        self.assertEqual(("e1000", None, None), (made.model, made.queues, made.rx_queue_size))

    def test_the_tap_is_named_after_the_port(self):
        made = domain(nics=[NIC]).devices.interfaces[0]
        self.assertEqual(NIC.tap, made.tap)
        self.assertLess(len(made.tap), 15)


class TestQuota(testtools.TestCase):
    def refused(self, specs, *words):
        error = self.assertRaises(Failed, domain, guest(specs=specs))
        self.assertEqual("flavor_unacceptable", error.code)
        for word in words:
            self.assertIn(word, error.what)

    def test_what_is_no_number_is_refused(self):
        for name in ("cpu_shares", "cpu_quota", "disk_read_iops_sec"):
            for value in ("0", "-1", "fast", "1.5", ""):
                self.refused({f"quota:{name}": value}, f"quota:{name}={value}")

    def test_a_total_and_its_parts_contradict(self):
        specs = {"quota:disk_total_iops_sec": "10", "quota:disk_read_iops_sec": "5"}
        self.refused(specs, "disk_total_iops_sec", "disk_read_iops_sec")


class TestMetadata(testtools.TestCase):
    def test_ownership_is_read_back_as_it_was_written(self):
        text = Ownership(generation=7, operation="op-1").to_xml()
        stripped = text.replace("magnetar:", "").replace(f' xmlns:magnetar="{OURS}"', "")
        owned = metadata.read(stripped)
        self.assertEqual((True, 7, "op-1"), (owned.ours, owned.generation, owned.operation))

    def test_names_that_xml_cannot_hold_are_cleaned(self):
        subject = replace(GUEST, display_name="a\x00b\x1bc\ud800<d>")
        self.assertIn("abc&lt;d&gt;", domain(subject).to_xml())


class TestImports(testtools.TestCase):
    def check(self, module, *absent):
        code = (
            f"import sys, {module}; "
            f"found = [name for name in {absent!r} if name in sys.modules]; sys.exit(str(found) "
            "if found else 0)"
        )
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True,
                              text=True, timeout=PATIENCE)  # fmt: skip
        self.assertEqual("", done.stderr)

    def test_naming_the_package_loads_nothing(self):
        self.check("virt.libvirt", "libvirt", "lxml", "oslo_log", "eventlet")

    def test_the_driver_does_not_load_the_builder(self):
        self.check("virt.libvirt.driver", "virt.libvirt.builder", "virt.xml.domain", "eventlet")
