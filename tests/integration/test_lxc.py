"""The libvirt driver on containers: a real one, of busybox, from a raw image.

libvirt 9.0 cannot start containers where both versions of cgroups are mounted side by side
("Unable to create directory /sys/fs/cgroup/unified"), so these tests mount the first alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import fixtures
import libvirt
import testtools
from oslo_config import cfg

from compute import conf as magnetar_conf
from compute import errors
from compute.model import states
from compute.model.guest import Flavor, Guest
from tests.integration import libvirtd
from tests.integration.agent import RealAgent
from tests.integration.patience import SECONDS, until
from tests.integration.test_libvirt_driver import Events
from tests.modes import AGENTS, EVENTLET, NATIVE, once
from tests.unit.storage_support import Source, make_guest, nothing
from tools.toolbox.processes import Process
from virt.libvirt.driver import LibvirtDriver
from virt.storage.store import Store

DRIVER, BUSYBOX = "libvirt_driver_lxc.so", Path("/bin/busybox")
INIT = """#!/bin/sh
trap 'echo STOPPED; exit 0' TERM
i=0
while :; do i=$((i+1)); echo TICK $i on $(cat /proc/1/comm); sleep 1; done
"""


def missing() -> str | None:
    """Why no container can run here; None when one can."""
    if why := libvirtd.missing():
        return why
    if not list(Path("/usr/lib").glob(f"*/libvirt/connection-driver/{DRIVER}")):
        return f"{DRIVER} is not installed (package libvirt-daemon-driver-lxc)"
    if not BUSYBOX.exists() or not shutil.which("mkfs.ext4", path=libvirtd.PATH):
        return "busybox-static or e2fsprogs is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "this kernel has no loop devices (CONFIG_BLK_DEV_LOOP)"
    told = Path("/proc/cgroups").read_text()
    busy = re.findall(r"^(?:cpu|memory|devices)\t0\t", told, re.MULTILINE)
    return "cgroups of the first version are not mounted here" if busy else None


class Libvirtd(libvirtd.PrivateLibvirtd):
    """One whose guests are containers."""

    HOLD = ("cgroups",)

    def _setUp(self):
        super()._setUp()
        self.lxc = self.uri.replace("qemu+unix", "lxc+unix")
        self.addCleanup(self._end_containers)

    def _end_containers(self):
        """They have mount namespaces of their own, and so outlive the holder's."""
        for path in (self.base / "run/lxc").glob("*.pid"):
            found = Process.of(int(path.read_text()), path.stem)
            if found is not None:
                found.signal(signal.SIGKILL)
                found.wait(SECONDS)


def image(base: str) -> str:
    """A raw image that holds one file system with a busybox in it."""
    root = os.path.join(base, "root")
    for name in ("bin", "sbin", "proc", "sys", "dev", "etc", "tmp", "var", "run"):
        os.makedirs(os.path.join(root, name))
    shutil.copy(BUSYBOX, os.path.join(root, "bin/busybox"))
    for name in ("sh", "echo", "cat", "sleep"):
        os.symlink("busybox", os.path.join(root, "bin", name))
    with open(os.path.join(root, "sbin/init"), "w") as file:
        file.write(INIT)
    os.chmod(os.path.join(root, "sbin/init"), 0o755)
    path = os.path.join(base, "image.raw")
    with open(path, "wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", root, path], check=True, timeout=SECONDS,
                   env={"PATH": libvirtd.PATH})  # fmt: skip
    return path


