"""Disks are pulled through a real libvirtd: whole, sparse, cut off and resumed, no trace left.

The daemon is the source's; this process is the destination's agent. Row 60 of what goes wrong.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import libvirt

from compute.errors import Failed, Retryable
from compute.model.guest import Flavor
from tests.integration.libvirtd import PATH, PrivateLibvirtd, missing
from tests.integration.move_hosts import MoveHost
from tests.integration.patience import SECONDS
from tests.modes import NATIVE, once
from tests.unit.storage_support import (
    StorageTest,
    make_conf,
    make_guest,
    nothing,
    qemu_img,
    qemu_io,
)
from virt.storage import store, volume_source

TOP = Path(__file__).resolve().parents[2]
MIB = 1 << 20
FLAVOR = Flavor("all", 1, 128, root_gb=1, ephemeral_gb=1, swap_mb=16)
DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
<disk type='file' device='disk'><source file='{path}'/><target dev='vda'/></disk>
</devices></domain>"""
# The destination's agent, in the destination's namespaces: it pulls until it has all.
PULLER = """
import sys
import time
from compute.errors import MagnetarError
from tests.unit.storage_support import make_conf, make_guest, nothing
from virt.storage import store, volume_source

uri, uuid, here, there = sys.argv[1:]
opened = volume_source.opener(keepalive=(1, 3), timeout=20)
other = store.Store(make_conf(instances_path=here),
                    lambda uri, uuid, name, path: opened(uri, uuid, name, there))
guest, told = make_guest(uuid=uuid), []

def progress(done, total):
    told.append(done)
    if done > 20 << 20 and "cut" not in told:
        told.append("cut")
        print("cut now", flush=True)
        sys.stdin.readline()

for turn in range(10):
    try:
        print(len(other.copy_disks(guest, uri, None, progress, nothing)), "disks", flush=True)
        break
    except MagnetarError as error:
        if turn:
            time.sleep(1)  # the hosts have to find each other again
        else:
            print(error.code, flush=True)
            sys.stdin.readline()
            told[:] = ["cut"]
print("from", told[2], flush=True)
"""


