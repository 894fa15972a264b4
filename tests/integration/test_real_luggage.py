"""What moves with a guest: its ports on switches of Open vSwitch, a volume, and its consoles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fixtures

from tests.integration.lab import LabFixture, missing
from tests.integration.patience import SECONDS
from tests.integration.repeats import Repeating, repeated
from tests.modes import AGENTS, once
from tools.toolbox.lab.guest import FLAVOR, IMAGE, LabGuest, prepare, until
from tools.toolbox.lab.host import LabHost
from virt.xml.domain import Domain

NETWORK, BRIDGE, NAME, VOLUME = "tenant", "br-int", "switched", "data"
CONSOLES = {"spice": {"enabled": "true"}, "serial_console": {"enabled": "true"}}
# In user space: the datapath of the kernel is not everywhere. The daemons end with the lab.
SWITCH = f"""set -e
mkdir -p /run/openvswitch
mount -t tmpfs tmpfs /run/openvswitch
export OVS_LOGDIR=/run/openvswitch OVS_DBDIR=/run/openvswitch OVS_SYSCONFDIR=/run/openvswitch
ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach \\
    --log-file >/dev/null 2>&1
ovs-vsctl --no-wait init
ovs-vswitchd --pidfile --detach --log-file >/dev/null 2>&1
ovs-vsctl --timeout=30 add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type=netdev
"""


@once(AGENTS)
class LuggageTest(Repeating):
    def setUp(self):
        super().setUp()
        reason = missing()
        if not reason and not Path("/usr/share/openvswitch/vswitch.ovsschema").exists():
            reason = "Open vSwitch is not installed"
        if reason:
            self.skipTest(reason)
        self.begin()

    def begin(self):
        """A lab whose hosts have switches, and volumes that all of them reach."""
        directory = self.useFixture(fixtures.TempDir()).path
        os.chmod(directory, 0o755)
        self.lab = self.useFixture(LabFixture(
            options={**CONSOLES, "control": {"volume_dir": directory}})).lab
        for host in self.lab.hosts:
            host.run("sh", "-c", SWITCH)
        prepare(self.lab)

    def begin_again(self):
        self.lab.down()
        self.begin()

    def consoles(self):
        return [path for host in self.lab.hosts for path in host.instances.glob("*/console.log")]

    def ports(self, host: LabHost) -> list[str]:
        """The ids of the NICs that a host's switch knows, as its controller would find them."""
        names = host.run("ovs-vsctl", "list-ports", BRIDGE).stdout.split()
        return [host.run("ovs-vsctl", "get", "Interface", name, "external_ids:iface-id")
                .stdout.strip().strip('"') for name in names]

    def volumes(self, host: LabHost) -> list[str]:
        """The serial numbers of the volumes that a host's hypervisor gives the guest."""
        text = host.run("virsh", "dumpxml", self.guest.uuid).stdout
        return [disk.serial for disk in Domain.parse(text).devices.disks if disk.serial]

    def consoles_are_on(self, host: LabHost) -> None:
        """Its screen and its serial console are where they are said to be."""
        for kind in ("spice-html5", "serial"):
            told = self.client.call("console.url", server=NAME, kind=kind)
            ask = f"import socket; socket.create_connection(('127.0.0.1', {told['port']}), 5)"
            self.assertEqual(0, host.run(sys.executable, "-c", ask, check=False).returncode, kind)

    @repeated
    def test_all_of_it_moves_with_the_guest(self):
        one, two = self.lab.hosts
        self.client = client = self.lab.client(SECONDS)
        client.call("network.create", name=NETWORK, subnet="192.0.2.0/24", bridge=BRIDGE, ovs=True)
        client.call("host.disable", host=two.name)
        client.call("server.create", name=NAME, image=IMAGE, flavor=FLAVOR, networks=[NETWORK],
                    config_drive=True)
        self.guest = guest = LabGuest(self.lab, NAME)
        guest.settled("active")
        client.call("host.enable", host=two.name)
        [port] = [row["id"] for row in client.call("server.ports", server=NAME)]
        self.assertEqual(([port], []), (self.ports(one), self.ports(two)))
        guest.counts_on()
        volume = client.call("volume.create", name=VOLUME, size=1)["id"]
        until(lambda: client.call("volume.show", volume=VOLUME)["status"] == "available", SECONDS,
              "the volume is made")
        client.call("server.add_volume", server=NAME, volume=VOLUME)
        until(lambda: self.volumes(one) == [volume], SECONDS, "the volume is in the guest")
        self.consoles_are_on(one)
        guest.call("live_migrate", host=two.name)
        until(lambda: guest.migration()["status"] == "completed", SECONDS, "the guest has moved")
        until(lambda: not guest.unsettled(), SECONDS, "the source has tidied up")
        self.assertEqual(([], [port]), (self.ports(one), self.ports(two)))
        self.assertEqual([volume], self.volumes(two))
        [attachment] = client.call("volume.show", volume=VOLUME)["attachments"]
        self.assertEqual("host2", attachment["host_name"])
        self.consoles_are_on(two)
        guest.counts_on()
        client.call("server.remove_volume", server=NAME, volume=VOLUME)
        until(lambda: self.volumes(two) == [], SECONDS, "the guest let go of the volume")
        client.call("server.delete", server=NAME, force=True)
        until(lambda: not client.call("server.list"), SECONDS, "the guest is gone")
        self.assertEqual(([], []), (self.ports(one), self.ports(two)))
