"""The lab itself: hosts that are apart, move a guest by raw libvirt, and leave nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import libvirt
import testtools

from tests.integration.lab import IMAGE, LabError, LabFixture, build_image, missing
from tests.integration.patience import SECONDS, until
from tests.integration.repeats import Repeating, repeated
from tests.modes import AGENTS, once
from tools.toolbox.lab import Lab, network
from tools.toolbox.lab.lab import sweep
from tools.toolbox.lab.place import NETNS, TOP

DISKS = "/var/lib/magnetar/instances"
GUEST = """<domain type='qemu'><name>tiny</name><uuid>{uuid}</uuid>
<memory unit='MiB'>192</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<features><acpi/></features>
<cpu mode='custom'><model>Nehalem</model><feature policy='disable' name='pge'/></cpu>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
<source file='{disks}/{uuid}/disk'/><target dev='vda' bus='virtio'/></disk>
<interface type='bridge'><source bridge='br-guests'/><model type='virtio'/></interface>
<serial type='pty'><log file='{disks}/{uuid}/console.log' append='on'/></serial>
</devices></domain>"""
MOVE = (
    libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_TLS
    | libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
)  # fmt: skip


@once("it is about hosts, and no agent runs")
class LabCase(Repeating):
    """Needs namespaces; makes labs without agents."""

    SHARED = False

    def setUp(self):
        super().setUp()
        reason = missing(shared=self.SHARED, bare=True)
        if reason:
            self.skipTest(reason)
        self.labs = []

    def make(self, **how):
        """A bare lab of two hosts."""
        self.labs.append(self.useFixture(LabFixture(shared=self.SHARED, bare=True, **how)).lab)
        return self.labs[-1]

    def consoles(self):
        return [path for lab in self.labs for host in lab.hosts
                for path in host.instances.glob("*/console.log")]

    def begin_again(self):
        while self.labs:
            self.labs.pop().down()

    def connect(self, host):
        """A connection that is closed with the test."""
        connection = host.libvirt()
        self.addCleanup(connection.close)
        return connection

    def guest(self, host):
        """A running guest on a host; its uuid."""
        build_image()
        name = str(uuid.uuid4())
        (host.instances / name).mkdir()
        shutil.copy(IMAGE, host.instances / name / "disk")
        self.connect(host).defineXML(GUEST.format(uuid=name, disks=DISKS)).create()
        return name

    def move(self, guest, source, destination, flags=0, **parameters):
        """Migrate live over the migration network, encrypted; returns the seconds it took."""
        domain = self.connect(source).lookupByUUIDString(guest)
        began = time.monotonic()
        parameters["migrate_uri"] = f"tcp://{destination.migration_address}"
        domain.migrateToURI3(destination.tls_uri, parameters, MOVE | flags)
        return time.monotonic() - began

    def empty_disk(self, host, guest):
        """A disk of the image's size, to copy into."""
        told = subprocess.run(
            ["qemu-img", "info", "--output=json", IMAGE], check=True, capture_output=True)
        size = str(json.loads(told.stdout)["virtual-size"])
        (host.instances / guest).mkdir()
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", host.instances / guest / "disk", size],
            check=True)

    def ticks(self, host, guest):
        """How often the guest's counter was seen on its console on this host."""
        return host.console(guest).count("TICK")


class TestHosts(LabCase):
    """What makes a host a host."""

    def test_hosts_are_apart(self):
        lab = self.make()
        first, second = lab.hosts
        self.assertEqual("host1\n", first.run("hostname").stdout)
        self.assertEqual("host2\n", second.run("hostname").stdout)
        identities = {
            host.run("virsh", "capabilities").stdout.split("<uuid>")[1][:36] for host in lab.hosts
        }
        self.assertEqual(2, len(identities))
        first.run("touch", "/var/lib/magnetar/instances/mark")
        self.assertEqual("", second.run("ls", "/var/lib/magnetar/instances").stdout)
        boots = {host.run("cat", "/proc/sys/kernel/random/boot_id").stdout for host in lab.hosts}
        self.assertEqual(2, len(boots))

    def test_libvirt_between_hosts_is_encrypted_only(self):
        lab = self.make()
        answer = lab.host("host1").run("virsh", "-c", "qemu+tls://host2/system", "hostname")
        self.assertEqual("host2", answer.stdout.strip())
        plain = lab.host("host1").run(
            "virsh", "-c", "qemu+tcp://host2/system", "hostname", check=False)
        self.assertNotEqual(0, plain.returncode)

    def test_up_again_starts_what_was_killed_and_adds_hosts(self):
        lab = self.make(hosts=1)
        kept = lab.host("host1").virtlogd.process()
        lab.host("host1").libvirtd.kill()
        again = Lab(lab.place.name)
        again.up(2, bare=True)
        lab = Lab(lab.place.name)
        self.assertEqual(kept, lab.host("host1").virtlogd.process())
        self.assertIsNotNone(lab.host("host1").libvirtd.process())
        answer = lab.host("host1").run("virsh", "-c", "qemu+tls://host2/system", "hostname")
        self.assertEqual("host2", answer.stdout.strip())
        self.assertRaises(LabError, lab.up, 2, shared=True, bare=True)

    def test_host_that_lost_power_boots_anew(self):
        host = self.make(hosts=1).host("host1")
        before = host.run("cat", "/proc/sys/kernel/random/boot_id").stdout
        guest = self.guest(host)
        host.crash()
        self.assertEqual([], network.processes(host.namespace))
        self.assertRaises(LabError, host.run, "true")
        host.boot()
        self.assertNotEqual(before, host.run("cat", "/proc/sys/kernel/random/boot_id").stdout)
        domain = self.connect(host).lookupByUUIDString(guest)
        self.assertFalse(domain.isActive())


