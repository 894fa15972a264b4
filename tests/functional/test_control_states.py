"""Every verb of the control plane in every vm_state and task_state: had where Nova's API has it,
and refused clearly, with nothing changed, everywhere else.

No agent answers: what would be sent is written down instead.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import testtools
from oslo_config import cfg

from compute.errors import Refused
from compute.model import states
from control import volume_states, wire
from control.api import ControlPlane
from db.control import moves, records, services
from db.control.types import utcnow
from tests.functional.control_support import FAR, ControlTest
from tests.modes import DATABASE, once
from tests.waiting import wait_until

VM_STATES = (
    "building", "active", "paused", "suspended", "stopped", "rescued", "resized", "soft-delete",
    "deleted", "error", "shelved", "shelved_offloaded",
)
TASKS = (
    None, "scheduling", "networking", "block_device_mapping", "spawning", "deleting",
    "powering-off", "powering-on", "rebooting", "reboot_pending", "reboot_started",
    "rebooting_hard", "reboot_pending_hard", "reboot_started_hard", "pausing", "unpausing",
    "suspending", "resuming", "soft-deleting", "restoring", "resize_prep", "resize_migrating",
    "resize_migrated", "resize_finish", "resize_reverting", "resize_confirming", "migrating",
    "rescuing", "unrescuing", "updating_password", "rebuilding", "rebuild_block_device_mapping",
    "rebuild_spawning", "image_snapshot_pending", "image_snapshot", "image_backup",
    "image_pending_upload", "image_uploading", "shelving", "shelving_image_pending_upload",
    "shelving_image_uploading", "shelving_offloading", "unshelving",
)
IDLE = (None,)
IMAGED = ("active", "stopped", "paused", "suspended")
MENDED = ("active", "stopped", "error")
REBOOTED = (None, "rebooting", "reboot_pending", "reboot_started", "rebooting_hard",
            "reboot_pending_hard", "reboot_started_hard", "resuming", "unpausing", "pausing",
            "suspending")
VOLUMES_COME = ("active", "paused", "stopped", "resized", "soft-delete", "shelved")
PLACED = tuple(state for state in VM_STATES if state != "shelved_offloaded")  # on a host


@dataclass(frozen=True)
class Verb:
    """How a verb is asked for, where it can be had, and what it sends to which task.

    ``given`` is what there is besides the server: ``moved``, a migration that waits to be
    confirmed; ``moving``, a live one that goes on; ``lost``, a host that is down and fenced;
    ``reclaims``, servers that can be restored; ``volumes``, one that is free and one in use.
    """

    ask: Callable[[Any], Any]
    vm_states: tuple[str, ...]
    tasks: tuple[str | None, ...] = IDLE
    sends: str = ""
    task: str | None = None
    given: str = ""
    codes: tuple[str, ...] = ("busy", "bad_state", "not_ready")


VERBS = {
    "start": Verb(lambda c: c.server_start("one"), ("stopped",),
                  sends="start_instance", task="powering-on"),
    "stop": Verb(lambda c: c.server_stop("one"), ("active", "error"),
                 sends="stop_instance", task="powering-off"),
    "reboot": Verb(lambda c: c.server_reboot("one"), ("active",),
                   sends="reboot_instance", task="rebooting"),
    "reboot --hard": Verb(lambda c: c.server_reboot("one", hard=True),
                          ("active", "stopped", "paused", "suspended", "error"), REBOOTED,
                          sends="reboot_instance", task="rebooting_hard"),
    "pause": Verb(lambda c: c.server_pause("one"), ("active",),
                  sends="pause_instance", task="pausing"),
    "unpause": Verb(lambda c: c.server_unpause("one"), ("paused",),
                    sends="unpause_instance", task="unpausing"),
    "suspend": Verb(lambda c: c.server_suspend("one"), ("active",),
                    sends="suspend_instance", task="suspending"),
    "resume": Verb(lambda c: c.server_resume("one"), ("suspended",),
                   sends="resume_instance", task="resuming"),
    "rescue": Verb(lambda c: c.server_rescue("one"), MENDED,
                   sends="rescue_instance", task="rescuing"),
    "unrescue": Verb(lambda c: c.server_unrescue("one"), ("rescued",),
                     sends="unrescue_instance", task="unrescuing"),
    "set password": Verb(lambda c: c.server_set_password("one", "secret"), ("active",),
                         sends="set_admin_password", task="updating_password"),
    "dump create": Verb(lambda c: c.server_dump("one"),
                        ("active", "paused", "rescued", "resized", "error"),
                        sends="trigger_crash_dump"),
    "image create": Verb(lambda c: c.server_image_create("one"), IMAGED,
                         sends="snapshot_instance", task="image_snapshot_pending"),
    "backup create": Verb(lambda c: c.server_backup_create("one"), IMAGED,
                          sends="backup_instance", task="image_backup"),
    "rebuild": Verb(lambda c: c.server_rebuild("one"), MENDED,
                    sends="rebuild_instance", task="rebuilding"),
    "shelve": Verb(lambda c: c.server_shelve("one"), IMAGED,
                   sends="shelve_instance", task="shelving"),
    "shelve --offload": Verb(lambda c: c.server_shelve_offload("one"), ("shelved",),
                             sends="shelve_offload_instance", task="shelving_offloading"),
    "unshelve": Verb(lambda c: c.server_unshelve("one"), ("shelved", "shelved_offloaded")),
    "restore": Verb(lambda c: c.server_restore("one"), ("soft-delete",),
                    sends="restore_instance", task="restoring"),
    "add network": Verb(lambda c: c.server_add_network("one", "net"),
                        ("active", "paused", "stopped"), sends="attach_interface"),
    "add port": Verb(lambda c: c.server_add_port("one", "spare"),
                     ("active", "paused", "stopped"), sends="attach_interface"),
    "remove network": Verb(lambda c: c.server_remove_network("one", "net"),
                           ("active", "paused", "stopped"), sends="detach_interface"),
    "remove port": Verb(lambda c: c.server_remove_port("one", c.server_ports("one")[0]["id"]),
                        ("active", "paused", "stopped"), sends="detach_interface"),
    "add volume": Verb(lambda c: c.server_add_volume("one", "free"), VOLUMES_COME,
                       sends="attach_volume", given="volumes"),
    "remove volume": Verb(lambda c: c.server_remove_volume("one", "used"), VOLUMES_COME,
                          sends="detach_volume", given="volumes"),
    "volume swap": Verb(lambda c: c.server_swap_volume("one", "used", "free"),
                        ("active", "paused", "resized"), sends="swap_volume", given="volumes"),
    "resize": Verb(lambda c: c.server_resize("one", "large"), ("active", "stopped"),
                   sends="prep_resize", task="resize_prep"),
    "migrate": Verb(lambda c: c.server_migrate("one"), ("active", "stopped"),
                    sends="prep_resize", task="resize_prep"),
    "migrate --live": Verb(lambda c: c.server_live_migrate("one"), ("active", "paused"),
                           task="migrating"),
    "resize confirm": Verb(lambda c: c.server_resize_confirm("one"), ("resized",),
                           sends="confirm_resize", given="moved"),
    "resize revert": Verb(lambda c: c.server_resize_revert("one"), ("resized",),
                          sends="revert_resize", task="resize_reverting", given="moved"),
    "migration abort": Verb(lambda c: c.server_migration_abort("one"), VM_STATES, ("migrating",),
                            sends="live_migration_abort", task="migrating", given="moving"),
    "migration force complete": Verb(lambda c: c.server_migration_force_complete("one"),
                                     ("active",), ("migrating",), given="moving",
                                     sends="live_migration_force_complete", task="migrating"),
    # In Nova whatever else goes on; one that goes on here with its own migration is refused.
    "evacuate": Verb(lambda c: c.server_evacuate("one"), MENDED, TASKS,
                     sends="rebuild_instance", task="rebuilding", given="lost"),
    "delete": Verb(lambda c: c.server_delete("one"), VM_STATES, TASKS),
    "delete --force": Verb(lambda c: c.server_delete("one", force=True), VM_STATES, TASKS,
                           given="reclaims"),
    # Nova's API lets console and log be asked for in every state, and the host decide.
    "console log show": Verb(lambda c: c.console_log("one"), PLACED, TASKS,
                             sends="get_console_output"),
    "console url show": Verb(lambda c: c.console_url("one"), PLACED, TASKS,
                             sends="get_vnc_console"),
    "diagnostics": Verb(lambda c: c.server_diagnostics("one"), PLACED, TASKS,
                        sends="get_instance_diagnostics"),
}
# Verbs of the API that ask nothing of a server's states: they create, or only look.
LOOKING = {f"server_{name}" for name in (
    "create", "list", "show", "actions", "explain", "event", "usage_list", "migration_list",
    "migration_show", "migration_progress", "plan_live_migrate", "migration_set", "volumes",
    "update_volume")}


class Files:
    """The control plane's database, looked at and written past the control plane."""

    def __init__(self, path: str):
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA synchronous=OFF")
        names = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND "
                                        "name NOT LIKE 'alembic%' AND name NOT LIKE 'sqlite%'")
        self.tables = [name for name, in names.fetchall()]
        counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in self.tables)
        self._print = f"SELECT *, {counts} FROM instances"  # noqa: S608
        self.kept = self.rows()

    def rows(self) -> dict[str, list[Any]]:
        """All there is."""
        return {name: self.connection.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608
                for name in self.tables}

    def print(self) -> tuple[Any, ...]:
        """What no refused request may change: the server's row, and how many of all others."""
        return self.connection.execute(self._print).fetchone()

    def task(self) -> str | None:
        """The server's task_state."""
        return self.connection.execute("SELECT task_state FROM instances").fetchone()[0]

    def put_back(self) -> None:
        """All as it was."""
        self.connection.execute("BEGIN")
        for name, rows in self.kept.items():
            self.connection.execute(f"DELETE FROM {name}")  # noqa: S608
            for row in rows:
                marks = ", ".join("?" * len(row))
                self.connection.execute(f"INSERT INTO {name} VALUES ({marks})", row)  # noqa: S608
        self.connection.execute("COMMIT")

    def set(self, **values: Any) -> None:
        """Give the only server these values."""
        names = ", ".join(f"{name} = ?" for name in values)
        self.connection.execute(f"UPDATE instances SET {names}", tuple(values.values()))  # noqa: S608


