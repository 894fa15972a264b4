"""pause, unpause, suspend and resume through RPC, agent and fake driver."""

from __future__ import annotations

from compute.errors import Failed, Refused
from compute.model import states
from compute.rpc import primitives
from compute.steps.sleep import UNPLUGGED
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import Gate, Once, SharedTest
from tests.waiting import wait_until

CARD = "<hostdev mode='subsystem' type='pci'/>"
METHODS = {"pause": "pause_instance", "unpause": "unpause_instance",
           "suspend": "suspend_instance", "resume": "resume_instance"}
VERBS = {
    "pause": (states.PAUSING, states.PAUSED, states.POWER_PAUSED),
    "unpause": (states.UNPAUSING, states.ACTIVE, states.RUNNING),
    "suspend": (states.SUSPENDING, states.SUSPENDED, states.SHUTDOWN),
    "resume": (states.RESUMING, states.ACTIVE, states.RUNNING),
}


class SleepTest(SharedTest):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.host.driver.fabric.set, save_looks=0)

    def ask(self, uuid: str, verb: str) -> None:
        """As Nova's API: the task, then the message."""
        self.cloud.change(uuid, task_state=VERBS[verb][0])
        self.cloud.cast(uuid, METHODS[verb])

    def do(self, uuid: str, verb: str) -> None:
        """Ask, and see it done as Nova does it."""
        self.ask(uuid, verb)
        shown = self.cloud.wait_for(uuid, VERBS[verb][1])
        self.assert_ended(rows.DONE, uuid, verb)
        self.assertEqual(states.POWER_NAMES[VERBS[verb][2]], shown["power_state"])
        self.assertEqual(VERBS[verb][2], self.host.power(uuid))

    def fields(self, uuid: str) -> dict:
        return primitives.data(self.cloud.instance(uuid))

    def old_state(self, uuid: str) -> str | None:
        return self.fields(uuid)["system_metadata"].get("old_vm_state")

    def count(self, uuid: str) -> int:
        """How far the guest has come; a boot begins anew."""
        return self.host.driver._read(uuid)["count"]

    def devices(self, uuid: str) -> tuple[str, ...]:
        return self.host.driver.unsaveable(uuid)

    def out(self, uuid: str) -> list[str]:
        """Devices that the journal has as unplugged."""
        return [device for claim in self.host.agent.journal.claims(kind=UNPLUGGED, guest=uuid)
                for device in claim.data["devices"]]

    def assert_guests_whole(self) -> None:
        self.assert_clean()
        self.assertEqual([], self.host.driver.fabric.violations())

    def fault(self, uuid: str) -> str:
        with self.control.store.begin() as connection:
            return instances.faults(connection, [uuid])[0]["message"]


