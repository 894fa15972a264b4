"""Guests asleep, and what kills agent, hypervisor and host on the way.

A test or more for each row of the list of partial failures that is about pausing and suspending.
"""

from __future__ import annotations

import os
import pathlib
import signal

import fixtures
import testtools

from compute.manager import Manager
from compute.model import states
from compute.recovery import reconcile
from compute.recovery.invariants import check
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler
from compute.steps.sleep import UNPLUGGED
from tests import fakes
from tests.crash.matrix import CONTEXT, GUEST, MEMORY, Case, child, first_life, next_life, run_now
from tests.modes import EVENTLET, ROWS, once
from tests.waiting import PATIENCE, wait_until

CARD = "<hostdev mode='subsystem' type='pci'/>"
TASKS = {"pause": states.PAUSING, "unpause": states.UNPAUSING, "suspend": states.SUSPENDING,
         "resume": states.RESUMING}
MOMENTS = ("before_intent", "after_intent", "after_effect", "after_record")


@once(ROWS, EVENTLET)
class PartialFailureTest(testtools.TestCase):
    """One guest with a device that cannot be saved, on files that outlive the agent's process."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.boot_id = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / "boot_id"
        self.patch(reconcile, "BOOT_ID", self.boot_id)

    # -- a world ------------------------------------------------------------------------------
    def build(self, device: bool = True) -> None:
        """A guest that runs."""
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir(rootdir=MEMORY)).path)
        self.boot_id.write_text("first\n")
        self.open()
        prim = fakes.instance(uuid=GUEST)
        self.world.conductor.add(prim)
        run_now(self.world, "spawn", fakes.build_args(prim), {**CONTEXT, "request_id": "req-0"})
        if device:
            self.world.driver.attach(GUEST, CARD)
        self.counted = self.count()

    def open(self, **options: object) -> None:
        """The world as an agent that starts now finds it."""
        self.world = fakes.world(self.root)
        self.addCleanup(self.world.journal.engine.dispose)
        for name, value in options.items():
            setattr(self.world.conf, name, value)
        self.manager = Manager(self.world, workers=1)
        self.addCleanup(self.manager.park, PATIENCE)
        self.reconciler = Reconciler(self.manager, CONTEXT, lost_after=0)

    def asked(self, verb: str) -> dict:
        """The control plane wants it."""
        return {"instance": self.world.conductor.set(GUEST, task_state=TASKS[verb])}

    def do(self, verb: str) -> None:
        run_now(self.world, verb, self.asked(verb), {**CONTEXT, "request_id": f"req-{verb}"})

    def killed(self, verb: str, point: str) -> None:
        """An agent carries it out and is killed."""
        case = Case(verb, f"{verb}.{point}")
        args = self.asked(verb)
        self.world.journal.engine.dispose()
        status = child(first_life(self.root, case, args))
        self.assertTrue(os.WIFSIGNALED(status), f"{case.point} was not reached")

    def killed_in_the_save(self, looks: int) -> None:
        """An agent is killed while the hypervisor writes the memory, which goes on for so long."""
        args = self.asked("suspend")
        self.world.driver.fabric.set(save_looks=looks)
        self.world.journal.engine.dispose()

        def work() -> None:
            def hook(method: str, when: str) -> None:
                if method == "state" and driver._read(GUEST).get("job") == "save":
                    os.kill(os.getpid(), signal.SIGKILL)

            world = fakes.world(self.root, hook=hook)
            driver = world.driver
            run_now(world, "suspend", args)

        self.assertTrue(os.WIFSIGNALED(child(work)))
        self.open()
        self.assertEqual("save", self.world.driver._read(GUEST)["job"])

    def recovered(self) -> None:
        """The next agent starts, and goes on until all is at rest."""
        self.assertEqual(0, child(next_life(self.root, Case("", ""))))
        self.open()

    def passes(self, times: int = 2) -> str:
        """Passes of reconciliation, each to its end; returns the last one's row about the guest."""
        for _ in range(times):
            self.reconciler.run_pass()
            wait_until(lambda: not self.manager.running())
        return self.reconciler.verdicts[GUEST].row

    # -- what is so ---------------------------------------------------------------------------
    def fields(self) -> dict:
        return self.world.conductor.fields(GUEST)

    def state(self):
        return self.world.driver.state(GUEST)

    def count(self) -> int:
        """How far the guest has come."""
        return self.world.driver._read(GUEST)["count"]

    def devices(self) -> tuple[tuple[str, ...], list[str]]:
        """Those that are in, and those that the journal has as out."""
        return self.world.driver.unsaveable(GUEST), [
            device for claim in self.world.journal.claims(kind=UNPLUGGED, guest=GUEST)
            for device in claim.data["devices"]]

    def findings(self) -> list[str]:
        found = [f"{f.rule}: {f.what}" for f in check(observe(self.world, CONTEXT))]
        return found + self.world.driver.fabric.violations()

    def assert_is(self, vm_state: str, power: int, *, saved: bool = False) -> None:
        """The record says this, the hypervisor too, and every invariant holds."""
        fields, seen = self.fields(), self.state()
        self.assertEqual((vm_state, None, power), (fields["vm_state"], fields["task_state"],
                                                   fields["power_state"]))
        self.assertEqual((power, saved), (seen.power_state, seen.saved))
        self.assertEqual([], self.findings())

    def assert_went_on(self) -> None:
        """It goes on where it was: nothing was booted."""
        self.assertGreaterEqual(self.count(), self.counted)
        self.assertEqual([], self.world.driver.fabric.violations())

    def pause_by_qemu(self, reason: str) -> None:
        """As QEMU does when a disk fails."""
        driver = self.world.driver
        driver._write(GUEST, {**driver._read(GUEST), "power_state": states.POWER_PAUSED,
                              "reason": reason})

    def down(self) -> None:
        """The host loses its power and comes back: what was in QEMU is gone."""
        found = self.world.driver._read(GUEST)
        if not found.get("saved"):
            self.world.driver.power_off(GUEST)
        self.world.driver._write(GUEST, {**self.world.driver._read(GUEST), "job": ""})
        self.boot_id.write_text("second\n")


