"""What flavor, image and options ask for, and what is refused."""

from dataclasses import replace
from pathlib import Path

import testtools
from oslo_config import cfg

from compute import conf as magnetar_conf
from compute.errors import Failed
from tests.golden.cases import GUEST, guest
from virt.libvirt import abilities, caps, hardware

DATA = Path(__file__).parents[1] / "golden/data"
CAPS = caps.parse((DATA / "capabilities.xml").read_text())
MODELS = abilities.parse((DATA / "domcapabilities.xml").read_text(), frozenset(), 0, 0).models


def decide(subject, virt_type="qemu", **options):
    conf = cfg.ConfigOpts()
    magnetar_conf.register(conf)
    conf([], default_config_files=[])
    for name, value in options.items():
        conf.set_override(name, value, group="libvirt")
    return hardware.decide(subject, conf, CAPS, virt_type, MODELS)


class HardwareCase(testtools.TestCase):
    def refused(self, code, subject, *words, **options):
        error = self.assertRaises(Failed, decide, subject, **options)
        self.assertEqual(code, error.code)
        for word in words:
            self.assertIn(word, str(error))
        self.assertTrue(error.now and error.next)


class TestMachine(HardwareCase):
    def test_an_alias_becomes_a_versioned_name_that_is_recorded(self):
        for wanted, versioned in (("q35", "pc-q35-7.2"), ("pc", "pc-i440fx-7.2")):
            found = decide(guest(properties={"hw_machine_type": wanted}))
            self.assertEqual(versioned, found.machine)
            self.assertEqual(versioned, found.recorded()["hw_machine_type"])

    def test_what_was_recorded_wins_over_image_and_option(self):
        found = decide(
            guest(
                properties={"hw_machine_type": "q35"},
                system_metadata={"image_hw_machine_type": "pc-i440fx-6.2"},
            ),
            hw_machine_type={"x86_64": "q35"},
        )
        self.assertEqual("pc-i440fx-6.2", found.machine)

    def test_the_option_is_used_where_the_image_is_silent(self):
        self.assertEqual("pc-i440fx-7.2", decide(GUEST, hw_machine_type={"x86_64": "pc"}).machine)

    def test_a_machine_that_qemu_lacks_is_refused(self):
        subject = guest(properties={"hw_machine_type": "pc-q35-99.9"})
        self.refused("image_unacceptable", subject, "pc-q35-99.9", "q35")

    def test_more_vcpus_than_the_machine_takes_are_refused(self):
        self.refused("flavor_unacceptable", guest(vcpus=289), "289", "288")

    def test_recording_and_deciding_again_gives_the_same(self):
        first = decide(guest(properties={"hw_disk_bus": "scsi"}))
        recorded = {"image_" + name: value for name, value in first.recorded().items()}
        again = decide(guest(properties={"hw_disk_bus": "sata"}, system_metadata=recorded))
        self.assertEqual(first, again)

    def test_other_architectures_are_refused(self):
        subject = guest(properties={"hw_architecture": "aarch64"})
        self.refused("image_unacceptable", subject, "aarch64", "x86_64")

    def test_a_32_bit_guest_is_emulated_where_kvm_is_not_offered_for_it(self):
        subject = guest(properties={"hw_architecture": "i686", "hw_machine_type": "pc"})
        self.assertEqual("qemu", decide(subject, virt_type="kvm").virt_type)