class AllFourTest(SleepTest):
    def test_pause_and_unpause(self):
        uuid = self.cloud.boot("pause")
        self.do(uuid, "pause")
        self.assert_guests_whole()
        self.do(uuid, "unpause")
        self.assertEqual(1, self.host.driver._read(uuid)["time_set"])
        self.assert_guests_whole()

    def test_suspend_and_resume(self):
        uuid = self.cloud.boot("suspend")
        before = dict(self.fields(uuid)["system_metadata"])
        count = self.count(uuid)
        self.do(uuid, "suspend")
        self.assertTrue(self.host.driver.state(uuid).saved)
        self.assertEqual({**before, "old_vm_state": states.ACTIVE},
                         self.fields(uuid)["system_metadata"])
        self.assert_guests_whole()
        self.host.reconcile()
        self.assertEqual("settled", self.host.agent.reconciler.verdicts[uuid].row)
        self.do(uuid, "resume")
        self.assertFalse(self.host.driver.state(uuid).saved)
        self.assertEqual(before, self.fields(uuid)["system_metadata"])
        self.assertGreater(self.count(uuid), count, "it booted instead of going on")
        self.assertEqual(1, self.host.driver._read(uuid)["time_set"])
        self.assert_guests_whole()

    def test_as_a_tenant_under_novas_names(self):
        uuid = self.cloud.boot("told")
        for verb, (_, vm_state, power) in VERBS.items():
            getattr(self.control, f"server_{verb}")(uuid)
            self.cloud.wait_for(uuid, vm_state)
            self.assert_ended(rows.DONE, uuid, verb)
            self.assertEqual(power, self.host.power(uuid))
        actions = self.control.server_actions(uuid)
        self.assertEqual(["create", *VERBS], [a["action"] for a in actions])
        self.assertEqual([(f"compute_{verb}_instance", "Success") for verb in VERBS],
                         [(e["event"], e["result"]) for a in actions[1:] for e in a["events"]])
        self.assert_guests_whole()

    def test_four_conductor_calls_each(self):
        uuid = self.cloud.boot("calls")
        asked = self.enterContext(self.host.asked())
        for verb in VERBS:
            self.cloud.change(uuid, task_state=VERBS[verb][0])
            prim = self.cloud.instance(uuid)
            self.host.agent.manager.accept(verb, uuid, f"req-calls-{verb}", {"instance": prim},
                                           {"request_id": f"req-calls-{verb}"})
            wait_until(lambda verb=verb: self.host.operations(uuid, verb)[-1:]
                       and self.host.operations(uuid, verb)[-1].state == rows.DONE)
            mine = [doing for request, doing in asked if request == f"req-calls-{verb}"]
            self.assertLessEqual(len(mine), 4, mine)  # and the inventory's one

    def test_a_large_memory_is_waited_for(self):
        uuid = self.cloud.boot("large")
        self.host.driver.fabric.set(save_looks=5)
        count = self.count(uuid)
        self.do(uuid, "suspend")
        self.do(uuid, "resume")
        self.assertGreater(self.count(uuid), count)
        self.assert_guests_whole()

    def test_again_what_is_so_already(self):
        uuid = self.cloud.boot("twice")
        for verb in ("pause", "pause", "unpause", "unpause", "suspend", "suspend", "resume",
                     "resume"):
            self.do(uuid, verb)
        self.assertIsNone(self.old_state(uuid))
        self.assert_guests_whole()

    def test_a_paused_guest_that_is_suspended_is_paused_after_its_resume(self):
        uuid = self.cloud.boot("paused")
        self.do(uuid, "pause")
        self.do(uuid, "suspend")
        self.assertEqual(states.PAUSED, self.old_state(uuid))
        self.ask(uuid, "resume")
        self.cloud.wait_for(uuid, states.PAUSED)
        self.assertEqual(states.POWER_PAUSED, self.host.power(uuid))
        self.do(uuid, "unpause")
        self.assert_guests_whole()

    def test_no_agent_in_the_guest_hinders_nothing(self):
        uuid = self.cloud.boot("mute")
        self.host.driver.agent = False
        self.addCleanup(setattr, self.host.driver, "agent", True)
        for verb in VERBS:
            self.do(uuid, verb)
        self.host.driver.agent = True
        self.do(uuid, "pause")
        self.host.hook = Once("sync_time", lambda: Failed("The agent hangs.", code="agent"))
        self.do(uuid, "unpause")
        self.assert_guests_whole()

    def test_lost_messages_are_done(self):
        uuid = self.cloud.boot("lost-sleep")
        for verb, (task, vm_state, power) in VERBS.items():
            self.cloud.change(uuid, task_state=task)
            self.host.reconcile()
            shown = self.cloud.wait_for(uuid, vm_state)
            self.assertEqual(states.POWER_NAMES[power], shown["power_state"], verb)
        self.assertEqual(["spawn", *VERBS], [r.verb for r in self.host.operations(uuid)])
        self.assert_guests_whole()


