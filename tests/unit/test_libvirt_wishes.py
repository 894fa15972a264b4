"""Smaller wishes of flavors and images, what contradicts itself, and what this host lacks."""

from dataclasses import replace

import fixtures

from compute.errors import Failed, Refused
from tests.golden.cases import guest
from tests.golden.test_domains import ABILITIES, build
from tests.unit.test_libvirt_hardware import HardwareCase, decide
from virt.libvirt import abilities, flags
from virt.libvirt.tpm import TPM


def made(specs=None, properties=None, virt_type="qemu", nics=(), vcpus=1, **options):
    subject = guest(vcpus=vcpus, specs=specs, properties=properties)
    return build((subject, [], list(nics), options, virt_type, "none"))


class ContradictionTest(HardwareCase):
    def test_an_image_that_contradicts_its_flavor_is_refused(self):
        for key, flavor, image in (
            ("pmu", "true", "false"), ("virtio_packed_ring", "false", "true"),
            ("sound_model", "ich9", "ac97"), ("tpm_version", "2.0", "1.2"),
            ("maxphysaddr_mode", "passthrough", "emulate"),
        ):  # fmt: skip
            subject = guest(specs={f"hw:{key}": flavor}, properties={f"hw_{key}": image})
            self.refused("image_unacceptable", subject, f"hw_{key}={image}", "as the flavor says")

    def test_the_same_said_twice_contradicts_nothing(self):
        subject = guest(specs={"hw:pmu": "yes"}, properties={"hw_pmu": "True"})
        self.assertIs(True, decide(subject).extras.pmu)

    def test_secure_boot_is_required_where_one_requires_it_and_refused_where_they_disagree(self):
        uefi = {"hw_firmware_type": "uefi"}
        for flavor, image, wanted in (
            ("required", "optional", True), ("optional", "required", True),
            ("disabled", "optional", False), ("required", None, True), (None, None, False),
        ):  # fmt: skip
            specs = {"os:secure_boot": flavor} if flavor else {}
            asked = {**uefi, "os_secure_boot": image} if image else uefi
            found = decide(guest(specs=specs, properties=asked))
            self.assertIs(wanted, found.firmware.secure, (flavor, image))
            self.assertEqual("required" if wanted else "disabled",
                             found.recorded()["os_secure_boot"])
        subject = guest(specs={"os:secure_boot": "required"},
                        properties={**uefi, "os_secure_boot": "disabled"})
        self.refused("image_unacceptable", subject, "os_secure_boot", "as the flavor says")
        self.refused("image_unacceptable", guest(specs={"os:secure_boot": "required"}), "uefi")

    def test_uefi_needs_a_machine_that_has_it(self):
        for more in ({"hw_machine_type": "pc"},
                     {"hw_machine_type": "pc", "hw_architecture": "i686"}):  # fmt: skip
            subject = guest(properties={"hw_firmware_type": "uefi", **more})
            self.refused("image_unacceptable", subject, "hw_firmware_type", "bios on")

    def test_devices_on_usb_need_a_controller(self):
        for properties in ({"hw_pointer_model": "usbtablet"}, {"hw_input_bus": "usb"},
                           {"hw_sound_model": "usb"}):  # fmt: skip
            error = self.assertRaises(Failed, made, {"hw:usb_model": "none"}, properties)
            self.assertIn("on USB", str(error))

    def test_an_iommu_needs_q35(self):
        subject = guest(specs={"hw:viommu_model": "intel"}, properties={"hw_machine_type": "pc"})
        self.refused("flavor_unacceptable", subject, "q35")

    def test_a_tpm_of_version_1_2_has_no_crb(self):
        found = decide(guest(specs={"hw:tpm_version": "1.2"})).tpm
        self.assertEqual(TPM("1.2", "tpm-tis"), found)
        subject = guest(specs={"hw:tpm_version": "1.2", "hw:tpm_model": "tpm-crb"})
        self.refused("flavor_unacceptable", subject, "tpm-tis")


