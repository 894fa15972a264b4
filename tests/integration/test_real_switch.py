"""A guest on bridges of Open vSwitch: ports come with it, go with it, and move with it."""

from __future__ import annotations

from pathlib import Path

from tests.integration.lab import LabFixture, missing
from tests.integration.patience import SECONDS
from tests.integration.repeats import Repeating, repeated
from tests.modes import AGENTS, once
from tools.toolbox.lab.guest import FLAVOR, IMAGE, LabGuest, prepare, until
from tools.toolbox.lab.host import LabHost

NETWORK, BRIDGE, NAME = "tenant", "br-int", "switched"
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
class SwitchTest(Repeating):
    def setUp(self):
        super().setUp()
        reason = missing()
        if not reason and not Path("/usr/share/openvswitch/vswitch.ovsschema").exists():
            reason = "Open vSwitch is not installed"
        if reason:
            self.skipTest(reason)
        self.begin()

    def begin(self):
        """A lab whose hosts have switches."""
        self.lab = self.useFixture(LabFixture()).lab
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

    @repeated
    def test_a_port_comes_moves_and_goes(self):
        one, two = self.lab.hosts
        client = self.lab.client(SECONDS)
        client.call("network.create", name=NETWORK, subnet="192.0.2.0/24", bridge=BRIDGE, ovs=True)
        client.call("host.disable", host=two.name)
        client.call("server.create", name=NAME, image=IMAGE, flavor=FLAVOR, networks=[NETWORK],
                    config_drive=True)
        guest = LabGuest(self.lab, NAME)
        guest.settled("active")
        client.call("host.enable", host=two.name)
        [port] = [row["id"] for row in client.call("server.ports", server=NAME)]
        self.assertEqual(([port], []), (self.ports(one), self.ports(two)))
        guest.counts_on()
        guest.call("live_migrate", host=two.name)
        until(lambda: guest.migration()["status"] == "completed", SECONDS, "the guest has moved")
        until(lambda: not guest.unsettled(), SECONDS, "the source has tidied up")
        self.assertEqual(([], [port]), (self.ports(one), self.ports(two)))
        guest.counts_on()
        client.call("server.delete", server=NAME, force=True)
        until(lambda: not client.call("server.list"), SECONDS, "the guest is gone")
        self.assertEqual(([], []), (self.ports(one), self.ports(two)))
