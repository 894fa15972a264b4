"""Two hosts with a libvirt driver each, and guests that count or write, for tests of moves."""

import re
import shutil
import uuid
from pathlib import Path

import fixtures
import libvirt
from oslo_config import cfg

from compute import conf as magnetar_conf
from compute import errors
from compute.model import move, states
from compute.model.guest import Flavor, Guest, Image
from compute.model.move import MovePlan
from tests.integration.lab import IMAGE, build_image
from tests.integration.libvirtd import missing
from tests.integration.move_hosts import MoveHost
from tests.integration.patience import until
from tests.integration.repeats import Repeating
from tests.integration.validated import Validated
from virt.libvirt.driver import LibvirtDriver
from virt.libvirt.tls import Certificates
from virt.storage.store import Store

TICK = re.compile(rb"TICK (\d+)")
COUNTS = Image("0c1d2e3f-0000-4000-8000-00000000000a", disk_format="qcow2")
WRITES = Image("0c1d2e3f-0000-4000-8000-00000000000b", disk_format="raw")


def writing_disk():
    """A boot sector that writes all memory from 1 to 48 MiB, page after page, for ever."""
    code = bytes.fromhex(
        "fa 31c0 8ed8"  # cli; xor ax, ax; mov ds, ax
        "0f0116 547c"  # lgdt [0x7c54]
        "0f20c0 0c01 0f22c0"  # mov eax, cr0; or al, 1; mov cr0, eax
        "ea 187c 0800"  # jmp 8:0x7c18, to 32 bits
        "909090"
        "66b81000 8ed8"  # mov ax, 16; mov ds, ax
        "bf 00001000"  # outer: mov edi, 1 MiB
        "891f"  # inner: mov [edi], ebx
        "81c7 00100000"  # add edi, 4096
        "81ff 00000003"  # cmp edi, 48 MiB
        "72f0 43 ebe8"  # jb inner; inc ebx; jmp outer
    )
    table = bytes.fromhex("0000000000000000 ffff0000009acf00 ffff00000092cf00 1700 3c7c0000")
    sector = code.ljust(0x3C, b"\0") + table
    return (sector.ljust(510, b"\0") + b"\x55\xaa").ljust(16 << 20, b"\0")


def nothing(*args):
    """No progress is wanted, and nobody cancels."""


class Images:
    """Where the guests' images come from."""

    def show(self, image_id):
        return {image.id: image for image in (COUNTS, WRITES)}[image_id]

    def download(self, image_id, path, progress, cancel):
        if image_id == COUNTS.id:
            shutil.copyfile(IMAGE, path)
        else:
            Path(path).write_bytes(writing_disk())


class Side:
    """One host with its driver."""

    def __init__(self, case, host, instances):
        self.host, self.case = host, case
        self.state = case.useFixture(fixtures.TempDir()).path
        self.conf = cfg.ConfigOpts()
        magnetar_conf.register(self.conf)
        self.conf([], default_config_files=[])
        self.conf.set_override("state_path", self.state)
        self.conf.set_override("instances_path", str(instances), group="disk")
        self.instances = Path(instances)
        for name, value in (
            ("connection_uri", host.uri), ("virt_type", "qemu"),
            ("live_migration_scheme", "tls"), ("live_migration_with_native_tls", True),
            ("live_migration_inbound_addr", host.address),
            ("cpu_model_extra_flags", ["-pge"]),  # see tools/toolbox/lab/kills.py
        ):  # fmt: skip
            self.option(name, value)
        self.driver = self.new_driver()

    def option(self, name, value):
        self.conf.set_override(name, value, group="libvirt")

    def new_driver(self):
        """A driver as a process that starts now has it: it remembers nothing."""
        driver = LibvirtDriver(self.conf, Store(self.conf))
        driver.certificates = Certificates(str(self.host.base / "pki"),
                                           str(self.host.base / "etc/qemu.conf"))  # fmt: skip
        driver.start(nothing)
        self.case.addCleanup(driver.stop)
        return driver

    def console(self, guest):
        """All that the guest said here, the copied tail from elsewhere included."""
        return self.driver.console_log(guest.uuid, 1 << 20)