class Row12Test(PartialFailureTest):
    """Killed in a suspend, with devices unplugged."""

    def test_row_12_killed_anywhere_it_ends_suspended_and_wakes_with_its_devices(self):
        for step in ("devices", "memory", "record"):
            for moment in MOMENTS:
                self.build()
                self.killed("suspend", f"{step}.{moment}")
                self.recovered()
                self.assert_is(states.SUSPENDED, states.SHUTDOWN, saved=True)
                self.assertEqual(((), [CARD]), self.devices(), f"{step}.{moment}")
                self.do("resume")
                self.assert_is(states.ACTIVE, states.RUNNING)
                self.assertEqual(((CARD,), []), self.devices())
                self.assert_went_on()

    def test_row_12_the_save_goes_on_without_the_agent(self):
        self.build()
        self.killed_in_the_save(looks=6)
        self.recovered()
        self.assert_is(states.SUSPENDED, states.SHUTDOWN, saved=True)
        self.do("resume")
        self.assert_went_on()

    def test_row_12_a_guest_that_cannot_be_saved_has_its_devices_again(self):
        self.build()
        self.world.driver.attach(GUEST, "second")
        self.world.driver.stubborn = frozenset({"second"})
        self.do("suspend")
        self.assert_is(states.ACTIVE, states.RUNNING)
        self.assertEqual(({CARD, "second"}, []), (set(self.devices()[0]), self.devices()[1]))

    def test_row_12_told_to_stop_after_the_kill_it_has_its_devices_again(self):
        for step in ("devices", "memory"):
            for moment in MOMENTS[1:]:
                self.build()
                self.killed("suspend", f"{step}.{moment}")
                self.open()
                [row] = self.world.journal.find(active=True)
                self.world.journal.update(row.id, abort="an operator stopped it")
                self.recovered()
                self.assert_is(states.ACTIVE, states.RUNNING)
                self.assertEqual(((CARD,), []), self.devices(), f"{step}.{moment}")
                self.assert_went_on()

    def test_row_12_the_host_went_down_too(self):
        """In the middle of the save: the memory is lost, which is said, and the disks are whole."""
        self.build()
        self.killed_in_the_save(looks=100)
        self.down()
        self.recovered()
        self.assert_is(states.ERROR, states.SHUTDOWN)
        self.assertIn("does not run", self.world.conductor.read()["faults"][-1][1])
        prim = self.world.conductor.set(GUEST, task_state=states.REBOOTING_HARD)
        run_now(self.world, "reboot", {"instance": prim, "reboot_type": "HARD"},
                {**CONTEXT, "request_id": "req-reboot"})
        self.assert_is(states.ACTIVE, states.RUNNING)
        self.assertEqual([], self.devices()[1])


