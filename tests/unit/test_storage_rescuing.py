"""The disks of rescue systems: what is made, in which order, and what is left afterwards."""

import json
import os
from dataclasses import replace

from compute.errors import Failed
from compute.model.guest import Flavor
from tests.unit.storage_support import StorageTest, make_guest, qemu_io
from virt.storage import dirs

ALL = Flavor("all", 1, 128, root_gb=1, swap_mb=16)


class RescuingTest(StorageTest):
    def setUp(self):
        super().setUp()
        self.image = self.source.add(self.qcow2())
        self.guest = replace(make_guest(self.image), flavor=ALL, config_drive=True)
        self.own = self.store.create_disks(self.guest, self.fetch(self.image), {})
        self.system = self.source.add(self.raw("system.raw"), disk_format="raw")
        self.before = self.files()

    def files(self):
        return sorted(os.listdir(os.path.join(self.path, self.guest.uuid)))

    def create(self, **properties):
        image = replace(self.system, properties=properties)
        return self.store.rescuing.create(self.guest, image, self.fetch(self.system),
                                          {"admin_pass": "opensesame"})

    def told(self, disks):
        return [(disk.role, os.path.basename(disk.path), disk.device, disk.bus) for disk in disks]

    def test_classic(self):
        made = self.create()
        self.assertEqual([("rescue", "disk.rescue", "disk", ""), ("root", "disk", "disk", ""),
                          ("config", "disk.config.rescue", "cdrom", "")], self.told(made))
        self.assertEqual(made, self.store.rescuing.disks(self.guest.uuid))
        self.assertEqual(self.own, self.store.disks(self.guest.uuid))
        qemu_io(made[0].path, "read -P 7 0 4k")  # the base shows through
        with open(made[2].path, "rb") as drive:
            self.assertIn(b"opensesame", drive.read())
        self.assertEqual(0o600, os.stat(made[2].path).st_mode & 0o777)

    def test_stable(self):
        for properties, device, bus in (({"hw_rescue_bus": "usb"}, "disk", "usb"),
                                        ({"hw_rescue_device": "cdrom"}, "cdrom", ""),
                                        ({"hw_rescue_device": "cdrom", "hw_rescue_bus": "sata"},
                                         "cdrom", "sata")):
            made = self.create(**properties)
            self.assertEqual([("root", "disk", "disk", ""), ("swap", "disk.swap", "disk", ""),
                              ("config", "disk.config.rescue", "cdrom", ""),
                              ("rescue", "disk.rescue", device, bus)], self.told(made))
            self.assertEqual(made, self.store.rescuing.disks(self.guest.uuid))

    def iso(self, name="system.iso", mark=b"CD001"):
        """An ISO image, as far as its first descriptor says."""
        path = os.path.join(self.path, name)
        with open(path, "wb") as file:
            file.write(b"\0" * 0x8000 + b"\1" + mark)
            file.truncate(1 << 20)
        return self.source.add(path, disk_format="iso")

    def test_an_iso_image_is_a_disc(self):
        self.system = self.iso()
        made = self.create()
        self.assertEqual([("rescue", "disk.rescue", "cdrom", ""), ("root", "disk", "disk", ""),
                          ("config", "disk.config.rescue", "cdrom", "")], self.told(made))
        qemu_io(made[0].path, "read -v 32769 5")
        made = self.create(hw_rescue_bus="usb")
        self.assertEqual(("rescue", "disk.rescue", "cdrom", "usb"), self.told(made)[-1])
        self.assertFails(Failed, "image_unacceptable", lambda: self.create(hw_rescue_bus="virtio"))

    def test_what_is_called_an_iso_image_and_is_none(self):
        fake = self.iso("fake.iso", b"CD00X")
        self.assertFails(Failed, "image_unacceptable", lambda: self.fetch(fake))

    def test_wishes_that_cannot_be_had(self):
        for properties in ({"hw_rescue_bus": "fdc"}, {"hw_rescue_device": "floppy"},
                           {"hw_rescue_device": "cdrom", "hw_rescue_bus": "virtio"}):
            error = self.assertFails(Failed, "image_unacceptable", lambda p=properties:
                                     self.create(**p))
            self.assertIn(next(iter(properties.values())), str(error))
            self.assertEqual(self.before, self.files())

    def test_made_again_it_is_new(self):
        [system, *_] = self.create()
        qemu_io(system.path, "write -P 9 0 4k")
        self.store.rescuing.delete(self.guest.uuid)
        [system, *_] = self.create()
        qemu_io(system.path, "read -P 7 0 4k")

    def test_deleted_nothing_is_left(self):
        self.create()
        for _ in range(2):
            self.store.rescuing.delete(self.guest.uuid)
            self.assertEqual(self.before, self.files())
        self.assertEqual((), self.store.rescuing.disks(self.guest.uuid))

    def test_its_base_is_in_use_until_then(self):
        self.create()
        where = dirs.Dirs(self.path)
        bases = {os.path.basename(self.fetch(image).path) for image in (self.image, self.system)}
        self.assertEqual(bases, where.bases())
        os.unlink(os.path.join(self.path, self.guest.uuid, "rescue.json"))  # cut off before it
        self.assertEqual(bases, where.bases())
        self.store.rescuing.delete(self.guest.uuid)
        self.assertEqual(1, len(where.bases()))

    def test_a_copy_where_disks_are_raw(self):
        self.store = self.make_store(images_type="raw")
        [system, *_] = self.create()
        self.assertEqual(("raw", os.stat(system.path).st_size), (system.format, system.size))

    def test_the_list_holds_names_only(self):
        self.create(hw_rescue_bus="usb")
        with open(os.path.join(self.path, self.guest.uuid, "rescue.json")) as file:
            listed = json.load(file)["disks"]
        self.assertEqual("disk.rescue", listed[-1]["file"])
        self.assertNotIn("bus", listed[0])
