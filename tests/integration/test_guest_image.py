"""The guest image of tools/build-guest under a private libvirtd: what it says and obeys."""

import json
import pathlib
import re
import subprocess
import tempfile
import time

import libvirt
import testtools

from tests.integration import libvirtd
from tests.integration.patience import SECONDS
from tests.modes import once

TOP = pathlib.Path(__file__).resolve().parents[2]
NETWORK = """<network><name>quick</name><ip address='192.168.123.1' netmask='255.255.255.0'>
<dhcp><range start='192.168.123.10' end='192.168.123.99'/></dhcp></ip></network>"""
MAC = "52:54:00:12:34:56"
DOMAIN = """<domain type='qemu'><name>guest</name><memory unit='MiB'>256</memory>
<os><type machine='{machine}'>hvm</type></os><features><acpi/></features><devices>
<disk type='file'><driver name='qemu' type='qcow2'/><source file='{home}/disk'/>
  <target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><source file='{home}/config'/><readonly/>
  <target dev='{target}' bus='{bus}'/></disk>
<interface type='network'><source network='quick'/><mac address='{mac}'/>
  <model type='virtio'/></interface>
<controller type='scsi' model='virtio-scsi'/>
<serial type='pty'><log file='{home}/console' append='on'/></serial>
</devices></domain>"""


@once("it is about the image, and no agent runs")
class GuestImageTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        reason = libvirtd.missing()
        if reason:
            self.skipTest(reason)
        home = tempfile.TemporaryDirectory(prefix="guest-")
        self.addCleanup(home.cleanup)
        self.home = pathlib.Path(home.name)
        self.daemon = self.useFixture(libvirtd.PrivateLibvirtd())
        image = TOP / ".cache/guest.qcow2"
        self.run_command(str(TOP / "tools/build-guest"), str(image))
        self.run_command(
            *("qemu-img", "create", "-f", "qcow2", "-F", "qcow2"),
            *("-b", str(image), str(self.home / "disk"), "1G"),
        )

    def run_command(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(0, done.returncode, done.stderr)

    def config_drive(self, **files: dict) -> None:
        latest = self.home / "drive/openstack/latest"
        latest.mkdir(parents=True)
        for name, data in files.items():
            (latest / f"{name}.json").write_text(json.dumps(data))
        self.run_command(
            *("genisoimage", "-quiet", "-J", "-r", "-V", "config-2"),
            *("-o", str(self.home / "config"), str(self.home / "drive")),
        )

    def start(self, machine: str, target: str, bus: str) -> libvirt.virDomain:
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        connection.networkCreateXML(NETWORK)
        xml = DOMAIN.format(home=self.home, machine=machine, target=target, bus=bus, mac=MAC)
        domain = connection.defineXML(xml)
        domain.create()
        return domain

    def console(self) -> str:
        path = self.home / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def await_console(self, pattern: str, seconds: float = SECONDS) -> re.Match:
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.console())):
            if time.monotonic() > deadline:
                self.fail(f"no {pattern!r} within {seconds} s on this console:\n{self.console()}")
            time.sleep(0.1)
        return found

    def await_off(self, domain: libvirt.virDomain, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while domain.isActive():
            if time.monotonic() > deadline:
                self.fail(f"the guest did not shut down; its console:\n{self.console()}")
            time.sleep(0.1)

    def test_hostname_by_ide_and_address_by_dhcp(self):
        self.config_drive(meta_data={"hostname": "first.example", "meta": {"a": '"b"'}})
        self.start("pc", "hda", "ide")
        self.await_console(r"GUEST-READY")
        self.assertIn("GUEST-HOSTNAME first\n", self.console())
        self.assertRegex(self.console(), r"GUEST-IP 192\.168\.123\.\d+/24")

    def test_static_address_power_button_and_a_counter_that_lasts(self):
        self.config_drive(
            meta_data={"hostname": "second"},
            network_data={
                "links": [{"id": "tap0", "type": "phy", "ethernet_mac_address": MAC.upper()}],
                "networks": [
                    {"id": "n0", "type": "ipv4", "link": "tap0", "ip_address": "192.168.123.200"}
                    | {"netmask": "255.255.255.0", "routes": []}
                ],
            },
        )
        domain = self.start("q35", "sda", "scsi")
        self.await_console(r"GUEST-READY")
        self.assertIn("GUEST-HOSTNAME second\n", self.console())
        self.assertIn("GUEST-IP 192.168.123.200/24\n", self.console())
        self.await_console(r"TICK 2\n")
        domain.shutdown()
        self.await_off(domain)
        last = int(re.findall(r"TICK (\d+)", self.console())[-1])
        domain.create()
        self.await_console(rf"TICK {last + 1}\n")
        domain.destroy()
        last = int(re.findall(r"TICK (\d+)", self.console())[-1])
        domain.create()
        # A guest that was cut off may have written one number more than it could tell.
        self.await_console(rf"(?s)TICK {last}\n.*GUEST-READY.*TICK ({last + 1}|{last + 2})\n")
        self.assertEqual(1, self.console().count("TICK 1\n"))

    def test_guests_outlive_their_libvirtd(self):
        self.config_drive(meta_data={"hostname": "third"})
        self.start("pc", "hda", "ide")
        process = self.daemon.guest("guest")
        self.daemon.kill()
        self.assertTrue(process.alive())
        self.daemon.start()
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        self.assertTrue(connection.lookupByName("guest").isActive())
        self.assertEqual(process, self.daemon.guest("guest"))
