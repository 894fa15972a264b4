"""Options of the hypervisor's side, each by what another value changes."""

from __future__ import annotations

import os
import subprocess
import types

import fixtures
import testtools

from compute.model.guest import HostFacts
from tests.golden.cases import GUEST, ROOT
from tests.golden.test_domains import CAPABILITIES, build, options
from tests.unit.storage_support import StorageTest, make_conf, make_guest
from virt.libvirt import connection, stored
from virt.libvirt import host as this_host
from virt.libvirt.driver import LibvirtDriver
from virt.storage.store import Store

LIMITS = '#!/bin/sh\ncat /proc/self/limits > "$0.limits"\necho "{}"\n'


class DomainTest(testtools.TestCase):
    def test_rng_dev_path(self):
        for path in ("/dev/urandom", "/dev/hwrng"):
            made = build((GUEST, [ROOT], [], {"rng_dev_path": path}, "qemu", "none"))
            self.assertEqual([path], [rng.source for rng in made.devices.rngs])

    def test_disk_cachemodes(self):
        self.useFixture(fixtures.MonkeyPatch("virt.libvirt.host.supports_direct_io",
                                             lambda path: True))
        for modes, wanted in (([], "none"), (["block=writeback"], "none"),
                              (["block=none", "file=directsync"], "directsync")):
            conf = options({"disk_cachemodes": modes})
            self.assertEqual(wanted, stored.Stored(conf, None)._cache_mode())


class HostTest(testtools.TestCase):
    def driver(self, **values) -> LibvirtDriver:
        conf = options({"virt_type": "qemu"})
        conf.set_override("state_path", self.useFixture(fixtures.TempDir()).path)
        for name, value in values.items():
            group = "libvirt" if name in conf.libvirt else None
            conf.set_override(name, value, group=group)
        store = types.SimpleNamespace(storage_id=lambda: "the-id")
        driver = LibvirtDriver(conf, store)
        self.addCleanup(driver.calls.close)
        return driver

    def test_my_ip(self):
        """Set, it is what the control plane shows; else the address towards other machines."""
        answers = {"read_capabilities": CAPABILITIES, "read_host_info": ["x86_64", 1, 1],
                   "read_host_memory": {"total": 4096, "free": 1024}, "read_host_name": "h",
                   "read_hypervisor_type": "QEMU", "read_hypervisor_version": 1}
        for given, wanted in (("", this_host.local_address()), ("192.0.2.7", "192.0.2.7")):
            driver = self.driver(my_ip=given)
            driver.host = this_host.Host(types.SimpleNamespace(
                epoch=1, ask=lambda name, *args: answers[name]))
            facts = driver.host_facts()
            self.assertEqual((wanted, "the-id"), (facts.host_ip, facts.storage))

    def test_file_backed_memory(self):
        """It is what the host then offers instead of its RAM."""
        told = HostFacts("h", "QEMU", 1, 2, 4096, 10, 10)
        for size, wanted in ((0, 4096), (65536, 65536)):
            driver = self.driver(file_backed_memory=size)
            driver.host = types.SimpleNamespace(
                facts=lambda *args: told, known_abilities=lambda kind: None)
            self.assertEqual(wanted, driver.host_facts().memory_mb)

    def test_keepalive_count(self):
        kept = []

        class Handle:
            def setKeepAlive(self, *values):  # noqa: N802 - libvirt's name
                kept.append(values)

            def __getattr__(self, name):
                return lambda *args: 1

        self.useFixture(fixtures.MonkeyPatch("libvirt.open", lambda uri: Handle()))
        driver = self.driver(keepalive_interval=4, keepalive_count=9)
        driver.connection.start(lambda uuid, what: None)
        self.addCleanup(driver.connection.stop)
        self.assertEqual([(4, 9)], kept)
        self.assertEqual(1, driver.connection.epoch)
        self.assertIsInstance(driver.connection, connection.Connection)


class DiskTest(StorageTest):
    def with_options(self, group: str | None, **values) -> Store:
        conf = make_conf(instances_path=os.path.join(self.dir, "instances"))
        for name, value in values.items():
            conf.set_override(name, value, group=group)
        return Store(conf)

    def test_images_cpu_time_limit_and_images_address_space_limit(self):
        tool = self.file("qemu-img", LIMITS.encode())
        os.chmod(tool, 0o755)
        path = f"{self.dir}:{os.environ['PATH']}"
        self.useFixture(fixtures.EnvironmentVariable("PATH", path))
        for seconds, gib in ((7, 3), (11, 2)):
            store = self.with_options("disk", images_cpu_time_limit=seconds,
                                      images_address_space_limit=gib)
            store._qemu_img.info(self.raw(), "raw")
            with open(tool + ".limits", encoding="ascii") as file:
                rows = {line[:26].strip(): line[26:].split()[0] for line in file}
            self.assertEqual((str(seconds), str(gib << 30)),
                             (rows["Max cpu time"], rows["Max address space"]))

    def drive(self, **values) -> str | None:
        """The config drive that a guest which asked for none gets."""
        guest = make_guest()
        made = self.with_options(None, **values).create_disks(guest, None, {})
        return next((disk.path for disk in made if disk.role == "config"), None)

    def test_force_config_drive(self):
        self.assertIsNone(self.drive(force_config_drive=False))
        self.assertIsNotNone(self.drive(force_config_drive=True))

    def test_dhcp_domain(self):
        for domain, wanted in (("", '"web-1"'), ("example.org", '"web-1.example.org"')):
            path = self.drive(force_config_drive=True, dhcp_domain=domain)
            told = subprocess.run(
                ["isoinfo", "-i", path, "-J", "-x", "/openstack/latest/meta_data.json"],
                check=True, capture_output=True, timeout=60, text=True).stdout
            self.assertIn(f'"hostname": {wanted}', told)