class LackingTest(HardwareCase):
    def lacks(self, subject, host=ABILITIES, **options):
        decided = decide(subject, **options)
        return str(self.assertRaises(Refused, abilities.check, subject, decided, host))

    def test_everything_that_is_missing_is_named_at_once(self):
        self.useFixture(fixtures.MonkeyPatch("virt.storage.firmware.find", lambda *args: None))
        subject = guest(
            specs={"trait:HW_CPU_X86_SSE4A": "required", "trait:HW_CPU_X86_AVX512F": "required",
                   "hw:tpm_version": "2.0"},
            properties={"hw_video_model": "qxl", "hw_firmware_type": "uefi"})  # fmt: skip
        host = replace(ABILITIES, tpm_models=frozenset())
        text = self.lacks(subject, host)
        for word in ("avx512f", "qxl", "UEFI firmware", "ovmf", "swtpm"):
            self.assertIn(word, text)
        self.assertNotIn("sse4a", text)
        error = self.assertRaises(Refused, abilities.check, subject, decide(subject), host)
        self.assertEqual("host_unfit", error.code)

    def test_what_this_swtpm_has_not(self):
        subject = guest(specs={"hw:tpm_version": "1.2", "hw:tpm_model": "tpm-tis"})
        self.assertIn("version 1.2", self.lacks(
            subject, replace(ABILITIES, tpm_versions=frozenset(["2.0"]))))
        self.assertIn("model tpm-tis", self.lacks(
            subject, replace(ABILITIES, tpm_models=frozenset(["tpm-crb"]))))

    def test_old_libvirt_and_other_cpu_modes(self):
        old = replace(ABILITIES, libvirt=8000000)
        wide = {"hw:maxphysaddr_mode": "emulate", "hw:maxphysaddr_bits": "42"}
        self.assertIn("libvirt 8.7", self.lacks(guest(specs=wide), old))
        self.assertIn("libvirt 8.3", self.lacks(guest(specs={"hw:viommu_model": "virtio"}), old))
        subject = guest(specs={"hw:maxphysaddr_mode": "passthrough"})
        self.assertIn("host-passthrough", self.lacks(subject))
        decided = decide(subject, cpu_mode="host-passthrough")
        abilities.check(subject, decided, ABILITIES)

    def test_more_shares_than_the_kernel_takes(self):
        self.useFixture(fixtures.MonkeyPatch("virt.libvirt.abilities.CGROUP2", __file__))
        self.assertIn("10000", self.lacks(guest(specs={"quota:cpu_shares": "20480"})))

    def test_a_forbidden_flag_needs_a_cpu_that_we_choose(self):
        subject = guest(specs={"trait:HW_CPU_X86_AVX": "forbidden"})
        self.assertIn("cpu_mode=none", self.lacks(subject, cpu_mode="none"))


    def test_memory_that_cannot_be_encrypted_here(self):
        specs = {"hw:mem_encryption": "true", "hw:mem_encryption_model": "amd-sev-es"}
        subject = guest(specs=specs, properties={"hw_firmware_type": "uefi"})
        self.useFixture(fixtures.MonkeyPatch("virt.storage.firmware.find", lambda *args: 1))
        self.assertIn("amd-sev-es", self.lacks(subject))
        decided = decide(subject, virt_type="kvm")
        abilities.check(subject, decided, ABILITIES)
        error = self.assertRaises(Refused, abilities.check, subject, decided,
                                  replace(ABILITIES, sev_es=False))
        self.assertIn("AMD", error.next)
        self.refused("flavor_unacceptable", guest(specs=specs), "uefi")
        self.refused("flavor_unacceptable", guest(specs={"hw:mem_encryption_model": "amd-sev"}),
                     "hw:mem_encryption=true")  # fmt: skip


class FlagTest(HardwareCase):
    def test_the_flavor_goes_before_the_image(self):
        subject = guest(specs={"trait:HW_CPU_X86_AVX": "forbidden"},
                        properties={"trait:HW_CPU_X86_AVX": "required",
                                    "trait:HW_CPU_X86_FMA3": "required",
                                    "trait:CUSTOM_GOLD": "required"})  # fmt: skip
        self.assertEqual((("avx", False), ("fma", True)), flags.wanted(subject))

    def test_traits_are_those_of_the_flags_that_guests_can_have(self):
        self.assertEqual(("HW_CPU_X86_AMD_SVM", "HW_CPU_X86_AVX", "HW_CPU_X86_SVM"),
                         flags.traits(["avx", "svm", "hypervisor"]))

    def test_every_flag_is_one_that_libvirt_knows(self):
        from pathlib import Path

        text = Path("/usr/share/libvirt/cpu_map/x86_features.xml")
        if not text.exists():
            self.skipTest(f"{text} is not installed (package libvirt0)")
        known = text.read_text()
        for name in set(flags.NAMES.values()):
            self.assertTrue(f"name='{name}'" in known, name)