class TestMoves(LabCase):
    """A guest moves between hosts, its disk copied."""

    @repeated
    def test_live_migration_with_its_disk(self):
        first, second = self.make().hosts
        guest = self.guest(first)
        self.assertTrue(until(lambda: self.ticks(first, guest) > 1))
        self.empty_disk(second, guest)
        self.move(guest, first, second, libvirt.VIR_MIGRATE_NON_SHARED_DISK)
        self.assertEqual({}, first.qemus())
        self.assertEqual([guest], list(second.qemus()))
        seen = self.ticks(second, guest)
        self.assertTrue(until(lambda: self.ticks(second, guest) > seen))


class TestSharedMoves(LabCase):
    """The instance directory is one on all hosts."""

    SHARED = True

    @repeated
    def test_live_migration_there_and_back(self):
        first, second = self.make().hosts
        guest = self.guest(first)
        self.assertTrue(until(lambda: self.ticks(first, guest) > 1))
        self.move(guest, first, second)
        seen = self.ticks(second, guest)
        self.assertTrue(until(lambda: self.ticks(second, guest) > seen))
        self.move(guest, second, first)
        self.assertEqual([guest], list(first.qemus()))
        self.assertEqual({}, second.qemus())

    def test_second_copy_does_not_start(self):
        first, second = self.make().hosts
        guest = self.guest(first)
        domain = self.connect(second).defineXML(GUEST.format(uuid=guest, disks=DISKS))
        refused = self.assertRaises(libvirt.libvirtError, domain.create)
        self.assertIn("lock", str(refused))
        self.connect(first).lookupByUUIDString(guest).destroy()
        domain.create()
        self.assertEqual([guest], list(second.qemus()))


class TestFaults(LabCase):
    """What tests of crashes need."""

    def test_killed_daemon_and_guest(self):
        host = self.make(hosts=1).host("host1")
        guest = self.guest(host)
        host.libvirtd.restart()
        self.assertTrue(self.connect(host).lookupByUUIDString(guest).isActive())
        host.qemu(guest).signal(signal.SIGKILL)
        domain = self.connect(host).lookupByUUIDString(guest)
        self.assertTrue(until(lambda: not domain.isActive()))
        self.assertIsNone(host.qemu(guest))

    def test_links_are_cut_and_mended_one_by_one(self):
        first, second = self.make().hosts

        def reaches(address):
            ask = f"import socket; socket.create_connection(('{address}', 16514), 2)"
            return not first.run(sys.executable, "-c", ask, check=False).returncode

        for silent in (False, True):
            first.cut("migration", silent)
            self.assertFalse(reaches(second.migration_address))
            self.assertTrue(reaches(second.address))
            first.restore("migration")
            self.assertTrue(until(lambda: reaches(second.migration_address)))

    def test_limited_link_takes_its_time(self):
        first, second = self.make().hosts
        limited, free = [self._transfer(first, second, mbit) for mbit in (4, None)]
        self.assertGreater(limited, 3)  # 2 MiB at half a MiB a second, but for what is buffered
        self.assertLess(free, limited / 2)

    def _transfer(self, first, second, mbit):
        """Seconds that 2 MiB take from one host to the other."""
        first.limit("migration", mbit)
        script = (
            "import socket,sys\n"
            "s=socket.create_server(('', 9000)); print('on', flush=True)\n"
            "c=s.accept()[0]\nwhile c.recv(65536): pass\nc.send(b'x')\n"
        )
        server = subprocess.Popen(
            [*second.enter(), sys.executable, "-c", script], stdout=subprocess.PIPE)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        server.stdout.readline()
        send = (
            "import socket,sys,time\n"
            f"c=socket.create_connection(('{second.migration_address}', 9000))\n"
            "began = time.monotonic()\n"
            "c.sendall(b'0' * (2 << 20)); c.shutdown(1); c.recv(1)\n"
            "print(time.monotonic() - began)\n"
        )
        seconds = float(first.run(sys.executable, "-c", send).stdout)
        server.wait(SECONDS)
        server.stdout.close()
        return seconds


