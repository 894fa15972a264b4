"""The libvirt driver on guests that sleep and grow, and its checks before a move: real QEMU."""

import json
from dataclasses import replace

from compute import errors
from compute.model import states
from compute.model.guest import Flavor
from tests.integration.move_case import COUNTS, MoveCase
from tests.integration.patience import SECONDS, until
from tests.integration.repeats import Late
from tests.modes import EVENTLET, NATIVE, once
from virt.libvirt import hotplug

# On a machine without PCIe, whose slots any device fits.
ON_PC = replace(COUNTS, properties={"hw_machine_type": "pc"})
SHMEM = """<shmem name='{name}' role='peer'><model type='ivshmem-plain'/><size unit='M'>4</size>
</shmem>"""


class OneHostCase(MoveCase):
    """Everything happens on the first host."""

    def setUp(self):
        super().setUp()
        self.driver = self.a.driver

    def power(self, guest):
        return states.POWER_NAMES[self.driver.state(guest.uuid).power_state]


@once(NATIVE, EVENTLET)
class TestSleep(OneHostCase):
    def test_a_guest_is_saved_and_goes_on(self):
        guest = self.guest(self.a)
        self.assertFalse(self.driver.sync_time(guest.uuid))  # no agent answers so early
        before = max(self.ticks(self.a, guest))
        self.driver.save(guest.uuid, SECONDS)
        self.driver.save(guest.uuid, SECONDS)
        for state in (self.driver.state(guest.uuid), self.driver.states()[guest.uuid]):
            self.assertEqual((states.SHUTDOWN, "saved", True, ""), (
                state.power_state, state.reason, state.saved, state.job))
        self.driver.power_on(guest.uuid)
        self.assertFalse(self.driver.state(guest.uuid).saved)
        self.counts_on(self.a, guest, before)
        boots = self.a.console(guest).count(b"GUEST-BOOT ")
        self.driver.pause(guest.uuid)
        self.driver.save(guest.uuid, SECONDS)
        self.driver.discard_saved(guest.uuid)
        self.driver.discard_saved(guest.uuid)
        self.assertFalse(self.driver.state(guest.uuid).saved)
        error = self.assertRaises(errors.Refused, self.driver.save, guest.uuid, 10)
        self.assertEqual("invalid_state", error.code)
        self.driver.power_on(guest.uuid)
        self.assertTrue(until(lambda: self.a.console(guest).count(b"GUEST-BOOT ") > boots))

    def begin_to_save(self, guest, seconds):
        """Ask for a save that cannot end so soon, and return while it goes on."""
        try:
            self.driver.save(guest.uuid, seconds)
        except errors.Unknown as error:
            self.assertEqual("save_timeout", error.code)
            if self.driver.state(guest.uuid).job == "save":
                return
        raise self.late(guest)

    def late(self, guest):
        """The guest is saved already; let it go on, for another attempt."""
        self.driver.save(guest.uuid, SECONDS)
        self.driver.power_on(guest.uuid)
        return Late("the guest was saved already")

    def test_a_save_that_takes_too_long_is_unknown_and_asked_again_it_ends(self):
        guest = self.guest(self.a)
        self.in_time(lambda: self.begin_to_save(guest, 0.01))
        later = self.a.new_driver()
        self.assertTrue(until(lambda: later.state(guest.uuid).saved))
        later.save(guest.uuid, SECONDS)
        self.driver.save(guest.uuid, SECONDS)

    def test_a_save_is_stopped_and_the_guest_goes_on(self):
        guest = self.guest(self.a, flavor=Flavor("larger", 1, 512))
        before = max(self.ticks(self.a, guest))
        self.in_time(lambda: self.stop_a_save(guest))
        self.assertEqual(("running", False), (
            self.power(guest), self.driver.state(guest.uuid).saved))
        self.counts_on(self.a, guest, before)
        self.driver.save(guest.uuid, SECONDS)
        self.assertTrue(self.driver.state(guest.uuid).saved)

    def stop_a_save(self, guest):
        self.begin_to_save(guest, 0.05)
        self.driver.abort_job(guest.uuid)
        self.assertTrue(until(lambda: not self.driver.state(guest.uuid).job))
        if self.driver.state(guest.uuid).saved:
            raise self.late(guest)