class DeviceTest(SleepTest):
    """Devices that cannot be saved."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(setattr, self.host.driver, "stubborn", frozenset())

    def booted(self, name: str) -> str:
        uuid = self.cloud.boot(name)
        self.host.driver.attach(uuid, CARD)
        return uuid

    def test_they_are_out_while_it_sleeps_and_back_afterwards(self):
        uuid = self.booted("card")
        self.do(uuid, "suspend")
        self.assertEqual([CARD], self.out(uuid))
        self.assert_guests_whole()
        self.do(uuid, "resume")
        self.assertEqual(((CARD,), []), (self.devices(uuid), self.out(uuid)))
        self.assert_guests_whole()

    def test_they_are_written_down_before_they_are_touched(self):
        uuid = self.booted("before")
        listed = []
        self.host.hook = lambda method, when: listed.append(self.out(uuid)) \
            if (method, when) == ("unplug_device", "before") else None
        self.do(uuid, "suspend")
        self.assertEqual([[CARD]], listed)

    def test_one_that_the_guest_does_not_let_go(self):
        uuid = self.booted("stubborn")
        self.host.driver.attach(uuid, "second")
        self.host.driver.stubborn = frozenset({"second"})
        self.ask(uuid, "suspend")
        self.cloud.wait_for(uuid, states.ACTIVE)
        row = self.assert_ended(rows.UNDONE, uuid, "suspend")
        self.assertEqual("device_stays", row.error["code"])
        self.assert_speaks(row.error)
        self.assertIn("does not let go", self.fault(uuid))
        self.assertEqual(({CARD, "second"}, []), (set(self.devices(uuid)), self.out(uuid)))
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assert_guests_whole()

    def test_one_that_does_not_go_in_again_is_told_and_a_hard_reboot_forgets_it(self):
        uuid = self.booted("gone-card")
        self.do(uuid, "suspend")
        self.host.hook = Once("plug_device", lambda: Failed("No such card.", code="no_device"))
        self.do(uuid, "resume")
        self.assertEqual(([CARD], ()), (self.out(uuid), self.devices(uuid)))
        self.host.reconcile()
        self.assertEqual("devices-out", self.host.agent.reconciler.verdicts[uuid].row)
        [finding] = [f for f in self.host.findings() if uuid in f]
        self.assertIn("without devices", finding)
        self.control.server_reboot(uuid, hard=True)
        wait_until(lambda: not self.out(uuid))
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_guests_whole()

    def test_another_suspend_takes_what_is_out_along(self):
        uuid = self.booted("along")
        self.do(uuid, "suspend")
        self.host.hook = Once("plug_device", lambda: Failed("No such card.", code="no_device"))
        self.do(uuid, "resume")
        self.host.driver.attach(uuid, "second")
        self.do(uuid, "suspend")
        self.assertEqual([CARD, "second"], self.out(uuid))
        self.do(uuid, "resume")
        self.assertEqual((CARD, "second"), self.devices(uuid))
        self.assert_guests_whole()


class TroubleTest(SleepTest):
    def test_what_is_off_can_be_neither_paused_nor_let_run_nor_suspended(self):
        uuid = self.cloud.boot("off")
        for verb, after in (("pause", states.ACTIVE), ("unpause", states.ACTIVE),
                            ("suspend", states.ERROR)):
            self.host.driver.power_off(uuid)
            self.ask(uuid, verb)
            wait_until(lambda verb=verb: self.host.operations(uuid, verb))
            row = self.assert_ended(rows.UNDONE, uuid, verb)
            self.assertEqual("not_running", row.error["code"])
            self.assert_speaks(row.error)
            self.assertIn("does not run", self.fault(uuid))
            self.cloud.wait_for(uuid, after)
        self.control.server_reboot(uuid, hard=True)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_guests_whole()

    def test_a_pause_that_fails_leaves_the_guest_running(self):
        uuid = self.cloud.boot("unpausable")
        self.host.hook = Once("pause", lambda: Failed("No.", code="broken"))
        self.ask(uuid, "pause")
        wait_until(lambda: self.host.operations(uuid, "pause"))
        self.assert_ended(rows.UNDONE, uuid, "pause")
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual("No.", self.fault(uuid))
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assert_guests_whole()

    def test_a_save_that_fails_leaves_the_guest_running(self):
        uuid = self.cloud.boot("unsaveable")
        self.host.hook = Once("save", lambda: Failed("The disk is full.", code="disk_full"))
        self.ask(uuid, "suspend")
        wait_until(lambda: self.host.operations(uuid, "suspend"))
        self.assert_ended(rows.UNDONE, uuid, "suspend")
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual("The disk is full.", self.fault(uuid))
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assertIsNone(self.old_state(uuid))
        self.assert_guests_whole()

    def test_a_suspend_that_is_aborted_gives_the_guest_back(self):
        uuid = self.cloud.boot("aborted")
        count = self.count(uuid)
        self.host.driver.fabric.set(save_looks=10**6)
        self.ask(uuid, "suspend")
        wait_until(lambda: self.host.driver.state(uuid).job == "save")
        [row] = self.host.operations(uuid, "suspend")
        self.host.agent.manager.abort(row.id, "an operator stopped it")
        self.cloud.wait_for(uuid, states.ACTIVE)
        row = self.assert_ended(rows.UNDONE, uuid, "suspend")
        self.assertEqual("aborted", row.error["code"])
        self.assertEqual((states.RUNNING, ""),
                         (self.host.power(uuid), self.host.driver.state(uuid).job))
        self.assertGreaterEqual(self.count(uuid), count)
        self.assert_guests_whole()

    def test_a_resume_that_fails_keeps_the_memory_for_the_next(self):
        uuid = self.cloud.boot("unresumable")
        self.do(uuid, "suspend")
        self.host.hook = Once("power_on", lambda: Failed("It cannot be read.", code="broken"))
        self.ask(uuid, "resume")
        wait_until(lambda: self.host.operations(uuid, "resume"))
        self.assert_ended(rows.UNDONE, uuid, "resume")
        self.cloud.wait_for(uuid, states.SUSPENDED)
        self.assertEqual("It cannot be read.", self.fault(uuid))
        self.assertTrue(self.host.driver.state(uuid).saved)
        self.ask(uuid, "resume")
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_guests_whole()

    def test_a_resume_without_a_memory_boots_nothing(self):
        uuid = self.cloud.boot("amnesiac")
        self.do(uuid, "suspend")
        self.host.driver.discard_saved(uuid)
        self.host.reconcile()
        self.assertEqual("memory-missing", self.host.agent.reconciler.verdicts[uuid].row)
        self.ask(uuid, "resume")
        shown = self.cloud.wait_for(uuid, states.ERROR)
        self.assertIn("is not on this host", shown["fault"]["message"])
        self.assertEqual(states.SHUTDOWN, self.host.power(uuid))
        self.host.at_rest()
        self.control.server_reboot(uuid, hard=True)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_guests_whole()


class SavedMemoryTest(SleepTest):
    """What else may happen to a suspended guest."""

    def suspended(self, name: str) -> str:
        uuid = self.cloud.boot(name)
        self.do(uuid, "suspend")
        return uuid

    def test_a_hard_reboot_boots_it(self):
        uuid = self.suspended("reboot")
        before = self.host.driver.calls.get("discard_saved", 0)
        self.control.server_reboot(uuid, hard=True)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.assertFalse(self.host.driver.state(uuid).saved)
        self.assertEqual(before + 1, self.host.driver.calls.get("discard_saved"))
        self.assert_guests_whole()

    def test_a_delete_leaves_nothing(self):
        uuid = self.suspended("delete")
        self.control.server_delete(uuid)
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.host.at_rest()
        self.assertIsNone(self.host.driver.state(uuid))
        self.assertEqual([], self.host.agent.journal.claims(guest=uuid))
        self.assert_guests_whole()

    def test_a_stop_and_a_start_boot_it(self):
        uuid = self.suspended("restart")
        self.cloud.change(uuid, task_state=states.POWERING_OFF)
        self.cloud.cast(uuid, "stop_instance", clean_shutdown=True)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.host.at_rest()
        self.assertTrue(self.host.driver.state(uuid).saved, "a stop throws nothing away")
        self.control.server_start(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertFalse(self.host.driver.state(uuid).saved)
        self.assert_guests_whole()

    def test_a_delete_while_it_is_saved(self):
        uuid = self.cloud.boot("hasty")
        self.host.driver.fabric.set(save_looks=10**6)
        self.ask(uuid, "suspend")
        wait_until(lambda: self.host.driver.state(uuid).job == "save")
        self.control.server_delete(uuid)
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.assert_ended(rows.UNDONE, uuid, "suspend")
        self.assertIsNone(self.host.driver.state(uuid))
        self.assert_guests_whole()

    def test_another_request_is_told_who_is_first(self):
        uuid = self.cloud.boot("crossed")
        gate = self.host.hook = Gate("save")
        self.ask(uuid, "suspend")
        gate.wait()
        error = self.assertRaises(
            Refused, self.host.agent.manager.accept, "pause", uuid, "req-crossed",
            {"instance": self.cloud.instance(uuid)}, {"request_id": "req-crossed"})
        self.assertIn("is busy with suspend, at step memory", str(error))
        gate.open = True
        self.cloud.wait_for(uuid, states.SUSPENDED)
        self.assert_guests_whole()