class Row13Test(PartialFailureTest):
    """Killed in a resume."""

    def test_row_13_killed_anywhere_the_guest_goes_on_from_its_memory(self):
        for step in ("disks", "ports", "power", "devices", "time", "record"):
            for moment in MOMENTS:
                self.build()
                self.do("suspend")
                self.killed("resume", f"{step}.{moment}")
                self.recovered()
                self.assert_is(states.ACTIVE, states.RUNNING)
                self.assertEqual(((CARD,), []), self.devices(), f"{step}.{moment}")
                self.assertNotIn("old_vm_state", self.fields()["system_metadata"])
                self.assert_went_on()

    def test_row_13_told_to_stop_after_the_kill_it_is_suspended_again(self):
        for moment in MOMENTS[1:]:
            self.build()
            self.do("suspend")
            self.killed("resume", f"power.{moment}")
            self.open()
            [row] = self.world.journal.find(active=True)
            self.world.journal.update(row.id, abort="an operator stopped it")
            self.recovered()
            self.assert_is(states.SUSPENDED, states.SHUTDOWN, saved=True)
            self.assertEqual(((), [CARD]), self.devices())
            self.do("resume")
            self.assert_went_on()

    def test_row_13_the_host_went_down_too(self):
        """After the guest was awake: its memory is lost with the host, which is said."""
        self.build()
        self.do("suspend")
        self.killed("resume", "power.after_effect")
        self.open()
        self.down()
        self.recovered()
        self.assert_is(states.ERROR, states.SHUTDOWN)
        self.assertIn("is not on this host", self.world.conductor.read()["faults"][-1][1])


class Row14Test(PartialFailureTest):
    """Off with saved memory, and the control plane has it as active."""

    def test_row_14_it_is_not_stopped_and_its_memory_goes_on(self):
        self.build(device=False)
        self.world.driver.save(GUEST, 1.0)
        self.assertEqual("settled", self.passes())
        self.assert_is(states.SUSPENDED, states.SHUTDOWN, saved=True)
        self.do("resume")
        self.assert_is(states.ACTIVE, states.RUNNING)
        self.assert_went_on()


class Row17Test(PartialFailureTest):
    """QEMU paused the guest: its storage failed or was full, or a post-copy broke."""

    def test_row_17_the_reason_is_told_with_what_to_do(self):
        for reason, text in (("ioerror", "its storage failed or was full"),
                             ("postcopy_failed", "Do not resume it by hand"),
                             ("watchdog", "the hypervisor paused it (watchdog)")):
            self.build(device=False)
            self.pause_by_qemu(reason)
            self.assertEqual("frozen", self.passes())
            self.assertEqual((states.ACTIVE, states.POWER_PAUSED),
                             (self.fields()["vm_state"], self.fields()["power_state"]))
            self.assertIn(text, self.log.output)
            [finding] = self.findings()
            self.assertIn(text, finding)
            self.assertEqual(states.POWER_PAUSED, self.state().power_state)

    def test_row_17_it_may_be_let_run_when_its_storage_works_again(self):
        self.build(device=False)
        self.open(resume_paused_guests=True)
        self.pause_by_qemu("ioerror")
        self.assertEqual("settled", self.passes())
        self.assert_is(states.ACTIVE, states.RUNNING)
        self.assert_went_on()
        self.assertEqual(["spawn", "unpause"], [r.verb for r in self.world.journal.find()])

    def test_row_17_storage_that_stays_away_is_not_hammered(self):
        self.build(device=False)
        self.open(resume_paused_guests=True)
        for _ in range(4):
            self.pause_by_qemu("ioerror")
            self.passes()
        self.assertEqual("frozen", self.passes())
        self.assertEqual(["spawn", "unpause"], [r.verb for r in self.world.journal.find()])

    def test_row_17_nothing_else_is_let_run(self):
        for reason in ("postcopy_failed", "user", "watchdog", ""):
            self.build(device=False)
            self.open(resume_paused_guests=True)
            self.pause_by_qemu(reason)
            self.assertEqual("frozen", self.passes())
            self.assertEqual(states.POWER_PAUSED, self.state().power_state, reason)

    def test_row_17_a_guest_that_its_owner_paused_is_not_let_run(self):
        self.build(device=False)
        self.do("pause")
        self.open(resume_paused_guests=True)
        self.pause_by_qemu("ioerror")
        self.assertEqual("settled", self.passes())
        self.assert_is(states.PAUSED, states.POWER_PAUSED)


