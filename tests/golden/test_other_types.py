"""Golden XML of libvirt's drivers other than QEMU's. Of these only lxc was ever run."""

from dataclasses import replace

from compute.errors import Failed
from tests.golden.cases import CONFIG, EPHEMERAL, GUEST, NIC, RAW, ROOT, guest
from tests.golden.test_domains import HERE, SCHEMAS, GoldenCase
from virt.libvirt import othertypes
from virt.xml.domain import Domain

SPECS = {"quota:cpu_shares": "512", "quota:vif_inbound_average": "1024"}
SHORT = replace(RAW, path="/srv/guests/6f1e2d3c-0000-4000-8000-000000000001/disk")
DISKS = {"lxc": [SHORT], "xen": [ROOT, EPHEMERAL], "vz": [ROOT, CONFIG]}


def plan(type, **changes):
    values = {"type": type, "arch": "x86_64", "guest": guest(vcpus=2, specs=SPECS),
              "disks": DISKS.get(type, [RAW, EPHEMERAL]), "nics": [NIC], "generation": 3,
              "operation": "op-7"}  # fmt: skip
    return othertypes.Plan(**{**values, **changes})


class TestOtherTypes(GoldenCase):
    def test_domains_are_as_they_were_and_valid(self):
        for type in othertypes.KINDS:
            text = othertypes.build(plan(type)).to_xml()
            self.check_golden(HERE / f"othertypes/{type}.xml", text)
            self.assertEqual(text, Domain.parse(text).to_xml())
            # libvirt 9.0 drives Cloud Hypervisor, but its schema has not heard of the name.
            if type == "ch" and "<value>ch</value>" not in self.schema():
                text = text.replace('type="ch"', 'type="qemu"')
            self.check_valid("domain.rng", text)

    def schema(self):
        path = SCHEMAS / "domaincommon.rng"
        return path.read_text() if path.exists() else ""

    def test_disks_that_the_hypervisor_does_not_open(self):
        for type in ("lxc", "bhyve", "ch"):
            with_overlay = plan(type, disks=[ROOT])
            error = self.assertRaises(Failed, othertypes.build, with_overlay)
            self.assertEqual("image_unacceptable", error.code)
            self.assertIn("images_type = raw", error.next)

    def test_a_path_that_a_loop_device_cannot_have(self):
        error = self.assertRaises(Failed, othertypes.build, plan("lxc", disks=[RAW]))
        self.assertIn("instances_path", error.next)
        self.assertIn("at most 21", error.next)
        self.assertEqual(63, len("/" * 21 + f"/{GUEST.uuid}/disk"))

    def test_what_only_qemu_can_do_is_refused_by_name(self):
        big = replace(GUEST.flavor, ephemeral_gb=1)
        for subject, code, word in (
            (guest(specs={"hw:cpu_policy": "dedicated"}), "flavor_unacceptable", "hw:cpu_policy"),
            (guest(properties={"hw_firmware_type": "uefi"}), "image_unacceptable",
             "hw_firmware_type"),
            (replace(GUEST, flavor=big), "flavor_unacceptable", "ephemeral"),
            (replace(GUEST, config_drive=True), "image_unacceptable", "config drive"),
        ):
            error = self.assertRaises(Failed, othertypes.check, "lxc", subject)
            self.assertEqual(code, error.code)
            self.assertIn(word, error.what)
        othertypes.check("xen", replace(GUEST, flavor=big, config_drive=True))