class MoveCase(Repeating):
    """Two hosts for each class, a driver for each of them and for each test."""

    shared = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.hosts = None
        if missing() is None:
            build_image()
            one = MoveHost(1)
            one.setUp()
            other = MoveHost(2, one)
            other.setUp()
            cls.hosts = (one, other)

    @classmethod
    def tearDownClass(cls):
        for host in reversed(cls.hosts or ()):
            host.cleanUp()
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        if self.hosts is None:
            self.skipTest(missing())
        self.log = self.useFixture(fixtures.FakeLogger())
        self.useFixture(Validated())
        self.guests = []
        self.begin()

    def begin(self):
        """Two sides that have no guests."""
        self.base = Path(self.useFixture(fixtures.TempDir(self.hosts[0].base)).path)
        names = ("both", "both") if self.shared else ("a", "b")
        self.a, self.b = (
            Side(self, host, self.base / name / "instances")
            for host, name in zip(self.hosts, names, strict=True)
        )

    def begin_again(self):
        while self.guests:
            self.remove(self.guests.pop())
        self.begin()

    def consoles(self):
        return list(self.base.rglob("console.log"))

    def guest(self, side, **changes):
        """A guest that runs on a host, and counts on its console."""
        number = str(uuid.uuid4())
        values = {
            "uuid": number, "name": "guest-" + number[:8], "display_name": "a guest",
            "hostname": "a-guest", "flavor": Flavor("small", 1, 128), "image": COUNTS,
            "config_drive": True,
        }  # fmt: skip
        guest = Guest(**{**values, **changes})
        driver = side.driver
        base = driver.fetch_image(guest.image, Images(), nothing, nothing)
        disks = driver.create_disks(guest, base, {})
        driver.define(guest, disks, guest.nics, generation=1, operation="op-1")
        self.guests.append(number)
        self.addCleanup(self.remove, number)
        driver.power_on(number)
        if guest.image.id == COUNTS.id:
            self.assertTrue(until(lambda: TICK.search(side.console(guest))), "no boot")
        return guest

    def writing_guest(self, side):
        """A small guest that writes memory faster than any bandwidth that a test allows."""
        return self.guest(side, flavor=Flavor("tiny", 1, 64), image=WRITES)

    def remove(self, number):
        for host in self.hosts:
            if not host.daemons["libvirtd"].alive():
                host.start()
            host.mend()
            connection = libvirt.open(host.uri)
            try:
                domain = connection.lookupByUUIDString(number)
                if domain.isActive():
                    domain.destroy()
                if domain.isPersistent():
                    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                                         | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
            except libvirt.libvirtError as error:
                self.assertEqual(libvirt.VIR_ERR_NO_DOMAIN, error.get_error_code())
            finally:
                connection.close()

    def plan(self, guest, source, target, to=None, **changes):
        """Prepare the destination, for the guest ``to`` there; the plan that follows."""
        outgoing = source.driver.outgoing(guest.uuid)
        base = None
        if not self.shared:
            base = target.driver.fetch_image(guest.image, Images(), nothing, nothing)
        told = target.driver.prepare_incoming(to or guest, outgoing, base)
        values = {
            "uri": told["uri"], "migrate_uri": told["migrate_uri"], "listen": told["listen"],
            "copy_disks": tuple(told["copy_disks"]), "incremental": told["incremental"],
            "tls": True, "generation": 2, "operation": "op-2", "rewrite": told["rewrite"],
        }  # fmt: skip
        return MovePlan.from_plain(MovePlan(**{**values, **changes}).to_plain())

    def phase(self, side, guest):
        sample = side.driver.job(guest.uuid)
        return sample.phase if sample else None

    def reaches(self, side, guest, *phases):
        """Wait for one of some phases; the sample that shows it."""
        seen = until(lambda: self._in(side, guest, phases), every=0.02)
        self.assertIsNotNone(seen, f"no {phases}: {side.driver.job(guest.uuid)}")
        return seen

    def _in(self, side, guest, phases):
        try:
            sample = side.driver.job(guest.uuid)
        except errors.Unknown:
            return None
        return sample if sample is not None and sample.phase in phases else None

    def ends(self, side, guest, phase=move.COMPLETED):
        """Wait for the end, which has to be ``phase``; its sample."""
        sample = self.reaches(side, guest, *move.ENDED)
        self.assertEqual((phase, sample.error and ""), (sample.phase, ""), sample.error)
        return sample

    def ticks(self, side, guest):
        return [int(number) for number in TICK.findall(side.console(guest))]

    def counts_on(self, side, guest, from_):
        """The guest goes on counting here, from where it was."""
        self.assertTrue(until(lambda: max(self.ticks(side, guest), default=0) > from_))
        ticks = self.ticks(side, guest)
        self.assertEqual(sorted(ticks), ticks)

    def is_only_on(self, side, other, guest):
        self.assertTrue(until(lambda: other.driver.state(guest.uuid) is None))
        self.assertEqual(states.RUNNING, side.driver.state(guest.uuid).power_state)
