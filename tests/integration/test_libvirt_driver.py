"""The libvirt driver with a libvirtd and QEMU of its own. Guests are boot sectors."""

import os
import signal
import threading
import time
import uuid

import fixtures
import libvirt
import testtools
from oslo_config import cfg

from compute import conf as magnetar_conf
from compute import errors
from compute.model import states
from compute.model.guest import Address, Disk, Flavor, Guest, Image, Nic
from tests.integration.libvirtd import PrivateLibvirtd, missing
from tests.integration.patience import SECONDS, until
from tests.integration.validated import Validated
from tests.modes import EVENTLET, NATIVE, once
from virt.libvirt.driver import LibvirtDriver
from virt.storage.store import Store

FOREIGN = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<metadata><x:y xmlns:x='http://example.org/1'/></metadata></domain>"""
NETWORK = {
    "name": "mnet",
    "bridge": "mnet0",
    "cidr": "10.99.0.0/24",
    "gateway": "10.99.0.1",
    "dhcp_start": "10.99.0.2",
    "dhcp_end": "10.99.0.200",
}


def boot_sector(text: bytes) -> bytes:
    """A disk of 1 MiB whose boot sector writes ``text`` to the first serial port and halts."""
    code = b"\xba\xf8\x03"  # mov dx, 0x3f8
    for letter in text:
        code += b"\xb0" + bytes([letter]) + b"\xee"  # mov al, letter; out dx, al
    code += b"\xf4\xeb\xfd"  # hlt; jmp back
    return (code.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0")


class Events:
    """Collects a driver's events and lets a test wait for one."""

    def __init__(self):
        self.seen = []
        self._changed = threading.Condition()

    def __call__(self, uuid, what):
        with self._changed:
            self.seen.append((uuid, what))
            self._changed.notify_all()

    def wait(self, event, count=1, seconds=SECONDS):
        with self._changed:
            return self._changed.wait_for(lambda: self.seen.count(event) >= count, seconds)