class TestImageProperties(HardwareCase):
    def test_defaults_are_those_of_a_modern_guest(self):
        found = decide(guest(vcpus=4))
        self.assertEqual(
            ("virtio", "scsi", "virtio", 4, 4, True, True, "disabled"),
            (found.disk_bus, found.cdrom_bus, found.vif_model, found.vif_queues,
             found.disk_queues, found.agent, found.rng, found.watchdog),
        )  # fmt: skip

    def test_unknown_values_are_refused_by_name_with_what_is_allowed(self):
        for name, value, allowed in (
            ("hw_disk_bus", "floppy", "virtio, scsi, sata, ide"),
            ("hw_cdrom_bus", "virtio", "scsi, sata, ide"),
            ("hw_scsi_model", "lsilogic", "virtio-scsi"),
            ("hw_vif_model", "tulip", "e1000"),
            ("hw_firmware_type", "openfirmware", "bios"),
            ("hw_firmware_stateless", "True", "false"),
            ("hw_tpm_version", "3", "2.0"),
            ("hw_tpm_model", "tpm-crb", "hw:tpm_version"),
            ("hw_tpm_secret_security", "host", "nothing"),
            ("hw_redirected_usb_ports", "2", "0"),
            ("hw_input_bus", "ps2", "virtio"),
            ("hw_sound_model", "adlib", "ich9"),
            ("hw_usb_model", "uhci", "qemu-xhci"),
            ("hw_pmu", "often", "true or false"),
            ("hw_viommu_model", "smmuv3", "intel"),
            ("hw_maxphysaddr_mode", "emulate", "hw:maxphysaddr_bits"),
            ("hw_maxphysaddr_bits", "40", "emulate"),
            ("hw_qemu_guest_agent", "perhaps", "true or false"),
            ("hw_rng_model", "egd", "virtio"),
            ("hw_watchdog_action", "explode", "reset"),
            ("hw_video_model", "voodoo", "vga"),
            ("hw_pointer_model", "finger", "usbtablet"),
            ("hw_vif_multiqueue_enabled", "2", "true or false"),
            ("hw_cpu_sockets", "many", "whole number"),
            ("hw_video_ram", "-1", "whole number"),
            ("hw_mem_page_size", "1GB", "nothing"),
            ("hw_cpu_policy", "exclusive", "shared, dedicated, mixed"),
        ):
            subject = guest(properties={name: value})
            self.refused("image_unacceptable", subject, f"{name}={value}", allowed)

    def test_harmless_values_of_what_is_not_there_yet_pass(self):
        decide(guest(properties={"hw_cpu_policy": "shared", "hw_mem_encryption": "False"}))

    def test_what_an_old_agent_recorded_is_judged_too(self):
        subject = replace(GUEST, system_metadata={"image_hw_redirected_usb_ports": "2"})
        self.refused("image_unacceptable", subject, "hw_redirected_usb_ports")

    def test_properties_that_are_no_hardware_do_not_matter(self):
        decide(guest(properties={"os_distro": "debian", "my_own": "\x00<&>"}))

    def test_ide_is_refused_where_the_machine_has_none(self):
        for name in ("hw_disk_bus", "hw_cdrom_bus"):
            subject = guest(properties={name: "ide"})
            self.refused("image_unacceptable", subject, name, "no IDE")

    def test_video_memory_needs_the_flavors_leave(self):
        specs, properties = {"hw_video:ram_max_mb": "16"}, {"hw_video_ram": "16"}
        self.assertEqual(16384, decide(guest(specs=specs, properties=properties)).vram)
        self.refused("image_unacceptable", guest(properties=properties), "hw_video_ram", "not set")
        subject = guest(specs=specs, properties={"hw_video_ram": "17"})
        self.refused("image_unacceptable", subject, "16")

    def test_windows_is_known_from_the_guest_or_its_image(self):
        self.assertTrue(decide(replace(GUEST, os_type="windows")).windows)
        self.assertTrue(decide(guest(properties={"os_type": "windows"})).windows)
        self.assertFalse(decide(GUEST).windows)


