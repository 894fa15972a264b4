"""UEFI firmware: which one is chosen, and the guest's own variables among its disks."""

import json
import os

import fixtures

from compute.errors import Failed, Refused
from compute.model.guest import Image
from tests.unit.storage_support import StorageTest, make_guest
from virt.storage import firmware
from virt.storage.firmware import Wish


class FirmwareTest(StorageTest):
    """``self.describe`` writes what a distribution would install."""

    def setUp(self):
        super().setUp()
        self.places = [os.path.join(self.dir, name) for name in ("etc", "usr")]
        for place in self.places:
            os.mkdir(place)
        self.useFixture(fixtures.MonkeyPatch("virt.storage.firmware.PLACES", tuple(self.places)))

    def describe(self, name, features=(), size=64, mode="split", place=1, machine="pc-q35-*",
                 **more):  # fmt: skip
        code = self.file(f"{name}.code", b"code")
        template = self.file(f"{name}.vars", b"v" * size)
        told = {
            "interface-types": ["uefi"], "features": list(features),
            "mapping": {"device": "flash", "mode": mode, "executable": {"filename": code},
                        "nvram-template": {"filename": template}},
            "targets": [{"architecture": "x86_64", "machines": [machine]}], **more,
        }  # fmt: skip
        with open(os.path.join(self.places[place], name + ".json"), "w") as file:
            json.dump(told, file)
        return code

    def uefi(self, **properties):
        image = Image("1", properties={"hw_firmware_type": "uefi", **properties})
        return make_guest(image=image)

    def test_the_first_that_fits_is_chosen(self):
        secure = self.describe("40-secure", ["secure-boot", "enrolled-keys", "requires-smm"])
        self.describe("50-without-keys", ["secure-boot", "requires-smm"])
        plain = self.describe("60-plain")
        self.describe("70-plain")
        stateless = self.describe("80-stateless", mode="stateless")
        self.assertEqual(secure, firmware.find(Wish(secure=True)).loader)
        self.assertTrue(firmware.find(Wish(secure=True)).smm)
        self.assertEqual(plain, firmware.find(Wish()).loader)
        self.assertEqual(stateless, firmware.find(Wish(stateless=True)).loader)

    def test_the_operators_own_description_wins_by_name_and_an_empty_one_hides(self):
        self.describe("60-plain")
        mine = self.describe("60-plain", place=0)
        self.assertEqual(mine, firmware.find(Wish()).loader)
        open(os.path.join(self.places[0], "60-plain.json"), "w").close()
        self.assertIsNone(firmware.find(Wish()))

    def test_what_does_not_fit_or_cannot_be_read_is_passed_over(self):
        self.describe("10-bios", **{"interface-types": ["bios"]})
        self.describe("20-memory", mapping={"device": "memory", "filename": "/x"})
        self.describe("30-arm", targets=[{"architecture": "aarch64", "machines": ["virt"]}])
        self.describe("40-pc", machine="pc-i440fx-*")
        self.describe("50-gone", mapping={
            "device": "flash", "executable": {"filename": "/nowhere"},
            "nvram-template": {"filename": "/nowhere"}})  # fmt: skip
        self.file("usr/60-broken.json", b"{")
        self.file("usr/70-odd.json", b'{"mapping": 7}')
        self.assertIsNone(firmware.find(Wish()))
        error = self.assertRaises(Refused, firmware.required, Wish(secure=True))
        self.assertEqual("host_unfit", error.code)
        self.assertIn("Secure Boot", str(error))

    def test_variables_keep_their_layout(self):
        self.describe("60-small", size=64)
        large = self.describe("70-large", size=128)
        self.assertEqual(large, firmware.find(Wish(), 128).loader)
        self.assertIn("256", str(self.assertRaises(Refused, firmware.required, Wish(), 256)))

    def test_optional_secure_boot_takes_what_is_there(self):
        subject = self.uefi(os_secure_boot="optional")
        self.assertEqual(Wish(secure=False), firmware.wish(subject))
        self.describe("40-secure", ["secure-boot", "enrolled-keys"])
        self.assertEqual(Wish(secure=True), firmware.wish(subject))

    def test_the_variables_are_a_disk_that_is_made_kept_and_deleted_with_the_others(self):
        self.describe("60-plain")
        store, subject = self.store, self.uefi()
        made = store.create_disks(subject, None, {})
        [kept] = [disk for disk in made if disk.role == "nvram"]
        self.assertEqual(("nvram", "raw", 64, "nvram.fd"),
                         (kept.device, kept.format, kept.size, os.path.basename(kept.path)))
        self.assertEqual(0o600, os.stat(kept.path).st_mode & 0o777)
        with open(kept.path, "w") as file:
            file.write("what the guest set".ljust(64))
        self.assertEqual(made, store.create_disks(subject, None, {}))
        store.grow_disks(subject)
        with open(kept.path) as file:
            self.assertIn("what the guest set", file.read())
        os.unlink(kept.path)  # variables that were lost stay lost, and are not made anew in silence
        self.assertEqual("disk_missing", self.assertRaises(
            Failed, store.create_disks, subject, None, {}).code)
        store.delete_disks(subject.uuid)
        self.assertFalse(os.path.exists(os.path.dirname(kept.path)))

    def test_a_bios_and_stateless_firmware_have_no_such_file(self):
        self.describe("60-plain")
        for subject in (make_guest(), self.uefi(hw_firmware_stateless="true")):
            roles = {disk.role for disk in self.store.create_disks(subject, None, {})}
            self.assertNotIn("nvram", roles)
            self.store.delete_disks(subject.uuid)

    def test_without_firmware_nothing_is_made(self):
        error = self.assertRaises(Refused, self.store.create_disks, self.uefi(), None, {})
        self.assertEqual("host_unfit", error.code)
        self.assertEqual((), self.store.disks(make_guest().uuid))
