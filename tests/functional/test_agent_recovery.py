"""What happened while nobody looked: messages lost, guests that stop by themselves, deletes behind
our back, reboots of the host, restarts of the agent."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
import time

from compute.engine import runner
from compute.errors import Failed, Retryable, Unknown
from compute.model import states
from compute.recovery import reconcile
from db.control import services
from db.journal import rows
from tests.functional.agent_support import FAR, AgentTest, Gate, Once, SharedTest
from tests.waiting import wait_until

FOREIGN = "ffffffff-0000-4000-8000-000000000001"


class SyncTest(SharedTest):
    def test_a_guest_that_stopped_itself_becomes_stopped(self):
        uuid = self.cloud.boot("own-stop")
        self.host.driver.power_off(uuid)
        self.host.reconcile()
        shown = self.cloud.show(uuid)
        self.assertEqual(("SHUTOFF", None), (shown["status"], shown["task_state"]))
        self.assertEqual([], self.host.operations(uuid, "stop"))
        self.assert_clean()

    def test_a_guest_that_somebody_started_is_reported_and_left(self):
        uuid = self.cloud.boot("own-start")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.host.at_rest()
        self.host.driver.power_on(uuid)
        self.host.reconcile()
        self.assertEqual("SHUTOFF", self.cloud.show(uuid)["status"])
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        [finding] = [f for f in self.host.findings() if uuid in f]
        self.assertIn("somebody started it behind our back", finding)
        self.host.driver.power_off(uuid)
        self.host.reconcile()
        self.assert_clean()

    def test_a_domain_that_vanished_is_reported_and_a_hard_reboot_brings_it_back(self):
        uuid = self.cloud.boot("vanished")
        self.host.driver.undefine(uuid)
        self.host.reconcile()
        self.assertEqual("ACTIVE", self.cloud.show(uuid)["status"])
        verdict = self.host.agent.reconciler.verdicts[uuid]
        self.assertEqual("missing-domain", verdict.row)
        self.control.server_reboot(uuid, hard=True)
        wait_until(lambda: self.host.power(uuid) == states.RUNNING)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_a_domain_that_is_not_ours_is_never_touched(self):
        foreign = self.host.driver.domains / f"{FOREIGN}.json"
        text = json.dumps({"name": "precious", "ours": False, "power_state": states.RUNNING})
        foreign.write_text(text)
        self.addCleanup(foreign.unlink)
        self.host.reconcile()
        self.host.reconcile()
        self.assertEqual(text, foreign.read_text())
        [seen] = self.host.agent.one_pass().foreign
        self.assertEqual("precious", seen.name)
        self.assert_clean()

    def test_a_delete_does_not_take_a_foreign_domain_of_the_same_uuid(self):
        uuid = self.cloud.boot("imposter")
        self.host.at_rest()
        path = self.host.driver.domains / f"{uuid}.json"
        ours = path.read_text()
        path.write_text(json.dumps({**json.loads(ours), "ours": False}))
        self.control.server_delete(uuid)
        row = wait_until(lambda: next((r for r in self.host.operations(uuid, "delete")
                                       if r.state == rows.NEEDS_OPERATOR), None))
        self.assertEqual("not_ours", row.error["code"])
        self.assertIn(f"magnetar op resolve {row.id}", row.error["next"])
        self.assert_speaks(row.error)
        self.assertTrue(path.exists())
        self.assertIn(uuid, self.host.driver.guest_dirs())
        path.write_text(ours)
        self.host.agent.socket.methods["op.resolve"](op=row.id, as_="retry")
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.assert_clean()


class EventTest(AgentTest):
    passes = True

    def test_it_is_seen_without_waiting_for_the_timer(self):
        """An event of the hypervisor brings the next pass near."""
        uuid = self.cloud.boot("event")
        self.host.driver.power_off(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)


class LostTest(SharedTest):
    """The control plane has set task_state, and the message never came."""

    def lost(self, uuid: str, task: str) -> None:
        self.cloud.change(uuid, task_state=task)
        self.host.reconcile()

    def test_stop_start_and_reboots(self):
        uuid = self.cloud.boot("lost")
        for task, state, power in (
                (states.POWERING_OFF, states.STOPPED, states.SHUTDOWN),
                (states.POWERING_ON, states.ACTIVE, states.RUNNING),
                (states.REBOOTING, states.ACTIVE, states.RUNNING),
                (states.REBOOTING_HARD, states.ACTIVE, states.RUNNING)):
            self.lost(uuid, task)
            shown = self.cloud.show(uuid)
            self.assertEqual((state, None, power),
                             (shown["vm_state"], shown["task_state"], self.host.power(uuid)), task)
        self.assertEqual(["spawn", "stop", "start", "reboot", "reboot"],
                         [row.verb for row in self.host.operations(uuid)])
        self.assert_clean()

    def test_delete(self):
        uuid = self.cloud.boot("lost-delete")
        self.lost(uuid, states.DELETING)
        self.assertEqual("DELETED", self.cloud.show(uuid)["status"])
        self.assertIsNone(self.host.power(uuid))
        self.assert_clean()

    def test_a_message_that_is_on_its_way_is_waited_for(self):
        uuid = self.cloud.boot("fresh")
        self.cloud.change(uuid, task_state=states.POWERING_OFF)
        self.host.reconcile(lost_after=FAR)
        self.assertEqual([], self.host.operations(uuid, "stop"))
        self.assertEqual("fresh-task", self.host.agent.reconciler.verdicts[uuid].row)
        self.cloud.cast(uuid, "stop_instance", clean_shutdown=True)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.assert_clean()

    def test_a_build_of_which_nobody_knows_is_said_to_be_lost(self):
        uuid = self.cloud.boot("lost-build")
        node = self.host.name
        self.control.server_delete(uuid)
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.host.at_rest()
        self.host.hook = gate = Gate("host_facts")
        gate.open = True
        lost = self._row_without_operation(node)
        self.host.reconcile()
        shown = self.cloud.show(lost)
        self.assertEqual(("ERROR", None), (shown["status"], shown["task_state"]))
        self.assertIn("the journal has no such build", shown["fault"]["message"])
        self.control.server_delete(lost)
        wait_until(lambda: self.cloud.show(lost)["status"] == "DELETED")
        self.assert_clean()

    def _row_without_operation(self, host):
        """A server that the control plane believes in build here, as after a lost journal."""
        self.host.hook = gate = Gate("create_disks")
        uuid = self.cloud.create("lost-build-2")["id"]
        gate.wait()
        operation = self.host.operations(uuid)[0]
        gate.open = True
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.host.agent.journal.update(operation.id, state=rows.UNDONE)
        self.host.driver.power_off(uuid)
        self.host.driver.undefine(uuid)
        self.host.driver.delete_disks(uuid)
        self.cloud.change(uuid, vm_state=states.BUILDING, task_state=states.SPAWNING, host=host)
        return uuid


class DeletedBehindUsTest(AgentTest):
    def test_a_local_delete_is_followed_and_the_disks_are_kept_in_quarantine(self):
        self.cloud.network()
        uuid = self.cloud.boot("gone", networks=["net"])
        with self.control.store.begin() as connection:
            services.save(connection, services.get(connection, "host1")["id"],
                          {"forced_down": True})
        self.control.server_delete(uuid)
        self.assertEqual("DELETED", self.cloud.show(uuid)["status"])
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.host.reconcile()
        self.assert_ended(rows.DONE, uuid, "reap")
        self.assertIsNone(self.host.power(uuid))
        self.assertNotIn(uuid, self.host.driver.guest_dirs())
        kept = list((self.host.driver.root / "_quarantine").glob(f"{uuid}.*/disk"))
        self.assertEqual(1, len(kept))
        self.assert_clean()

    def test_while_the_control_plane_is_silent_nothing_is_reaped(self):
        uuid = self.cloud.boot("silent")
        with self.control.store.begin() as connection:
            services.save(connection, services.get(connection, "host1")["id"],
                          {"forced_down": True})
        self.control.server_delete(uuid)
        conductor = self.host.agent.conductor

        def silent(*args, **kwargs):
            raise Unknown("No answer came.", code="rpc_timeout")

        conductor.class_action = silent
        with contextlib.suppress(Unknown):
            self.host.agent.reconciler.run_pass()
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assertEqual("no-record", self.host.agent.reconciler.verdicts[uuid].row)
        del conductor.class_action
        self.host.reconcile()
        self.assert_clean()


class HostBootTest(AgentTest):
    passes = True

    def reboot_host(self) -> None:
        """All guests are off, and the host has another boot id."""
        self.host.stop()
        for path in (self.host.root / "instances" / "domains").glob("*.json"):
            domain = json.loads(path.read_text())
            path.write_text(json.dumps({**domain, "power_state": states.SHUTDOWN}))
        boot_id = pathlib.Path(self.cloud.root) / "boot_id"
        boot_id.write_text(f"another-{time.monotonic()}\n")
        self.patch(reconcile, "BOOT_ID", boot_id)
        self.host.start()

    def prepared(self) -> tuple[str, str]:
        running, stopped = self.cloud.boot("on"), self.cloud.boot("off")
        self.control.server_stop(stopped)
        self.cloud.wait_for(stopped, states.STOPPED)
        self.host.at_rest()
        self.host.agent.one_pass()  # which notes the boot id
        return running, stopped

    def test_guests_that_ran_are_started_again_where_configured(self):
        running, stopped = self.prepared()
        self.cloud.set(resume_guests_state_on_host_boot=True)
        self.reboot_host()
        wait_until(lambda: self.host.power(running) == states.RUNNING)
        self.host.reconcile()
        self.assertEqual(("ACTIVE", "SHUTOFF"), (self.cloud.show(running)["status"],
                                                 self.cloud.show(stopped)["status"]))
        self.assertEqual(states.SHUTDOWN, self.host.power(stopped))
        self.assertEqual(1, len(self.host.operations(running, "start")))
        self.assert_clean()

    def test_otherwise_they_become_stopped(self):
        running, stopped = self.prepared()
        self.reboot_host()
        self.cloud.wait_for(running, states.STOPPED)
        self.assertEqual(states.SHUTDOWN, self.host.power(running))
        self.assert_clean()

    def test_a_restart_of_the_agent_alone_starts_nothing(self):
        running, _ = self.prepared()
        self.cloud.set(resume_guests_state_on_host_boot=True)
        self.host.driver.power_off(running)
        self.host.restart()
        self.cloud.wait_for(running, states.STOPPED)
        self.assertEqual(states.SHUTDOWN, self.host.power(running))


class RestartTest(AgentTest):
    def test_a_stopping_agent_parks_what_it_does_and_goes_on_with_it(self):
        seen = []
        gate = Gate("define")

        def hook(method, when):
            seen.append(method)
            gate(method, when)

        self.host.hook = hook
        uuid = self.cloud.create("parked")["id"]
        gate.wait()
        agent = self.host.agent
        agent.server.stop()
        with self._stopping(agent):
            wait_until(lambda: agent.manager._parked)
            gate.open = True
        self.host.agent = None
        [row] = self._journal(agent, uuid)
        self.assertEqual((rows.RUNNING, True), (row.state, row.active))
        self.assertIsNone(self.cloud.show(uuid)["fault"])
        seen.clear()
        self.host.start()
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.assertNotIn("create_disks", seen, "what was done is not done again")
        self.assert_clean()

    @contextlib.contextmanager
    def _stopping(self, agent):
        thread = threading.Thread(target=agent.stop)
        thread.start()
        yield
        thread.join()

    def _journal(self, agent, uuid):
        found = agent.journal.find(guest=uuid)
        agent.journal.engine.dispose()
        return found

    def test_waiting_for_a_retry_does_not_hold_up_the_stop(self):
        self.patch(runner, "FIRST_DELAY", FAR)
        self.patch(runner, "LONGEST_DELAY", FAR)
        self.cloud.set(timeouts__stop=FAR)
        self.host.hook = Once("fetch_image", lambda: Retryable("Not now."), times=100)
        uuid = self.cloud.create("waiting")["id"]
        wait_until(lambda: [r.attempts for r in self.host.operations(uuid)] == [1])
        self.host.stop()
        self.host.hook = lambda method, when: None
        self.host.start()
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_a_retryable_trouble_is_tried_again_and_then_the_build_is_undone(self):
        self.host.hook = Once("fetch_image", lambda: Retryable("Not now."), times=2)
        uuid = self.cloud.boot("patience")
        self.assert_clean()
        self.host.hook = Once("create_disks", lambda: Failed("No.", code="broken"))
        failed = self.cloud.create("impatience")["id"]
        shown = self.cloud.wait_for(failed, states.ERROR)
        self.assertIn("No valid host", shown["fault"]["message"])
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assert_clean()

    def test_the_journal_may_be_lost(self):
        """Guests go on, and what they hold is claimed again."""
        uuid = self.cloud.boot("amnesia")
        claimed = {c.kind for c in self.host.agent.journal.claims(guest=uuid)}
        self.host.stop()
        for name in os.listdir(self.host.root):
            if name.startswith("journal.sqlite"):
                (self.host.root / name).unlink()
        self.host.start().reconcile()
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assertEqual(claimed, {c.kind for c in self.host.agent.journal.claims(guest=uuid)})
        self.assert_clean()
        self.control.server_delete(uuid)
        wait_until(lambda: self.cloud.show(uuid)["status"] == "DELETED")
        self.assert_clean()