@once(DATABASE)
class StatesTest(ControlTest):
    """One server on two hosts, whose states are what a test says."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("host1", "host2"):
            self.agent(name, **({} if name == "host1" else {"memory_mb": 8191}))
        self.prepare()
        self.control.flavor_create("large", vcpus=2, ram=1024, disk=1)
        self.control.network_create("net", "192.0.2.0/24")
        self.control.port_create("spare", "net")
        self.server = self.active(networks=["net"])
        # no timer of the control plane may go on with what is asked for here
        self.sent: list[tuple[str, str]] = []
        for name in ("_cast", "_call"):
            self.patch(type(self.control.computes), name, self.note)
        self.patch(self.control.moves.live, "send", lambda move: None)
        self.host = self.server["host"]

    def note(self, client: Any, context: Any, host: str, method: str, args: Any) -> Any:
        """Instead of a broker and agents."""
        self.sent.append((host, method))
        if method == "reserve_block_device_name":
            return wire.from_row("BlockDeviceMapping", self.device(args["volume_id"]))
        if method == "attach_interface":
            return {"id": self.control.server_ports("one")[0]["id"]}
        return {"access_url": "", "host": "", "port": 1} if "console" in method else {}

    def prepare_for(self, given: str) -> Files:
        """What a verb needs besides a server."""
        {"moved": lambda: self.move("migration", "finished"),
         "moving": lambda: self.move("live-migration", "running"), "lost": self.lose,
         "reclaims": self.reclaim, "volumes": self.volumes, "": lambda: None}[given]()
        system = self.control._fields(self.server["id"])["system_metadata"]
        image = self.control.image_show("tiny")["id"]
        files = Files(os.path.join(self.dir, "control.sqlite"))
        self.addCleanup(files.connection.close)
        files.set(system_metadata=json.dumps({**system, "shelved_image_id": image}))
        files.kept = files.rows()
        return files

    def move(self, kind: str, status: str) -> None:
        uuid = self.server["id"]
        other = next(name for name in ("host1", "host2") if name != self.host)
        with self.control.store.begin() as connection:
            nodes = {row["host"]: row["uuid"] for row in services.nodes(connection)}
            record = records.create_migration(connection, {
                "instance_uuid": uuid, "source_compute": other, "source_node": other,
                "dest_compute": self.host, "dest_node": self.host, "status": status,
                "migration_type": kind, "user_id": "admin", "project_id": "admin"})
            sizes = {f"{side}_{name}": 1 for side in ("old", "new")
                     for name in ("vcpus", "memory_mb", "disk_gb")}
            moves.create(connection, {
                "migration_id": record["id"], "instance_uuid": uuid, "token": "t",
                "request_id": "req-m", "source_node": nodes[other], "sent_at": utcnow(),
                "dest_node": nodes[self.host], "args": {"zones": {}}, **sizes})

    def lose(self) -> None:
        past = utcnow() - timedelta(seconds=2 * FAR)
        with self.control.store.begin() as connection:
            row = services.get(connection, self.host)
            services.save(connection, row["id"], {"last_seen_up": past, "fenced_at": utcnow()})

    def volumes(self) -> None:
        free, used = (self.control.volume_create(name, size=1)["id"] for name in ("free", "used"))
        wait_until(lambda: {row["status"] for row in self.control.volume_list()} == {"available"})
        with self.control.store.begin() as connection:
            attachment = volume_states.reserve(connection, used, self.server["id"])["uuid"]
            volume_states.connect(connection, attachment, {"host": self.host}, "/dev/vdb")
            volume_states.complete(connection, attachment)
        self.device(used, attachment_id=attachment)

    def device(self, volume: str, **values: Any) -> dict[str, Any]:
        """A new row of ``block_device_mapping``."""
        with self.control.store.begin() as connection:
            return records.create_device(connection, {
                "instance_uuid": self.server["id"], "volume_id": volume, "source_type": "volume",
                "destination_type": "volume", "device_name": "/dev/vdb", **values})

    def reclaim(self) -> None:
        cfg.CONF.set_override("reclaim_instance_interval", 60)
        self.addCleanup(cfg.CONF.clear_override, "reclaim_instance_interval")

    @contextlib.contextmanager
    def says(self, *words: Any) -> Iterator[None]:
        """Tell which case it is that fails."""
        try:
            yield
        except Exception as error:
            error.add_note(f"verb, vm_state, task_state: {words}")
            raise

    def walk(self, verb: Verb) -> tuple[int, int]:
        """Ask for a verb in the whole product of states; how often it was had and refused."""
        files = self.prepare_for(verb.given)
        done = [0, 0]
        for vm_state in VM_STATES:
            placed = vm_state != "shelved_offloaded"
            launched = None if vm_state == "building" else "2026-01-01 00:00:00.000000"
            for task in TASKS:
                files.set(vm_state=vm_state, task_state=task, launched_at=launched,
                          host=self.host if placed else None, node=self.host if placed else None)
                legal = vm_state in verb.vm_states and task in verb.tasks
                done[not legal] += 1
                self.sent.clear()
                with self.says(vm_state, task):
                    if legal:
                        self.had(verb, files)
                    else:
                        self.refused(verb, files, vm_state, task)
        return done[0], done[1]

    def had(self, verb: Verb, files: Files) -> None:
        verb.ask(self.control)
        if verb.sends:
            self.assertIn(verb.sends, [method for _, method in self.sent])
        if verb.task:
            self.assertEqual(verb.task, files.task())
        files.put_back()

    def refused(self, verb: Verb, files: Files, vm_state: str, task: str | None) -> None:
        before, images = files.print(), os.listdir(f"{self.dir}/images")
        try:
            verb.ask(self.control)
        except Refused as refused:  # testtools' way costs as much as the rest, thousands of times
            error = refused
        else:
            self.fail("It was not refused.")
        self.assertIn(error.code, verb.codes, str(error))
        said = {"busy": str(task), "bad_state": vm_state}.get(error.code, "")
        clear = said in error.what and "one" in error.what and error.now and error.next
        self.assertTrue(clear, str(error))
        changed = before != files.print() or images != os.listdir(f"{self.dir}/images")
        self.assertFalse(changed or self.sent)


def _test(verb: Verb) -> Callable[[StatesTest], None]:
    def test(self: StatesTest) -> None:
        had, refused = self.walk(verb)
        self.assertEqual(len(VM_STATES) * len(TASKS), had + refused)
        self.assertEqual(sum(task in verb.tasks for task in TASKS) * len(verb.vm_states), had)

    return test


for _name, _verb in VERBS.items():
    setattr(StatesTest, f"test_{_name.replace(' --', '_').replace(' ', '_')}", _test(_verb))


class CompletenessTest(testtools.TestCase):
    def test_the_product_is_whole(self) -> None:
        words = {value for name, value in vars(states).items()
                 if name.isupper() and isinstance(value, str)}
        self.assertEqual(words, {*VM_STATES, *TASKS} - {None})

    def test_every_verb_is_walked_or_only_looks(self) -> None:
        source = inspect.getsource(sys.modules[__name__])
        verbs = {name for name in dir(ControlPlane)
                 if name.startswith(("server_", "console_"))}
        self.assertEqual(LOOKING, {name for name in verbs if f"c.{name}(" not in source})