@once(NATIVE, EVENTLET)
class TestContainers(testtools.TestCase):
    def setUp(self):
        super().setUp()
        if why := missing():
            self.skipTest(why)
        self.daemon = self.useFixture(Libvirtd())
        self.base = self.useFixture(fixtures.TempDir()).path
        os.chmod(self.base, 0o755)
        self.conf = cfg.ConfigOpts()
        magnetar_conf.register(self.conf)
        self.conf([], default_config_files=[])
        self.conf.set_override("state_path", self.base)
        self.conf.set_override("images_type", "raw", group="disk")
        self.conf.set_override("instances_path", self.base + "/i", group="disk")  # short enough
        for name, value in (("virt_type", "lxc"), ("connection_uri", self.daemon.lxc)):
            self.conf.set_override(name, value, group="libvirt")
        self.store = Store(self.conf)
        self.driver = LibvirtDriver(self.conf, self.store)
        self.driver.start(Events())
        self.addCleanup(self.driver.stop)

    def made(self) -> Guest:
        """A container with its disk, defined."""
        source = Source()
        described = source.add(image(self.base), disk_format="raw")
        subject = make_guest(described, flavor=Flavor("small", 1, 64, root_gb=1))
        base = self.store.fetch_image(described, source, nothing, nothing)
        disks = self.store.create_disks(subject, base, {})
        self.driver.check_guest(subject)
        self.assertEqual({}, self.driver.define(subject, disks, (), generation=1,
                                                operation="op-1"))  # fmt: skip
        self.addCleanup(self.driver.power_off, subject.uuid)
        return subject

    def power(self, subject) -> str:
        one, all_of_them = self.driver.state(subject.uuid), self.driver.states()
        self.assertEqual(one, all_of_them[subject.uuid])
        return states.POWER_NAMES[one.power_state]

    def read(self, console, wanted: bytes) -> int:
        text = b""
        while not (found := re.search(wanted, text)):
            data = console.recv(4096)
            self.assertTrue(data, f"the console was closed after {text!r}")
            text += data
        return int(found[1])

    def test_a_container_lives_and_dies(self):
        facts = self.driver.host_facts()
        self.assertEqual(("LXC", "lxc"), (facts.hypervisor_type, facts.virt_type))
        self.assertEqual([("x86_64", "lxc", "exe")], list(facts.supported))
        subject = self.made()
        self.assertEqual("shut down", self.power(subject))
        for _ in range(2):
            self.driver.power_on(subject.uuid)
        self.assertEqual("running", self.power(subject))
        with self.driver.open_console(subject.uuid) as console:
            console.settimeout(SECONDS)
            first = self.read(console, rb"TICK (\d+) on init\r\n")
            self.assertGreater(self.read(console, rb"TICK (\d+) on init\r\n"), first)
        self.driver.pause(subject.uuid)
        self.assertEqual("paused", self.power(subject))
        self.driver.resume(subject.uuid)
        self.daemon.restart()
        self.assertTrue(until(lambda: self.driver.connected()))
        self.assertEqual("running", self.power(subject))
        error = self.assertRaises(errors.MagnetarError, self.driver.save, subject.uuid, SECONDS)
        self.assertIn(error.code, ("unsupported", "host_unfit"))
        self.driver.shutdown(subject.uuid)
        self.assertTrue(until(lambda: self.power(subject) == "shut down"))
        self.driver.shutdown(subject.uuid)
        self.assertEqual(b"", self.driver.console_log(subject.uuid, 100))
        self.driver.power_on(subject.uuid)
        for _ in range(2):
            self.driver.power_off(subject.uuid)
        self.assertEqual("shut down", self.power(subject))
        for _ in range(2):
            self.driver.undefine(subject.uuid)
        self.assertIsNone(self.driver.state(subject.uuid))
        self.store.delete_disks(subject.uuid)
        self.assertEqual((), self.driver.disks(subject.uuid))
        left = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
                              capture_output=True, text=True, check=True, timeout=SECONDS).stdout
        self.assertNotIn(self.base, left)
        connection = libvirt.open(self.daemon.lxc)
        self.addCleanup(connection.close)
        self.assertEqual([], connection.listAllDomains())


@once(AGENTS, EVENTLET)
class TestAgent(testtools.TestCase):
    """A whole agent whose guests are containers."""

    def setUp(self):
        super().setUp()
        if why := missing():
            self.skipTest(why)
        self.daemon = self.useFixture(Libvirtd())
        self.agent = self.useFixture(RealAgent(self.daemon.lxc))
        config = self.agent.home / "magnetar.conf"
        text = config.read_text().replace("virt_type = qemu", "virt_type = lxc")
        config.write_text(
            f"{text}[disk]\nimages_type = raw\ninstances_path = {self.agent.home}/i\n")
        self.addOnException(lambda _: self.addDetail("agent", testtools.content.text_content(
            self.agent.log())))

    def settled(self, state: str) -> None:
        def there() -> bool:
            shown = self.agent.call("server.show", server="box")
            return ((shown["vm_state"], shown["task_state"]) == (state, None)
                    and not self.agent.call("op.list"))
        self.agent.until(there, f"box {state}")

    def test_a_tenants_container(self):
        self.agent.start()
        path = image(str(self.agent.home))
        with open(path, "rb") as file:
            self.agent.client.upload("image.create", file, os.stat(path).st_size,
                                     lambda sent: None, name="box", disk_format="raw")
        self.agent.call("flavor.create", name="box", ram=64, vcpus=1, disk=1)
        self.agent.call("network.create", name="lab", subnet="192.168.76.0/24", nat=True)
        self.agent.call("server.create", name="box", image="box", flavor="box",
                        networks=["lab"])  # fmt: skip
        self.settled("active")
        with self.agent.client.console(self.agent.call("server.show", server="box")["id"]) as end:
            end.settimeout(SECONDS)
            self.assertIn(b"TICK", end.recv(4096))
        for verb, state in (("pause", "paused"), ("unpause", "active"), ("stop", "stopped"),
                            ("start", "active")):
            self.agent.call(f"server.{verb}", server="box")
            self.settled(state)
        self.agent.kill()
        self.agent.start()
        self.agent.call("server.reboot", server="box", hard=True)
        self.settled("active")
        self.assertEqual([], self.agent.call("audit")["findings"])
        self.agent.call("server.delete", server="box")
        self.agent.until(lambda: not self.agent.call("server.list")
                         and not self.agent.call("op.list"), "deleted")
        self.assertTrue(self.agent.call("audit")["clean"])
