"""The traits that a host reports, and guests that ask for hosts by them."""

import types
from dataclasses import replace

import fixtures
import testtools

from compute.errors import Refused
from tests.golden.cases import guest
from tests.golden.test_domains import ABILITIES, CAPABILITIES, UEFI, options
from virt.libvirt import caps, hardware, traits
from virt.libvirt.driver import LibvirtDriver

CAPS = caps.parse(CAPABILITIES)


class TraitTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.firmware = dict(UEFI)
        self.useFixture(fixtures.MonkeyPatch(
            "virt.storage.firmware.find", lambda wish, size=None: self.firmware.get(wish)))

    def found(self, host=ABILITIES, virt_type="qemu", cells=(), **set_to):
        told = replace(CAPS, cells=cells or CAPS.cells)
        return set(traits.found(options(set_to), virt_type, told, host))

    def test_what_is_there_and_nothing_else(self):
        found = self.found()
        self.assertLessEqual({
            "HW_CPU_X86_AVX2", "COMPUTE_FIRMWARE_UEFI", "COMPUTE_SECURITY_UEFI_SECURE_BOOT",
            "COMPUTE_SECURITY_TPM_2_0", "COMPUTE_SECURITY_TPM_CRB", "COMPUTE_GRAPHICS_MODEL_VGA",
            "COMPUTE_STORAGE_BUS_SCSI", "COMPUTE_NET_VIF_MODEL_E1000E", "COMPUTE_SOUND_MODEL_ICH9",
            "COMPUTE_USB_MODEL_QEMU_XHCI", "COMPUTE_VIOMMU_MODEL_VIRTIO"}, found)
        for absent in ("HW_CPU_X86_AVX512F", "HW_CPU_X86_SHA", "COMPUTE_GRAPHICS_MODEL_QXL",
                       "HW_CPU_X86_AMD_SEV", "HW_CPU_HYPERTHREADING", "COMPUTE_MEM_BACKING_FILE"):
            self.assertNotIn(absent, found)

    def test_each_goes_when_its_reason_goes(self):
        self.firmware.clear()
        bare = replace(ABILITIES, tpm_models=frozenset(), tpm_versions=frozenset(), libvirt=8000000)
        found = self.found(bare)
        for absent in ("UEFI", "TPM", "STATELESS", "VIOMMU_MODEL_VIRTIO", "ADDRESS_SPACE"):
            self.assertEqual([], [name for name in found if absent in name])

    def test_options_and_processors(self):
        pair = replace(CAPS.cells[0], siblings=(frozenset((0, 1)),))
        found = self.found(virt_type="kvm", cells=(pair,), file_backed_memory=1,
                           cpu_mode="host-passthrough", live_migration_permit_post_copy=True)
        self.assertLessEqual({
            "HW_CPU_X86_AMD_SEV", "HW_CPU_X86_AMD_SEV_ES", "HW_CPU_HYPERTHREADING",
            "COMPUTE_MEM_BACKING_FILE", "COMPUTE_ADDRESS_SPACE_PASSTHROUGH",
            "COMPUTE_MIGRATE_POST_COPY"}, found)

    def test_what_is_decided_is_what_is_told(self):
        """A trait for each kind that a guest may ask for, and none for others."""
        for prefix, values in (("COMPUTE_STORAGE_BUS", hardware.DISK_BUSES),
                               ("COMPUTE_NET_VIF_MODEL", hardware.VIF_MODELS)):
            self.assertEqual({f"{prefix}_{value.upper()}" for value in values},
                             {name for name in self.found() if name.startswith(prefix)})
        self.assertEqual(traits.VIDEOS, set(hardware.VIDEO_MODELS))

    def test_guests_are_refused_by_the_traits_that_are_judged_here(self):
        specs = {"trait:COMPUTE_SECURITY_TPM_2_0": "required",
                 "trait:COMPUTE_GRAPHICS_MODEL_QXL": "required",
                 "trait:COMPUTE_FIRMWARE_UEFI": "forbidden",
                 "trait:CUSTOM_GOLD": "required", "trait:COMPUTE_VOLUME_EXTEND": "required"}
        error = self.assertRaises(Refused, traits.refuse, guest(specs=specs), self.found())
        self.assertEqual("host_unfit", error.code)
        self.assertIn("QXL is required", error.what)
        self.assertIn("UEFI is forbidden", error.what)
        self.assertNotIn("TPM", error.what)
        self.assertNotIn("GOLD", error.what)
        traits.refuse(guest(), ())

    def test_a_start_does_not_wait_for_them(self):
        conf = options({"virt_type": "qemu"})
        conf.set_override("state_path", self.useFixture(fixtures.TempDir()).path)
        driver = LibvirtDriver(conf, types.SimpleNamespace(storage_id=lambda: "s"))
        self.addCleanup(driver.calls.close)
        known = [None]
        facts = types.SimpleNamespace(traits=())
        self.useFixture(fixtures.MonkeyPatch(
            "virt.libvirt.driver.replace",
            lambda facts, **new: types.SimpleNamespace(**{**vars(facts), **new})))
        driver.host = types.SimpleNamespace(
            facts=lambda *args: facts, known_abilities=lambda kind: known[0], caps=lambda: CAPS)
        self.assertEqual((), driver.host_facts().traits)
        known[0] = ABILITIES
        self.assertIn("COMPUTE_NODE", driver.host_facts().traits)