@once(NATIVE, EVENTLET)
class LibvirtCase(testtools.TestCase):
    """One private libvirtd for each class, one driver for each test."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon = None
        if missing() is None:
            cls.daemon = PrivateLibvirtd()
            cls.daemon.setUp()
            # What it finds out about QEMU once for all takes seconds.
            connection = libvirt.open(cls.daemon.uri)
            connection.getDomainCapabilities(None, None, None, "qemu")
            connection.close()

    @classmethod
    def tearDownClass(cls):
        if cls.daemon is not None:
            cls.daemon.cleanUp()
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        if self.daemon is None:
            self.skipTest(missing())
        if not self.daemon.daemons["libvirtd"].alive():
            self.daemon.start()  # a test before this one failed while it was down
        self.log = self.useFixture(fixtures.FakeLogger())
        self.validated = self.useFixture(Validated())
        self.conf = cfg.ConfigOpts()
        magnetar_conf.register(self.conf)
        self.conf([])
        self.base = os.path.join(self.daemon.base, uuid.uuid4().hex[:8])
        os.makedirs(os.path.join(self.base, "instances"))
        self.conf.set_override("state_path", self.base)
        self.option("connection_uri", self.daemon.uri)
        self.option("virt_type", "qemu")
        self.events = Events()

    def option(self, name, value):
        self.conf.set_override(name, value, group="libvirt")

    def driver(self):
        driver = LibvirtDriver(self.conf, Store(self.conf))
        driver.start(self.events)
        self.addCleanup(driver.stop)
        self.warm(driver)
        return driver

    def warm(self, driver):
        """Wait until it has asked what it asks by itself, so that calls can be counted."""
        self.assertTrue(until(lambda: "read_domain_capabilities" in driver.calls.snapshot()))

    def guest(self, **changes):
        """A guest with its root disk on the host."""
        number = str(uuid.uuid4())
        directory = os.path.join(self.base, "instances", number)
        os.makedirs(directory)
        path = os.path.join(directory, "disk")
        with open(path, "wb") as disk:
            disk.write(boot_sector(b"UP\r\n"))
        values = {
            "uuid": number,
            "name": "guest-" + number[:8],
            "display_name": "a guest",
            "hostname": "a-guest",
            "flavor": Flavor("small", 1, 64),
            "image": Image("an-image"),
        }
        return Guest(**{**values, **changes}), Disk("root", path, "raw", 1 << 20)

    def define(self, driver, guest, disk, nics=(), generation=1):
        recorded = driver.define(guest, [disk], nics, generation=generation, operation="op-1")
        self.addCleanup(self.remove, guest.uuid)
        return recorded

    def remove(self, number):
        connection = libvirt.open(self.daemon.uri)
        try:
            domain = connection.lookupByUUIDString(number)
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefine()
        except libvirt.libvirtError as error:
            self.assertEqual(libvirt.VIR_ERR_NO_DOMAIN, error.get_error_code())
        finally:
            connection.close()


class TestGuests(LibvirtCase):
    def test_a_guest_lives_from_define_to_undefine(self):
        driver = self.driver()
        guest, disk = self.guest()
        self.assertIsNone(driver.state(guest.uuid))
        recorded = self.define(driver, guest, disk)
        self.assertRegex(recorded["hw_machine_type"], r"^pc-q35-\d")
        state = driver.state(guest.uuid)
        self.assertEqual((states.SHUTDOWN, True, True, 1, "op-1"), (
            state.power_state, state.persistent, state.ours, state.generation, state.operation))
        driver.power_on(guest.uuid)
        driver.power_on(guest.uuid)
        self.assertTrue(self.events.wait((guest.uuid, "started")))
        self.assertTrue(until(lambda: b"UP\r\n" in driver.console_log(guest.uuid, 100)))
        self.assertEqual(b"P\r\n", driver.console_log(guest.uuid, 3))
        self.assertEqual(states.RUNNING, driver.state(guest.uuid).power_state)
        driver.resume(guest.uuid)
        driver.shutdown(guest.uuid)  # a boot sector does not listen
        self.assertEqual(states.RUNNING, driver.state(guest.uuid).power_state)
        driver.power_off(guest.uuid)
        driver.power_off(guest.uuid)
        self.assertTrue(self.events.wait((guest.uuid, "stopped")))
        state = driver.state(guest.uuid)
        self.assertEqual((states.SHUTDOWN, "destroyed"), (state.power_state, state.reason))
        driver.shutdown(guest.uuid)
        driver.undefine(guest.uuid)
        driver.undefine(guest.uuid)
        driver.power_off(guest.uuid)
        self.assertIsNone(driver.state(guest.uuid))
        self.assertNotIn(guest.uuid, driver.states())

    def test_acting_on_a_guest_that_is_not_there_is_refused(self):
        driver = self.driver()
        number = str(uuid.uuid4())
        for act in (driver.power_on, driver.shutdown, driver.resume):
            error = self.assertRaises(errors.Refused, act, number)
            self.assertEqual("guest_not_found", error.code)
        self.assertEqual([], os.listdir(os.path.join(self.base, "instances")))

    def test_a_paused_guest_is_seen_and_resumed(self):
        driver = self.driver()
        guest, disk = self.guest()
        self.define(driver, guest, disk)
        driver.power_on(guest.uuid)
        driver.domains.find(guest.uuid).suspend()
        state = driver.state(guest.uuid)
        self.assertEqual((states.POWER_PAUSED, "user"), (state.power_state, state.reason))
        driver.power_on(guest.uuid)  # it is on
        driver.resume(guest.uuid)
        self.assertEqual(states.RUNNING, driver.state(guest.uuid).power_state)

    def test_consoles_with_ports_of_their_own(self):
        self.option("vnc_listen", "127.0.0.1")
        self.conf.set_override("enabled", True, group="spice")
        driver = self.driver()
        guest, disk = self.guest(serial_port=10321)  # in the namespace of this libvirtd
        self.define(driver, guest, disk)
        driver.power_on(guest.uuid)
        ports = [driver.console_port(guest.uuid, kind) for kind in ("vnc", "spice", "serial")]
        self.assertEqual((3, 10321), (len(set(ports)), ports[2]))
        self.assertTrue(all(ports))
        self.assertTrue(until(lambda: b"UP" in driver.console_log(guest.uuid, 1024)))
        use = driver.usage()[guest.uuid]
        self.assertEqual((guest.name, 65536, 1 << 20), (use.name, use.memory, use.disk_bytes))
        self.assertTrue(use.cpu_ns and use.resident)
        self.assertEqual(1, driver.calls.snapshot()["read_usage"].calls)

    def test_a_killed_qemu_is_seen_as_crashed(self):
        driver = self.driver()
        guest, disk = self.guest()
        self.define(driver, guest, disk)
        driver.power_on(guest.uuid)
        self.daemon.guest(guest.name).signal(signal.SIGKILL)
        self.assertTrue(self.events.wait((guest.uuid, "stopped")))
        state = driver.state(guest.uuid)
        self.assertEqual((states.SHUTDOWN, "crashed"), (state.power_state, state.reason))

    def test_all_states_cost_three_calls_however_many_guests(self):
        driver = self.driver()
        guests = [self.guest() for _ in range(5)]
        for guest, disk in guests:
            self.define(driver, guest, disk)
        numbers = {guest.uuid for guest, _ in guests}
        for number in numbers:
            self.assertTrue(self.events.wait((number, "defined")))
        until(lambda: numbers <= driver.states().keys())
        before = driver.calls.total()
        found = driver.states()
        self.assertEqual(3, driver.calls.total() - before)
        for number in numbers:
            self.assertEqual((True, 1), (found[number].ours, found[number].generation))

    def test_a_new_process_asks_about_few_domains_only(self):
        driver = self.driver()
        guests = [self.guest() for _ in range(15)]
        for guest, disk in guests:
            self.define(driver, guest, disk, generation=2)
        before = dict(until(lambda: len(driver.states()) >= 15 and driver.states()))
        driver.stop()
        again = LibvirtDriver(self.conf, None)
        again.start(self.events)
        self.addCleanup(again.stop)
        self.warm(again)
        calls = again.calls.total()
        self.assertEqual(before, dict(again.states()))
        self.assertEqual(13, again.calls.total() - calls)
        again.states()
        calls = again.calls.total()
        self.assertEqual(before, dict(again.states()))
        self.assertEqual(3, again.calls.total() - calls)

    def test_a_redefinition_is_seen_at_once_and_an_older_one_refused(self):
        driver = self.driver()
        guest, disk = self.guest()
        self.define(driver, guest, disk, generation=1)
        self.assertEqual(1, driver.states()[guest.uuid].generation)
        self.define(driver, guest, disk, generation=3)
        self.assertEqual(3, driver.states()[guest.uuid].generation)
        self.assertEqual(3, driver.state(guest.uuid).generation)
        error = self.assertRaises(
            errors.Refused, self.define, driver, guest, disk, generation=2
        )
        self.assertEqual("stale_generation", error.code)
        self.assertEqual(3, driver.state(guest.uuid).generation)

    def test_a_disk_that_is_missing_fails_the_start_and_says_so(self):
        driver = self.driver()
        guest, disk = self.guest()
        self.define(driver, guest, disk)
        os.unlink(disk.path)
        error = self.assertRaises(errors.Failed, driver.power_on, guest.uuid)
        self.assertIn(disk.path, error.what)
        self.assertEqual(states.SHUTDOWN, driver.state(guest.uuid).power_state)

    def test_every_disk_bus_and_old_nic_is_accepted_by_qemu(self):
        driver = self.driver()
        for machine, bus, cdrom, vif in (
            ("q35", "scsi", "sata", "e1000e"), ("q35", "sata", "scsi", "virtio"),
            ("pc", "ide", "ide", "rtl8139"), ("pc", "virtio", "sata", "e1000"),
        ):  # fmt: skip
            properties = {
                "hw_machine_type": machine, "hw_disk_bus": bus, "hw_cdrom_bus": cdrom,
                "hw_vif_model": vif, "hw_watchdog_action": "reset",
                "hw_pointer_model": "usbtablet", "hw_video_model": "vga",
            }  # fmt: skip
            guest, disk = self.guest(
                image=Image("i", properties=properties), flavor=Flavor("two", 2, 64)
            )
            config = Disk("config", disk.path + ".config", "raw", 1 << 20, "cdrom")
            with open(config.path, "wb") as file:
                file.truncate(config.size)
            self.addCleanup(self.remove, guest.uuid)
            driver.define(guest, [disk, config], [], generation=1, operation="op-1")
            driver.power_on(guest.uuid)
            self.assertTrue(until(lambda g=guest: b"UP" in driver.console_log(g.uuid, 10)), bus)
            driver.power_off(guest.uuid)

    def test_the_host_is_described_in_a_constant_number_of_calls(self):
        driver = self.driver()
        facts = driver.host_facts()
        self.assertEqual(os.cpu_count(), facts.vcpus)
        self.assertEqual(("QEMU", "qemu"), (facts.hypervisor_type, facts.virt_type))
        self.assertIn(("x86_64", "qemu", "hvm"), facts.supported)
        self.assertNotIn("kvm", {kind for _, kind, _ in facts.supported})
        self.assertTrue({"pc", "q35"} < set(facts.machine_types))
        self.assertEqual("x86_64", facts.cpu_info["arch"])
        self.assertGreater(facts.memory_mb, facts.memory_used_mb)
        before = driver.calls.total()
        driver.host_facts()
        self.assertEqual(5, driver.calls.total() - before)
        self.assertIn("load average", driver.host_uptime())


class TestForeignDomains(LibvirtCase):
    def setUp(self):
        super().setUp()
        self.number, self.name = str(uuid.uuid4()), "foreign-" + uuid.uuid4().hex[:6]
        self.connection = libvirt.open(self.daemon.uri)
        self.addCleanup(self.connection.close)
        xml = FOREIGN.format(name=self.name, uuid=self.number)
        self.domain = self.connection.defineXML(xml)
        self.addCleanup(self.remove, self.number)

    def test_it_is_seen_and_never_touched(self):
        driver = self.driver()
        self.domain.create()
        before = self.domain.XMLDesc()
        state = driver.states()[self.number]
        self.assertEqual((False, states.RUNNING), (state.ours, state.power_state))
        self.assertFalse(driver.state(self.number).ours)
        for act in (driver.power_on, driver.power_off, driver.shutdown, driver.resume,
                    driver.undefine):  # fmt: skip
            error = self.assertRaises(errors.Refused, act, self.number)
            self.assertEqual("not_ours", error.code)
        self.assertTrue(self.domain.isActive())
        self.assertEqual(before, self.domain.XMLDesc())

    def test_its_uuid_and_its_name_are_in_use(self):
        driver = self.driver()
        before = self.domain.XMLDesc()
        for changes in ({"uuid": self.number}, {"name": self.name}):
            guest, disk = self.guest(**changes)
            error = self.assertRaises(
                errors.Refused, driver.define, guest, [disk], [], generation=9, operation="op"
            )
            self.assertEqual("uuid_in_use", error.code)
            self.assertIn(self.name, error.what)
        self.assertEqual(before, self.domain.XMLDesc())
        self.assertEqual(1, len(self.connection.listAllDomains()))

    def test_a_domain_that_takes_our_metadata_becomes_ours_without_a_restart(self):
        driver = self.driver()
        self.assertFalse(driver.states()[self.number].ours)
        self.domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, '<instance generation="7" operation="x"/>',
            "magnetar", "https://magnetar.dev/xmlns/1",
        )  # fmt: skip
        self.assertTrue(until(lambda: driver.states()[self.number].ours))
        self.assertEqual(7, driver.states()[self.number].generation)


class TestNetworks(LibvirtCase):
    def nic(self, **changes):
        number = str(uuid.uuid4())
        values = {
            "id": number, "mac": "52:54:00:01:02:03", "network_id": "n", "label": "l",
            "kind": "network", "source": NETWORK["name"], "mtu": 1400,
            "addresses": (Address("10.99.0.5", "10.99.0.0/24"),),
        }  # fmt: skip
        return Nic(**{**values, **changes})

    def hosts(self):
        connection = libvirt.open(self.daemon.uri)
        try:
            return connection.networkLookupByName("mnet").XMLDesc()
        finally:
            connection.close()

    def test_a_guest_on_a_network_of_ours(self):
        driver = self.driver()
        driver.create_network(NETWORK)
        driver.create_network(NETWORK)
        self.addCleanup(driver.delete_network, "mnet")
        nic = self.nic()
        for address in ("10.99.0.5", "10.99.0.5", "10.99.0.6"):
            driver.reserve_address("mnet", nic.mac, address, "a-guest")
        self.assertIn("ip='10.99.0.6'", self.hosts())
        self.assertNotIn("ip='10.99.0.5'", self.hosts())
        error = self.assertRaises(
            errors.Refused, driver.reserve_address, "mnet", "52:54:00:00:00:09", "10.99.0.6", "b"
        )
        self.assertEqual("address_in_use", error.code)
        guest, disk = self.guest()
        driver.plug(guest, nic)
        self.define(driver, guest, disk, [nic])
        driver.power_on(guest.uuid)
        error = self.assertRaises(errors.Refused, driver.delete_network, "mnet")
        self.assertEqual("network_in_use", error.code)
        driver.power_off(guest.uuid)
        driver.unplug(guest.uuid, nic)
        driver.release_address("mnet", nic.mac)
        driver.release_address("mnet", nic.mac)
        self.assertNotIn("10.99.0.6", self.hosts())
        driver.delete_network("mnet")
        driver.delete_network("mnet")
        driver.release_address("mnet", nic.mac)
        error = self.assertRaises(errors.Failed, driver.plug, guest, nic)
        self.assertEqual("network_missing", error.code)
        error = self.assertRaises(
            errors.Failed, driver.reserve_address, "mnet", nic.mac, "10.99.0.5", "a"
        )
        self.assertEqual("network_missing", error.code)

    def test_networks_of_others_are_left_alone(self):
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        foreign = connection.networkDefineXML("<network><name>theirs</name></network>")
        self.addCleanup(foreign.undefine)
        driver = self.driver()
        error = self.assertRaises(errors.Refused, driver.delete_network, "theirs")
        self.assertEqual("not_ours", error.code)
        error = self.assertRaises(
            errors.Refused, driver.create_network, {**NETWORK, "name": "theirs"}
        )
        self.assertEqual("network_exists", error.code)
        self.assertFalse(foreign.isActive())

    def test_bad_networks_are_refused(self):
        driver = self.driver()
        driver.create_network(NETWORK)
        self.addCleanup(driver.delete_network, "mnet")
        for changes, code in (
            ({"gateway": "10.99.0.2"}, "network_exists"),
            ({"cidr": "10.99.0.0/33"}, "invalid_network"),
            ({"cidr": "10.98.0.0/24"}, "invalid_network"),
            ({"dhcp_end": None}, "invalid_network"),
            ({"dhcp_start": "10.99.0.201"}, "invalid_network"),
            ({"name": "a/b"}, "invalid_network"),
            ({"name": "../up"}, "invalid_network"),
            ({"name": ""}, "invalid_network"),
            ({"cidr": None, "bridge": "no-such-br"}, "network_missing"),
            ({"cidr": None, "bridge": "../lo"}, "network_missing"),
        ):
            error = self.assertRaises(
                errors.Refused, driver.create_network, {**NETWORK, **changes}
            )
            self.assertEqual(code, error.code, changes)
        guest, _ = self.guest()
        nic = self.nic(kind="bridge", source="no-such-br")
        error = self.assertRaises(errors.Failed, driver.plug, guest, nic)
        self.assertEqual("network_missing", error.code)


class TestOutages(LibvirtCase):
    def test_a_killed_libvirtd_costs_no_guest_and_no_false_answer(self):
        driver = self.driver()
        guest, disk = self.guest()
        self.define(driver, guest, disk)
        driver.power_on(guest.uuid)
        pid = self.daemon.guest(guest.name).pid
        self.daemon.kill()
        for call in (driver.states, driver.host_facts, lambda: driver.state(guest.uuid),
                     lambda: driver.power_off(guest.uuid), lambda: driver.undefine(guest.uuid),
                     lambda: driver.power_on(guest.uuid)):  # fmt: skip
            error = self.assertRaises(errors.Unknown, call)
            self.assertEqual("libvirt_lost", error.code)
        self.assertTrue(until(lambda: not driver.connected()))
        self.daemon.start()
        self.assertTrue(self.events.wait(("", "connected"), count=2))
        self.assertTrue(driver.connected())
        self.assertEqual(states.RUNNING, driver.state(guest.uuid).power_state)
        self.assertEqual(pid, self.daemon.guest(guest.name).pid)
        driver.power_off(guest.uuid)
        self.assertTrue(self.events.wait((guest.uuid, "stopped")), "no events after reconnect")
        self.assertEqual(1, self.log.output.count("is lost. Guests keep running"))

    def test_an_absent_libvirtd_is_waited_for(self):
        self.daemon.kill()
        driver = LibvirtDriver(self.conf, None)
        self.addCleanup(driver.stop)
        starting = threading.Thread(target=driver.start, args=(self.events,), daemon=True)
        starting.start()
        starting.join(1)
        self.assertTrue(starting.is_alive(), "start() did not wait")
        self.assertFalse(driver.connected())
        self.assertRaises(errors.Unknown, driver.states)
        time.sleep(5)  # several attempts, yet each reason is told once
        told = [line for line in self.log.output.splitlines() if "Start libvirtd" in line]
        self.assertTrue(told)
        self.assertEqual(len(set(told)), len(told))
        self.daemon.start()
        starting.join(SECONDS)
        self.assertFalse(starting.is_alive())
        self.assertEqual({}, dict(driver.states()))

    def test_a_start_that_waits_can_be_ended(self):
        self.option("connection_uri", "qemu+unix:///system?socket=/nonexistent/libvirt-sock")
        for end in ("stop", "give_up"):
            driver = LibvirtDriver(self.conf, None)
            self.addCleanup(driver.stop)
            starting = threading.Thread(target=driver.start, args=(self.events,), daemon=True)
            starting.start()
            starting.join(0.5)
            getattr(driver, end)()
            starting.join(SECONDS)
            self.assertFalse(starting.is_alive(), end)

    def test_without_kvm_auto_becomes_emulation(self):
        self.option("virt_type", "auto")
        driver = self.driver()
        self.assertTrue(until(lambda: driver.host_facts().virt_type == "qemu"))
        self.assertEqual("qemu", driver.virt_type())

    def test_a_hanging_libvirtd_is_given_up_and_comes_back(self):
        # A call is given up before keepalive closes the connection, after four intervals.
        for name, value in (("call_timeout", 3), ("keepalive_interval", 2)):
            self.option(name, value)
        driver = self.driver()
        guest, disk = self.guest()
        self.define(driver, guest, disk)
        self.daemon.daemons["libvirtd"].signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            error = self.assertRaises(errors.Unknown, driver.state, guest.uuid)
            self.assertEqual("libvirt_timeout", error.code)
            self.assertLess(time.monotonic() - began, 30)  # the default
            self.assertTrue(until(lambda: not driver.connected()), "keepalive did not notice")
        finally:
            self.daemon.daemons["libvirtd"].signal(signal.SIGCONT)
        self.assertTrue(self.events.wait(("", "connected"), count=2))
        self.assertEqual(states.SHUTDOWN, driver.state(guest.uuid).power_state)
