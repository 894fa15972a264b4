"""Every verb of the compute RPC API, sent for a guest that is gone, busy, on another host, or whose
domain was removed behind our back."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from compute.model import states
from compute.operations import OPERATIONS
from compute.rpc import primitives
from compute.rpc.contract import METHODS
from compute.rpc.serializer import admin_context
from compute.services import images
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import Gate, SharedTest
from tests.waiting import wait_until

IMAGE, TINY, NET, PORT = "IMAGE", "TINY", "NET", "PORT"  # given their ids when they are sent


@dataclass(frozen=True)
class Sent:
    """A method, the states that its sender leaves the guest in, the verb that it becomes, and what
    comes of it without a domain: the operation's end with its code, vm_state and power state."""

    method: str
    verb: str
    vm_state: str
    task: str | None
    removed: tuple[str, str | None, str, int | None]
    args: dict[str, Any] = field(default_factory=dict)


OFF = ("undone", "not_running")
SENT = (
    Sent("start_instance", "start", "stopped", "powering-on", ("done", None, "active", 1)),
    Sent("stop_instance", "stop", "active", "powering-off", ("done", None, "stopped", None)),
    Sent("reboot_instance", "reboot", "active", "rebooting", ("done", None, "active", 1),
         {"block_device_info": None, "reboot_type": "SOFT"}),
    Sent("reboot_instance", "reboot", "active", "rebooting_hard", ("done", None, "active", 1),
         {"block_device_info": None, "reboot_type": "HARD"}),
    Sent("pause_instance", "pause", "active", "pausing", (*OFF, "active", None)),
    Sent("unpause_instance", "unpause", "paused", "unpausing", (*OFF, "paused", None)),
    Sent("suspend_instance", "suspend", "active", "suspending", (*OFF, "error", None)),
    Sent("resume_instance", "resume", "suspended", "resuming",
         ("undone", "memory_missing", "error", None)),
    Sent("rescue_instance", "rescue", "active", "rescuing", ("done", None, "rescued", 1),
         {"rescue_password": "x", "rescue_image_ref": None, "clean_shutdown": True}),
    Sent("unrescue_instance", "unrescue", "rescued", "unrescuing", ("done", None, "active", 1)),
    Sent("set_admin_password", "set_password", "active", "updating_password",
         (*OFF, "active", None), {"new_pass": "x"}),
    Sent("trigger_crash_dump", "crash_dump", "active", None, (*OFF, "active", None)),
    Sent("quiesce_instance", "quiesce", "active", None, (*OFF, "active", None)),
    Sent("unquiesce_instance", "unquiesce", "active", None, ("done", None, "active", None),
         {"mapping": None}),
    Sent("snapshot_instance", "snapshot", "active", "image_snapshot_pending",
         ("done", None, "active", None), {"image_id": IMAGE}),
    Sent("backup_instance", "backup", "active", "image_backup", ("done", None, "active", None),
         {"image_id": IMAGE, "backup_type": "daily", "rotation": 1}),
    Sent("shelve_instance", "shelve", "active", "shelving",
         ("done", None, "shelved_offloaded", None), {"image_id": IMAGE}),
    Sent("shelve_offload_instance", "shelve_offload", "shelved", "shelving_offloading",
         ("undone", "image_not_found", "shelved", None)),
    Sent("rebuild_instance", "rebuild", "active", "rebuilding", ("done", None, "active", 1),
         {"new_pass": "x", "injected_files": [], "image_ref": TINY, "orig_image_ref": TINY,
          "orig_sys_metadata": {}, "bdms": None, "recreate": False, "on_shared_storage": False,
          "preserve_ephemeral": False, "migration": None, "scheduled_node": None, "limits": {},
          "request_spec": None}),
    Sent("soft_delete_instance", "soft_delete", "active", "soft-deleting",
         ("done", None, "soft-delete", None)),
    Sent("restore_instance", "restore", "soft-delete", "restoring", ("done", None, "active", 1)),
    Sent("terminate_instance", "delete", "active", "deleting", ("done", None, "deleted", None),
         {"bdms": None}),
    Sent("attach_interface", "attach_interface", "active", None,
         ("undone", "domain_missing", "active", None),
         {"network_id": NET, "port_id": None, "requested_ip": None}),
    Sent("detach_interface", "detach_interface", "active", None, ("done", None, "active", None),
         {"port_id": PORT}),
)
# What answers at once, of what the hypervisor shows; without a domain, this exception of Nova's.
LOOKING = {
    "get_console_output": ({"tail_length": None}, None),
    "get_vnc_console": ({"console_type": "novnc"}, "InstanceNotReady"),
    "validate_console_port": ({"console_type": "novnc", "port": 1}, None),
    "get_diagnostics": ({}, "InstanceNotFound"),
    "get_instance_diagnostics": ({}, "InstanceNotFound"),
}
# Begun by the agents themselves or by moves, which have tables of their own.
NOT_SENT = {"spawn", "unshelve", "reap", "reclaim", "vacate", "evacuate", "live_in", "live_out",
            "resize_prep", "resize_out", "resize_in", "resize_back", "resize_confirm",
            "resize_revert", "unsupported"}