@once(AGENTS)
class TestWhole(testtools.TestCase):
    """Broker, control plane and agents."""

    def setUp(self):
        super().setUp()
        reason = missing() or self.no_control()
        if reason:
            self.skipTest(reason)

    @staticmethod
    def no_control():
        """Why the control plane cannot run by itself; None when it can."""
        asked = [sys.executable, "-m", "control.cli.main", "control", "--help"]
        done = subprocess.run(asked, cwd=TOP, capture_output=True, check=False)
        return "magnetar has no command 'control'" if done.returncode else None

    def states(self, lab):
        """State of each host, as the control plane tells it."""
        return {host["host"]: host["state"] for host in lab.client().call("host.list")}

    def test_guest_on_each_host(self):
        lab = self.useFixture(LabFixture(hosts=2)).lab
        up = {"host1": "up", "host2": "up"}
        self.assertTrue(until(lambda: self.states(lab) == up), self.states(lab))
        build_image()
        client = lab.client()
        with open(IMAGE, "rb") as file:
            client.upload("image.create", file, IMAGE.stat().st_size, lambda sent: None,
                          name="tiny", disk_format="qcow2")
        client.call("flavor.create", name="tiny", ram=192, vcpus=1, disk=1)
        for name in ("a", "b"):
            client.call("server.create", name=name, image="tiny", flavor="tiny")
            self.assertTrue(until(lambda name=name: self.vm_state(client, name) == "active"))
        self.assertEqual([1, 1], [len(host.qemus()) for host in lab.hosts])

    def vm_state(self, client, name):
        """The server's state; its fault fails the test."""
        server = client.call("server.show", server=name)
        self.assertNotEqual("error", server["vm_state"], server)
        return server["vm_state"]

    def test_daemons_are_killed_and_come_back(self):
        lab = self.useFixture(LabFixture(hosts=1)).lab
        host = lab.host("host1")
        for service in (lab.broker, lab.control, host.agent):
            before = service.process()
            service.restart()
            self.assertNotEqual(before, service.process())
        # An answer that was lost with the broker is waited for before it is asked for again.
        self.assertTrue(until(lambda: self.states(lab) == {"host1": "up"}))
        said = host.run("magnetar", "doctor", check=False).stdout
        self.assertIn("the conductor answers", said)


class TestDown(LabCase):
    """Whatever was made goes, and nothing else."""

    def traces(self, lab):
        """What of the lab can be seen on this machine."""
        needle = lab.place.id, lab.place.name
        seen = [name for name in os.listdir(NETNS) if lab.place.id in name]
        seen += [str(path) for path in (lab.place.directory, lab.place.short) if path.exists()]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace")
                mounts = (process / "mountinfo").read_text()
            except OSError:
                continue
            if any(one in words or one in mounts for one in needle):
                seen.append(f"{process}: {words}")
        return seen

    def test_down_leaves_nothing(self):
        lab = self.make()
        self.guest(lab.host("host1"))
        namespaces = [NETNS / name for name in lab.place.namespaces()]
        numbers = {os.stat(path).st_ino for path in namespaces}
        self.assertEqual(3, len(numbers))
        neighbour = self.make(hosts=1)
        lab.down()
        self.assertEqual([], self.traces(lab))
        left = {os.stat(path).st_ino for path in self._readable("/proc/[0-9]*/ns/net")}
        self.assertEqual(set(), numbers & left)
        self.assertIsNotNone(neighbour.host("host1").libvirtd.process())
        self.assertEqual("host1\n", neighbour.host("host1").run("hostname").stdout)
        lab.down()

    def test_lab_whose_maker_noted_nothing_is_swept(self):
        lab = Lab(f"half-{os.getpid()}")
        with lab.place.lock():  # as while it is made
            lab.place.prepare()
            sweep()
            self.assertTrue(lab.place.directory.exists())
        sweep()
        self.assertTrue(until(lambda: not self.traces(lab)), self.traces(lab))

    def test_lab_of_a_killed_maker_is_swept(self):
        name = f"killed-{os.getpid()}"
        script = (
            "import os\nfrom tools.toolbox.lab import Lab\n"
            "from tools.toolbox.processes import Process\n"
            f"Lab('{name}').up(2, bare=True, owner=Process.of(os.getpid(), 'maker'))\n"
        )
        for wait in (0.25, 0.5, 1):
            maker = subprocess.Popen([sys.executable, "-c", script], cwd=TOP)
            time.sleep(wait)
            maker.kill()
            maker.wait()
            sweep()
            lab = Lab(name)
            self.addCleanup(lab.down)
            # What it had just begun in a child ends by itself.
            self.assertTrue(until(lambda lab=lab: not self.traces(lab)), self.traces(lab))

    @staticmethod
    def _readable(pattern):
        for path in Path("/").glob(pattern.lstrip("/")):
            if path.exists():
                yield path
