"""Golden XML of volumes and their secrets; see :mod:`tests.golden.test_domains`."""

from tests.golden.test_domains import HERE, GoldenCase
from tests.golden.volumes import DISKS, SECRETS, disk, secret
from virt.xml.disk import Disk

DOMAIN = """<domain type='qemu'><name>g</name><memory>65536</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{}</devices></domain>"""


class TestGoldenVolumes(GoldenCase):
    def test_disks_are_as_they_were_and_valid(self):
        for name in DISKS:
            text = disk(name).to_xml()
            self.check_golden(HERE / f"volumes/{name}.xml", text)
            self.check_valid("domain.rng", DOMAIN.format(text))
            self.assertEqual(text, Disk.parse(text).to_xml())

    def test_secrets_are_as_they_were_and_valid(self):
        for usage in SECRETS:
            text = secret(usage).to_xml()
            self.check_golden(HERE / f"volumes/secret-{usage}.xml", text)
            self.check_valid("secret.rng", text)

    def test_no_golden_file_is_left_over(self):
        found = {path.stem for path in (HERE / "volumes").glob("*.xml")}
        self.assertEqual({*DISKS, *(f"secret-{usage}" for usage in SECRETS)}, found)