@once(NATIVE, EVENTLET)
class TestDevices(OneHostCase):
    def test_a_device_that_cannot_be_saved_goes_out_and_comes_back(self):
        guest = self.guest(self.a, image=ON_PC)
        self.assertEqual((), self.driver.unsaveable(guest.uuid))
        name = "shm-" + guest.uuid[:8]
        self.driver.plug_device(guest.uuid, SHMEM.format(name=name))
        self.driver.plug_device(guest.uuid, SHMEM.format(name=name))
        (device,) = self.driver.unsaveable(guest.uuid)
        self.assertIn(name, device)
        self.assertEqual(["shared memory " + name], self.driver.outgoing(guest.uuid)["immovable"])
        checks = {check.name: check for check in
                  self.driver.check_outgoing(guest.uuid, self.b.driver.incoming_facts())}
        self.assertIs(False, checks["devices"].ok)
        error = self.assertRaises(errors.MagnetarError, self.driver.save, guest.uuid, SECONDS)
        self.assertEqual("running", self.power(guest), error)
        self.driver.unplug_device(guest.uuid, device)
        self.driver.unplug_device(guest.uuid, device)
        self.assertEqual((), self.driver.unsaveable(guest.uuid))
        self.driver.save(guest.uuid, SECONDS)
        self.driver.power_on(guest.uuid)
        self.driver.plug_device(guest.uuid, device)
        self.assertEqual(1, len(self.driver.unsaveable(guest.uuid)))

    def test_a_guest_that_does_not_let_go_is_told(self):
        guest = self.guest(self.a, image=ON_PC)
        self.patch(hotplug, "DETACH_SECONDS", 0.5)
        self.patch(hotplug, "ATTEMPTS", 1)
        self.driver.plug_device(guest.uuid, SHMEM.format(name="shm-" + guest.uuid[:8]))
        (device,) = self.driver.unsaveable(guest.uuid)
        self.driver.pause(guest.uuid)
        error = self.assertRaises(errors.Failed, self.driver.unplug_device, guest.uuid, device)
        self.assertEqual("device_stays", error.code)
        self.assertEqual((device,), self.driver.unsaveable(guest.uuid))
        self.driver.resume(guest.uuid)
        self.assertTrue(until(lambda: not self.driver.unsaveable(guest.uuid)), "it goes now")


@once(NATIVE, EVENTLET)
class TestSize(OneHostCase):
    def setUp(self):
        super().setUp()
        self.a.option("live_resize_max_vcpus", 4)
        self.a.option("live_resize_max_memory_mb", 512)

    def test_a_guest_grows_while_it_runs(self):
        guest = self.guest(self.a, flavor=Flavor("small", 1, 160))
        larger = Flavor("larger", 2, 256)
        self.assertIsNone(self.driver.why_not_live(guest.uuid, larger))
        self.driver.resize_live(guest.uuid, larger)
        self.driver.resize_live(guest.uuid, larger)
        domain = self.driver.domains.find(guest.uuid)
        self.assertTrue(until(lambda: domain.info()[2] == 256 << 10), domain.info())
        self.assertEqual(2, domain.info()[3])
        for flavor, words in (
            (Flavor("less", 1, 256), "taken"), (Flavor("many", 5, 256), "at most 4"),
            (Flavor("fat", 2, 1024), "at most 512"), (Flavor("disk", 2, 256, root_gb=9), "root"),
            (Flavor("slow", 2, 256, extra_specs={"quota:cpu_shares": "9"}), "limits"),
        ):
            self.assertIn(words, self.driver.why_not_live(guest.uuid, flavor))
            error = self.assertRaises(
                errors.Refused, self.driver.resize_live, guest.uuid, flavor)
            self.assertEqual("not_live", error.code)
        self.driver.power_off(guest.uuid)
        self.assertIn("not run", self.driver.why_not_live(guest.uuid, larger))


@once(NATIVE, EVENTLET)
class TestChecks(MoveCase):
    def test_both_ends_look_at_what_has_to_be_so(self):
        guest = self.writing_guest(self.a)
        outgoing = json.loads(json.dumps(self.a.driver.outgoing(guest.uuid)))
        found = self.b.driver.check_incoming(guest, outgoing)
        self.assertEqual([], [check for check in found if check.ok is False])
        names = {check.name for check in found}
        self.assertLessEqual({"CPU", "host", "machine type", "QEMU", "libvirt", "memory", "clocks",
                              "QEMU's server certificate", "libvirt's server certificate",
                              "disk room", "base image"}, names)  # fmt: skip
        incoming = json.loads(json.dumps(self.b.driver.incoming_facts()))
        incoming["uri"] += f"?pkipath={self.a.host.base}/pki/client"
        with self.a.host.network():
            self.a.driver = self.a.new_driver()  # all of whose threads are in that network
            found = self.a.driver.check_outgoing(guest.uuid, incoming)
        self.assertEqual([], [check for check in found if not check.ok])
        self.assertLessEqual({"libvirt port", "libvirt", "data ports", "devices", "job"},
                             {check.name for check in found})  # fmt: skip
        self.wrong(guest, outgoing, incoming)

    def wrong(self, guest, outgoing, incoming):
        amd = "<cpu mode='custom' match='exact'><model>Cascadelake-Server</model></cpu>"
        for name, change in (
            ("host", {"host_uuid": incoming["host_uuid"]}), ("machine type", {"machine": "pc-99"}),
            ("memory", {"memory_mb": 1 << 30}), ("clocks", {"time": 1.0}), ("CPU", {"cpu": amd}),
        ):
            checks = self.b.driver.check_incoming(guest, {**outgoing, **change})
            found = next(check for check in checks if check.name == name)
            self.assertIs(False, found.ok, found)
            self.assertTrue(found.next, found)
        older = self.b.driver.check_incoming(guest, {**outgoing, "emulator_version": 99000000})
        self.assertIsNone(next(check for check in older if check.name == "QEMU").ok)
        self.a.host.cut()
        with self.a.host.network():
            self.a.driver = self.a.new_driver()  # no thread of it was born outside
            checks = self.a.driver.check_outgoing(guest.uuid, incoming)
        self.assertEqual(["libvirt port"], [c.name for c in checks if c.ok is False], checks)
        self.a.host.mend()