@once(NATIVE)
class PullTest(StorageTest):
    def setUp(self):
        if reason := missing():
            self.skipTest(reason)
        super().setUp()
        self.libvirtd = self.useFixture(PrivateLibvirtd())
        self.image = self.source.add(self.qcow2())
        self.base = self.fetch(self.image)
        self.there = os.path.join(self.dir, "there")
        self.other = self.open_other()
        self.guest = self.make()

    def make(self):
        guest = make_guest(self.image, flavor=FLAVOR, config_drive=True)
        self.disks = self.store.create_disks(guest, self.base, {})
        qemu_io(self.disks[0].path, "write -P 9 5M 60M")
        with open(self.disks[1].path, "r+b") as ephemeral:
            # As a guest would that hopes to be taken for an overlay on a file of the host.
            ephemeral.write(b"QFI\xfb\0\0\0\3" + b"\0" * 6 + b"\x02\0\0\0\0\x0b/etc/passwd")
            ephemeral.seek(300 * MIB)
            ephemeral.write(os.urandom(3 * MIB))
        self.store.set_aside_disks(guest.uuid)
        return guest

    def open_other(self, **options):
        """The destination's store. Both hosts' instances_path would be the same; here it is not."""
        opened = volume_source.opener(**options)
        return store.Store(
            make_conf(instances_path=self.there),
            lambda uri, uuid, name, instances_path: opened(uri, uuid, name, self.path),
        )

    def pull(self, guest=None, progress=nothing, cancel=nothing, uri=None):
        return self.other.copy_disks(
            guest or self.guest, uri or self.libvirtd.uri, None, progress, cancel)

    def pools(self):
        with contextlib.closing(libvirt.open(self.libvirtd.uri)) as connection:
            return [pool.name() for pool in connection.listAllStoragePools()]

    def assertCopied(self, disks, guest=None):
        aside = os.path.join(self.path, (guest or self.guest).uuid + "_resize")
        self.assertEqual(4, len(disks))
        qemu_img("check", "-q", "-f", "qcow2", disks[0].path)
        qemu_io(disks[0].path, "read -P 9 5M 60M")
        qemu_io(disks[0].path, "read -P 7 1M 64k")
        for disk in disks[1:]:
            there = os.path.join(aside, os.path.basename(disk.path))
            qemu_img("compare", "-q", "-f", "raw", "-F", "raw", disk.path, there)
            self.assertTrue(os.stat(disk.path).st_blocks <= os.stat(there).st_blocks + 64)

    def test_whole_and_sparse(self):
        seen = []
        disks = self.pull(progress=lambda *now: seen.append(now))
        self.assertCopied(disks)
        self.assertEqual(disks, self.other.disks(self.guest.uuid))
        self.assertEqual(seen[-1][0], seen[-1][1])
        self.assertEqual([], self.pools())
        self.assertEqual(disks, self.pull())

    def test_daemon_is_killed_and_the_copy_goes_on(self):
        def kill(done, total):
            if done > 20 * MIB:
                self.libvirtd.kill()

        self.assertFails(Retryable, "source_unreachable", self.pull, None, kill)
        self.assertFails(Retryable, "source_unreachable", self.pull)
        self.assertEqual((), self.other.disks(self.guest.uuid))
        self.libvirtd.start()
        seen = []
        self.assertCopied(self.pull(progress=lambda *now: seen.append(now[0])))
        self.assertTrue(seen[1] > 20 * MIB, seen[:3])
        self.assertEqual([], self.pools())

    def test_daemon_stops_answering(self):
        self.other = self.open_other(keepalive=(1, 2), timeout=15)
        daemon = self.libvirtd.daemons["libvirtd"]
        self.addCleanup(daemon.signal, signal.SIGCONT)
        began = []

        def freeze(done, total):
            if done > 20 * MIB and not began:
                daemon.signal(signal.SIGSTOP)
                began.append(time.monotonic())

        self.assertFails(Retryable, "source_unreachable", self.pull, None, freeze)
        self.assertTrue(time.monotonic() - began[0] < SECONDS / 2)
        daemon.signal(signal.SIGCONT)
        self.assertCopied(self.pull())

    def test_cancel(self):
        def cancel():
            if os.path.exists(os.path.join(self.there, self.guest.uuid, "disk.part")):
                raise Failed("Stopped.")

        self.assertRaises(Failed, self.pull, None, nothing, cancel)
        self.assertEqual([], self.pools())

    def test_nobody_there(self):
        self.assertFails(Retryable, "source_unreachable", self.pull, None, nothing, nothing,
                         "qemu+unix:///system?socket=/nowhere/libvirt-sock")

    def test_nothing_aside(self):
        self.store.bring_back_disks(self.guest.uuid)
        self.assertFails(Failed, "disk_missing", self.pull)
        self.assertEqual([], self.pools())

    def test_pools_of_others_and_of_the_dead(self):
        aside = os.path.join(self.path, self.guest.uuid + "_resize")
        for name, left in (("somebody's", ["somebody's"]), ("magnetar-left-over", [])):
            with contextlib.closing(libvirt.open(self.libvirtd.uri)) as connection:
                pool = connection.storagePoolCreateXML(
                    f"<pool type='dir'><name>{name.replace(chr(39), '&#39;')}</name>"
                    f"<target><path>{aside}</path></target></pool>", 0)
                self.assertCopied(self.pull())
                self.assertEqual(left, self.pools())
                if left:
                    volume_source.drop_pool(connection, aside)
                    self.assertEqual(left, self.pools())
                    pool.destroy()
                volume_source.drop_pool(connection, aside)
            self.other.delete_disks(self.guest.uuid)

    def test_several_at_once(self):
        """All make and remove the pool of the image cache, too."""
        guests = [self.guest, self.make(), self.make(), self.make()]
        found = {}
        threads = [threading.Thread(target=lambda g=guest: found.update({g.uuid: self.pull(g)}))
                   for guest in guests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for guest in guests:
            self.assertCopied(found[guest.uuid], guest)
        self.assertEqual([], self.pools())

    def test_the_definition_tells_where_the_disks_are(self):
        with contextlib.closing(libvirt.open(self.libvirtd.uri)) as connection:
            connection.defineXML(DOMAIN.format(
                name=self.guest.name, uuid=self.guest.uuid, path=self.disks[0].path))
        self.other = store.Store(make_conf(instances_path=self.there), volume_source.opener())
        self.assertCopied(self.pull())

    def test_grown_and_moved_on(self):
        disks = self.pull()
        self.other.delete_disks(self.guest.uuid)
        self.assertCopied(self.pull())
        grown = self.other.grow_disks(
            replace(self.guest, flavor=replace(FLAVOR, root_gb=2)))
        self.assertEqual(2 << 30, grown[0].size)
        self.store.delete_aside_disks(self.guest.uuid)
        self.assertEqual([disk.path for disk in disks], [disk.path for disk in grown])
        qemu_io(grown[0].path, "read -P 9 5M 60M")

    def test_over_tls_with_a_cut_link(self):
        source = self.useFixture(MoveHost(1))
        destination = self.useFixture(MoveHost(2, source))
        puller = subprocess.Popen(
            ["nsenter", "--target", str(destination.holder), "--mount", "--net", sys.executable,
             "-c", PULLER, f"qemu+tls://{source.address}/system", self.guest.uuid, self.there,
             self.path],
            env={"PATH": PATH, "PYTHONPATH": str(TOP)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(puller.communicate)
        self.addCleanup(puller.kill)
        self.assertEqual("cut now\n", puller.stdout.readline())
        source.cut()
        puller.stdin.write("go on\n")
        puller.stdin.flush()
        self.assertEqual("source_unreachable\n", puller.stdout.readline())
        source.mend()
        puller.stdin.write("again\n")
        puller.stdin.flush()
        self.assertEqual("4 disks\n", puller.stdout.readline())
        self.assertTrue(int(puller.stdout.readline().split()[1]) > 20 * MIB)
        self.assertCopied(self.other.disks(self.guest.uuid))


@once(NATIVE)
class LiveTest(StorageTest):
    """libvirt fills what was prepared; the disks of a guest that runs go from host to host."""

    def test_overlay_raw_disks_and_config_drive(self):
        if reason := missing():
            self.skipTest(reason)
        source = self.useFixture(MoveHost(1))
        destination = self.useFixture(MoveHost(2, source))
        image = self.source.add(self.qcow2())
        guest = make_guest(image, flavor=FLAVOR, config_drive=True)
        disks = self.store.create_disks(guest, self.fetch(image), {})
        qemu_io(disks[0].path, "write -P 9 5M 20M")
        qemu_io(disks[1].path, "write -P 5 200M 10M", "raw")
        targets = {disk.path: target
                   for disk, target in zip(disks, ("vda", "vdb", "vdc", "hda"), strict=True)}
        there = store.Store(make_conf(instances_path=os.path.join(self.dir, "there")))
        base = there.fetch_image(image, self.source, nothing, nothing)
        outgoing = self.store.outgoing(guest.uuid, targets)
        made = there.prepare_incoming(guest, outgoing, base)
        with contextlib.closing(libvirt.open(source.uri)) as connection:
            definition = _definition(guest, disks, targets)
            domain = connection.defineXML(definition)
            domain.create()
            definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
            for path, target in targets.items():
                definition = definition.replace(path, made["paths"][target])
            domain.migrateToURI3(
                f"qemu+tls://{destination.address}/system",
                {libvirt.VIR_MIGRATE_PARAM_DEST_XML: definition,
                 libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS: made["copy_disks"]},
                libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
                | libvirt.VIR_MIGRATE_NON_SHARED_INC | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE,
            )  # fmt: skip
        arrived = there.arrived(guest)
        with contextlib.closing(libvirt.open(destination.uri)) as connection:
            domain = connection.lookupByUUIDString(guest.uuid)
            self.assertEqual(libvirt.VIR_DOMAIN_RUNNING, domain.state()[0])
            domain.destroy()
        for command in ("read -P 9 5M 20M", "read -P 7 1M 64k"):  # its own, and its base's
            qemu_io(arrived[0].path, command)
        self.assertTrue(os.stat(arrived[0].path).st_blocks * 512 < 24 * MIB)
        for here, former in zip(arrived[1:], disks[1:], strict=True):
            qemu_img("compare", "-q", "-f", "raw", "-F", "raw", here.path, former.path)
            self.assertTrue(os.stat(here.path).st_blocks * 512 < 16 * MIB, here.role)


def _definition(guest, disks, targets):
    """A domain of 64 MiB with these disks and nothing else."""
    devices = "".join(
        f"<disk type='file' device='{disk.device}'><driver name='qemu' type='{disk.format}'/>"
        f"<source file='{disk.path}'/><target dev='{targets[disk.path]}'/>"
        f"{'<readonly/>' if disk.device == 'cdrom' else ''}</disk>" for disk in disks)
    return (f"<domain type='qemu'><name>{guest.name}</name><uuid>{guest.uuid}</uuid>"
            "<memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>"
            f"<devices>{devices}</devices></domain>")