class Row18Test(PartialFailureTest):
    """The host went down and came back."""

    def after(self, *verbs: str, resume: bool) -> str:
        self.build()
        for verb in verbs:
            self.do(verb)
        self.passes(1)
        self.down()
        self.open(resume_guests_state_on_host_boot=resume)
        return self.passes()

    def test_row_18_an_active_guest_is_started_only_if_the_option_says_so(self):
        self.assertEqual("settled", self.after(resume=False))
        self.assert_is(states.STOPPED, states.SHUTDOWN)
        self.assertEqual("settled", self.after(resume=True))
        self.assert_is(states.ACTIVE, states.RUNNING)

    def test_row_18_a_suspended_guest_sleeps_through_it(self):
        for resume in (False, True):
            self.assertEqual("settled", self.after("suspend", resume=resume))
            self.assert_is(states.SUSPENDED, states.SHUTDOWN, saved=True)
            self.do("resume")
            self.assert_is(states.ACTIVE, states.RUNNING)
            self.assertEqual(((CARD,), []), self.devices())
            self.assert_went_on()

    def test_row_18_a_paused_guest_becomes_stopped_and_is_never_started(self):
        for resume in (False, True):
            self.assertEqual("settled", self.after("pause", resume=resume))
            self.assert_is(states.STOPPED, states.SHUTDOWN)

    def test_row_18_memory_that_the_hosts_shutdown_saved(self):
        """As libvirt-guests does with ON_SHUTDOWN=suspend."""
        for resume, vm_state in ((False, states.SUSPENDED), (True, states.ACTIVE)):
            self.build(device=False)
            self.passes(1)
            self.world.driver.save(GUEST, 1.0)
            self.down()
            self.open(resume_guests_state_on_host_boot=resume)
            self.assertEqual("settled", self.passes())
            self.assertEqual(vm_state, self.fields()["vm_state"])
            if not resume:
                self.do("resume")
            self.assert_is(states.ACTIVE, states.RUNNING)
            self.assert_went_on()


class Row19Test(PartialFailureTest):
    """A task that the reference leaves for ever when its guest is paused already."""

    def test_row_19_killed_anywhere_a_pause_ends_paused_and_an_unpause_running(self):
        for verb, vm_state, power in (("pause", states.PAUSED, states.POWER_PAUSED),
                                      ("unpause", states.ACTIVE, states.RUNNING)):
            for step in (verb, "record"):
                for moment in MOMENTS:
                    self.build()
                    if verb == "unpause":
                        self.do("pause")
                    self.killed(verb, f"{step}.{moment}")
                    self.recovered()
                    self.assert_is(vm_state, power)
                    self.assert_went_on()

    def test_row_19_lost_before_it_was_journalled(self):
        self.build()
        self.world.driver.pause(GUEST)
        self.asked("pause")
        self.assertEqual("settled", self.passes())
        self.assert_is(states.PAUSED, states.POWER_PAUSED)