class TestExtraSpecs(HardwareCase):
    def test_unknown_values_are_refused_by_name(self):
        for name, value in (
            ("hw:watchdog_action", "explode"),
            ("hw:vif_multiqueue_enabled", "si"),
            ("hw:cpu_cores", "0"),
            ("hw:cpu_threads", "1.5"),
            ("hw_rng:allowed", "maybe"),
            ("hw_rng:rate_bytes", "\u0661"),
            ("hw:cpu_policy", "exclusive"),
            ("hw:numa_nodes", "none"),
            ("hw:mem_page_size", "huge"),
        ):
            self.refused("flavor_unacceptable", guest(specs={name: value}), f"{name}={value}")

    def test_the_images_watchdog_wins(self):
        specs = {"hw:watchdog_action": "pause"}
        self.assertEqual("pause", decide(guest(specs=specs)).watchdog)
        found = decide(guest(specs=specs, properties={"hw_watchdog_action": "reset"}))
        self.assertEqual("reset", found.watchdog)

    def test_multiqueue_follows_flavor_then_image_then_option(self):
        on, off = {"hw:vif_multiqueue_enabled": "true"}, {"hw_vif_multiqueue_enabled": "no"}
        self.assertEqual(1, decide(guest(vcpus=4), vif_multiqueue=False).vif_queues)
        self.assertEqual(4, decide(guest(vcpus=4, specs=on), vif_multiqueue=False).vif_queues)
        self.assertEqual(1, decide(guest(vcpus=4, properties=off)).vif_queues)
        self.refused("image_unacceptable", guest(specs=on, properties=off), "the flavor says")

    def test_queues_are_bounded_by_vcpus_and_option(self):
        self.assertEqual(2, decide(guest(vcpus=2)).vif_queues)
        self.assertEqual(8, decide(guest(vcpus=64)).disk_queues)
        self.assertEqual(3, decide(guest(vcpus=64), max_queues=3).disk_queues)

    def test_random_numbers_can_be_denied_and_rated(self):
        self.assertFalse(decide(guest(specs={"hw_rng:allowed": "no"})).rng)
        self.assertEqual((9, 1000), decide(guest(specs={"hw_rng:rate_bytes": "9"})).rng_rate)


class TestCPU(HardwareCase):
    def topology(self, vcpus, specs=None, properties=None):
        found = decide(guest(vcpus=vcpus, specs=specs, properties=properties))
        return found.sockets, found.cores, found.threads

    def test_what_is_not_fixed_becomes_sockets(self):
        self.assertEqual((6, 1, 1), self.topology(6))
        self.assertEqual((3, 2, 1), self.topology(6, {"hw:cpu_cores": "2"}))
        self.assertEqual((2, 3, 1), self.topology(6, {"hw:cpu_sockets": "2"}))
        self.assertEqual((1, 3, 2), self.topology(
            6, {"hw:cpu_sockets": "1", "hw:cpu_threads": "2"}))

    def test_limits_are_kept(self):
        self.assertEqual((2, 4, 1), self.topology(8, {"hw:cpu_max_sockets": "2"}))
        self.assertEqual((2, 2, 2), self.topology(
            8, {"hw:cpu_max_sockets": "2", "hw:cpu_max_cores": "2", "hw:cpu_max_threads": "2"}))
        self.assertEqual((1, 8, 1), self.topology(8, properties={"hw_cpu_max_sockets": "1"}))

    def test_the_flavor_goes_before_the_image(self):
        self.assertEqual((1, 4, 1), self.topology(
            4, {"hw:cpu_sockets": "1"}, {"hw_cpu_sockets": "4"}))

    def test_shapes_that_do_not_fit_are_refused(self):
        for specs in ({"hw:cpu_sockets": "4"}, {"hw:cpu_cores": "7"},
                      {"hw:cpu_max_sockets": "1", "hw:cpu_max_cores": "2"}):  # fmt: skip
            self.refused("flavor_unacceptable", guest(vcpus=6, specs=specs), "6 vCPUs")

    def test_the_default_depends_on_how_the_guest_runs(self):
        self.assertEqual("host-model", decide(GUEST, virt_type="kvm").cpu_mode)
        found = decide(GUEST, virt_type="qemu")
        self.assertEqual(("custom", "Nehalem"), (found.cpu_mode, found.cpu_model))

    def test_the_last_usable_model_is_chosen(self):
        found = decide(GUEST, cpu_mode="custom", cpu_models=["qemu64", "kvm64", "EPYC"])
        self.assertEqual("kvm64", found.cpu_model)

    def test_models_that_cannot_run_here_are_refused(self):
        for models in (["EPYC"], []):
            self.refused("cpu_unacceptable", GUEST, "cpu_models", cpu_mode="custom",
                         cpu_models=models)  # fmt: skip

    def test_none_leaves_it_to_libvirt(self):
        self.assertEqual("", decide(GUEST, cpu_mode="none").cpu_mode)