# Of volumes: tests/functional/test_agent_volumes.py and test_partial_failures_volumes.py.
VOLUMES = {"reserve_device", "attach_volume", "detach_volume", "extend_volume", "swap_volume",
           "disconnect_volume"}


class WrongGuestTest(SharedTest):
    options = {"shelved_offload_time": 0}

    def setUp(self) -> None:
        super().setUp()
        self.cloud.network()
        self.ids = {TINY: self.control.image_show("tiny")["id"],
                    NET: self.control.network_show("net")["id"]}
        # The fake's disks are JSON; what is uploaded as qcow2 is looked into elsewhere.
        self.patch(images, "_inspect", lambda path, image: None)

    def boot(self, name: str) -> str:
        uuid = self.cloud.boot(name, networks=["net"])
        self.ids[PORT] = self.control.server_ports(uuid)[0]["id"]
        return uuid

    def send(self, uuid: str, sent: Sent, **fields: Any) -> str | None:
        """Send it, for the guest with these fields. The class of the exception of a call."""
        self.ids[IMAGE] = self.image()
        args = {name: self.ids.get(value, value) if isinstance(value, str) else value
                for name, value in sent.args.items()}
        return self.said(sent.method, self.instance(uuid, vm_state=sent.vm_state,
                                                    task_state=sent.task, **fields), args)

    def said(self, method: str, instance: Any, args: dict[str, Any]) -> str | None:
        client = self.cloud.client()
        say = client.call if METHODS[method].kind == "call" else client.cast
        try:
            say(admin_context(), method, instance=instance, **args)
        except Exception as error:  # noqa: BLE001 - its class is what callers see
            return type(error).__name__
        return None

    def instance(self, uuid: str, **fields: Any) -> Any:
        return primitives.patch(self.kept, fields) if self.kept else self.cloud.instance(uuid)

    kept: Any = None  # an Instance that is not there any more

    def ended(self, uuid: str, before: int) -> Any:
        """The one operation that came of a message."""
        wait_until(lambda: len(self.host.operations(uuid)) > before, self.host.story)
        self.host.at_rest()
        [row] = self.host.operations(uuid)[before:]
        return row

    def hypervisor(self, uuid: str) -> tuple[Any, ...]:
        """What nothing of this may change."""
        driver, claims = self.host.driver, self.host.agent.journal.claims(guest=uuid)
        return driver._read(uuid), [(claim.kind, claim.data) for claim in claims], \
            sorted(os.listdir(driver.place / uuid))

    def remove(self, uuid: str) -> None:
        """As with virsh destroy and undefine."""
        (self.host.driver.domains / f"{uuid}.json").unlink()

    def image(self) -> str:
        """An image that waits for its content."""
        return self.control.images.reserve(image_id=str(uuid4()), name="i", min_disk=0, min_ram=0,
                                           properties={}).id

    def test_every_verb_that_is_sent_is_here(self):
        self.assertEqual(set(OPERATIONS), {sent.verb for sent in SENT} | NOT_SENT | VOLUMES)

    def test_a_guest_that_is_gone(self):
        uuid = self.boot("gone")
        self.kept = self.cloud.instance(uuid)
        with self.control.store.begin() as connection:
            instances.destroy(connection, uuid)
        seen = self.hypervisor(uuid)
        for sent in SENT:
            before = len(self.host.operations(uuid))
            if sent.verb == "delete":  # below: it ends all this
                continue
            said = self.send(uuid, sent)
            row = self.ended(uuid, before)
            self.assertEqual((sent.verb, rows.UNDONE, "guest_not_found"),
                             (row.verb, row.state, row.error["code"]))
            self.assert_speaks(row.error)
            self.assertIn(said, (None, "InstanceNotFound"))
            self.assertEqual(seen, self.hypervisor(uuid), sent.method)
        for method, (args, _) in LOOKING.items():
            self.said(method, self.kept, args)
        self.assertEqual(seen, self.hypervisor(uuid))
        before = len(self.host.operations(uuid))
        self.send(uuid, next(sent for sent in SENT if sent.verb == "delete"))
        self.assertEqual(rows.DONE, self.ended(uuid, before).state)
        self.assertIsNone(self.host.power(uuid))
        self.assert_clean()

    def test_a_guest_on_another_host(self):
        uuid = self.boot("elsewhere")
        seen = self.hypervisor(uuid)
        for sent in SENT:
            before = len(self.host.operations(uuid))
            self.cloud.change(uuid, vm_state=sent.vm_state, task_state=sent.task, host="host2")
            self.send(uuid, sent)
            row = self.ended(uuid, before)
            self.assertEqual((sent.verb, rows.UNDONE, "stale"),
                             (row.verb, row.state, row.error["code"]))
            self.assertIn("belongs to host host2", row.error["what"])
            self.assert_speaks(row.error)
            self.assertEqual(seen, self.hypervisor(uuid), sent.method)
            now = self.cloud.show(uuid)
            self.assertEqual((sent.vm_state, sent.task, None),
                             (now["vm_state"], now["task_state"], now["fault"]), sent.method)
        self.cloud.change(uuid, vm_state=states.ACTIVE, task_state=None, host="host1")
        self.assert_clean()

    def test_a_guest_that_is_busy(self):
        uuid = self.boot("busy")
        self.host.hook = gate = Gate("pause")
        self.control.server_pause(uuid)
        gate.wait()
        seen, before = self.hypervisor(uuid), self.host.operations(uuid)
        self.kept = self.cloud.instance(uuid)
        for sent in SENT:
            if sent.verb == "delete":  # it preempts what goes on: tests/regressions
                continue
            said, told = self.send(uuid, sent), "is busy with pause"
            if METHODS[sent.method].kind == "call":
                self.assertEqual("InstanceInvalidState", said, sent.method)
            wait_until(lambda sent=sent, told=told: any(
                line.startswith(f"{sent.method}: Guest {uuid} {told}")
                for line in self.log.output.splitlines()))
        self.assertEqual([row.id for row in before],
                         [row.id for row in self.host.operations(uuid)])
        self.assertEqual(seen, self.hypervisor(uuid))
        gate.open = True
        self.cloud.wait_for(uuid, states.PAUSED)
        self.assert_clean()

    def test_a_domain_that_was_removed(self):
        for number, sent in enumerate(SENT):
            uuid = self.boot(f"removed-{number}")
            before = len(self.host.operations(uuid))
            self.cloud.change(uuid, vm_state=sent.vm_state, task_state=sent.task)
            self.remove(uuid)
            self.send(uuid, sent)
            row, now = self.ended(uuid, before), self.cloud.show(uuid)
            code = row.error["code"] if row.error else None
            self.assertEqual((sent.method, *sent.removed), (
                sent.method, row.state, code, now["vm_state"], self.host.power(uuid)))
            self.assertIsNone(now["task_state"])
            if row.error:
                self.assert_speaks(row.error)
            if sent.verb != "delete":
                self.control.server_delete(uuid)
                wait_until(lambda uuid=uuid: self.cloud.show(uuid)["status"] == "DELETED")
        self.assert_clean()

    def test_what_is_looked_at_of_a_domain_that_was_removed(self):
        uuid = self.boot("unseen")
        self.remove(uuid)
        for method, (args, name) in LOOKING.items():
            said = self.said(method, self.cloud.instance(uuid), args)
            self.assertEqual((method, name), (method, said))
        self.control.server_delete(uuid)
        wait_until(lambda: not self.control.server_list(name="unseen"))
