"""What moves claim, how a drain chooses, and which hosts a move may take."""

from dataclasses import replace

import fixtures
import testtools
from alembic import command
from alembic.config import Config

from compute.errors import Refused
from compute.model import states
from control.cli import watch
from control.moves import drain
from control.moves.base import COLD, EVACUATION, LIVE
from control.scheduler import Scheduler, filters
from control.scheduler.filters import Request
from db.control import instances, moves, networks, records, services, tables
from db.control.store import Store
from db.engine import MIGRATIONS, migrate, open_engine
from tests.unit import test_control_scheduler as scheduler


def move(**changes):
    return {
        "source_node": "a", "dest_node": "b", "allocation_node": "a", "status": "migrating",
        "old_vcpus": 1, "old_memory_mb": 512, "old_disk_gb": 1, "new_vcpus": 2,
        "new_memory_mb": 1024, "new_disk_gb": 3, **changes,
    }


class ClaimsTest(testtools.TestCase):
    def test_both_hosts_until_the_end(self):
        self.assertEqual({
            "a": {"vcpus": 1, "memory_mb": 512, "disk_gb": 1, "servers": 1, "busy": 1},
            "b": {"vcpus": 2, "memory_mb": 1024, "disk_gb": 3, "servers": 0, "busy": 1},
        }, moves.claims([move()]))
        found = moves.claims([move(status="finished", allocation_node="b")])
        self.assertEqual((0, 1, 0, 0), (found["a"]["servers"], found["b"]["servers"],
                                        found["a"]["busy"], found["b"]["busy"]))

    def test_one_host_keeps_both_disks_but_one_memory(self):
        self.assertEqual(
            {"a": {"vcpus": 2, "memory_mb": 1024, "disk_gb": 4, "servers": 1, "busy": 1}},
            moves.claims([move(dest_node="a")]))

    def test_a_move_without_a_host_claims_one_side(self):
        self.assertEqual(["a"], list(moves.claims([move(dest_node=None)])))


class ChooseTest(testtools.TestCase):
    """The way of a server out of a host."""

    def test_by_state(self):
        for kind, vm_state, task, wanted in (
            ("drain", states.ACTIVE, None, LIVE), ("drain", states.PAUSED, None, LIVE),
            ("drain", states.STOPPED, None, COLD), ("drain", states.SUSPENDED, None, None),
            ("drain", states.RESIZED, None, None), ("drain", states.ERROR, None, None),
            ("drain", states.ACTIVE, "rebooting", None), ("drain", states.BUILDING, None, None),
            ("evacuate", states.ACTIVE, "rebooting", EVACUATION),
            ("evacuate", states.ERROR, None, EVACUATION),
            ("evacuate", states.SUSPENDED, None, None),
        ):
            found, why = drain.choose(kind, {"vm_state": vm_state, "task_state": task}, [])
            self.assertEqual(wanted, found, (kind, vm_state, task))
            self.assertEqual(wanted is None, bool(why))

    def test_time_alone_helps_only_those_that_are_busy(self):
        for vm_state, task, waits in ((states.ACTIVE, "x", True), (states.ERROR, None, False)):
            _, why = drain.choose("drain", {"vm_state": vm_state, "task_state": task}, [])
            self.assertEqual(waits, why.startswith("waits"), why)

    def tried(self, *ended, vm_state=states.ACTIVE):
        rows = [{"kind": kind, "status": status, "message": message, "migration_id": 7}
                for kind, status, message in ended]
        return drain.choose("drain", {"vm_state": vm_state, "task_state": None}, rows)

    def test_what_was_tried_decides(self):
        broke, refused = (LIVE, "failed", None), (LIVE, "error", "no host can")
        self.assertEqual(LIVE, self.tried(broke)[0])
        self.assertIn("2 times", self.tried(broke, broke)[1])
        self.assertEqual(COLD, self.tried(refused)[0])
        self.assertIn("no host can", self.tried(refused, vm_state=states.PAUSED)[1])
        self.assertIn("2 times", self.tried(refused, (COLD, "error", "x"), (COLD, "error", "y"))[1])
        self.assertIn("somebody stopped", self.tried((LIVE, "cancelled", None))[1])


class HostsTest(scheduler.SchedulerTest):
    def test_the_room_that_a_server_gives_up_counts(self):
        host = self.host(claim={"memory_mb": 4096, "vcpus": 8})
        wanted = Request(vcpus=1, memory_mb=1024, disk_gb=0)
        self.assertEqual({"memory", "vCPUs"}, set(filters.reasons(host, wanted)))
        mine = replace(wanted, here=(host.uuid, 1, 1024))
        self.assertEqual({}, filters.reasons(host, mine))
        self.assertIn("memory", filters.reasons(host, replace(mine, here=("other", 1, 1024))))
        excluded = replace(mine, excluded={host.host: "it is being emptied"})
        self.assertEqual({"move": "it is being emptied"}, filters.reasons(host, excluded))

    def test_a_host_asked_for_by_name(self):
        full = self.host({"host": "h2"}, {"host": "h2", "hypervisor_hostname": "n2",
                                          "uuid": "u2"}, {"memory_mb": 4096})
        found = [self.host(), full]
        self.useFixture(fixtures.MonkeyPatch("control.scheduler.hosts.load",
                                             lambda *args: found))
        wanted = Request(vcpus=1, memory_mb=512, disk_gb=0)
        choose = Scheduler(self.conf).named
        for name in ("h1", "n1", "u1"):
            choice = choose(None, wanted, name)
            self.assertEqual(("h1", ()), (choice.host.host, choice.alternates))
        for name, code in (("h2", "no_valid_host"), ("nix", "host_not_found")):
            error = self.assertRaises(Refused, choose, None, wanted, name)
            self.assertEqual(code, error.code)


class RevisionTest(testtools.TestCase):
    def test_a_database_of_the_first_release_keeps_what_it_has(self):
        path = self.useFixture(fixtures.TempDir()).path
        engine = open_engine(f"sqlite:///{path}/control.sqlite")
        self.addCleanup(engine.dispose)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("version_locations", str(MIGRATIONS / "control"))
        with engine.begin() as connection:
            config.attributes.update(connection=connection, chain="control")
            command.upgrade(config, "0001")
            connection.exec_driver_sql(
                "INSERT INTO services (uuid, host, binary, report_count, version, disabled, "
                "forced_down, deleted, created_at) VALUES ('u', 'h', 'nova-compute', 1, 74, 0, 0, "
                "0, '2026-01-01 00:00:00')")
            connection.exec_driver_sql(
                "INSERT INTO networks (uuid, name, kind, source, cidr, dhcp, status, created_at) "
                "VALUES ('n', 'net', 'network', 'net', '192.0.2.0/24', 1, 'active', "
                "'2026-01-01 00:00:00')")
            connection.exec_driver_sql(
                "INSERT INTO ports (uuid, network_uuid, instance_uuid, position, mac, address, "
                "created_at) VALUES ('p', 'n', 'i', 0, 'fa:16:3e:00:00:01', '192.0.2.5', "
                "'2026-01-01 00:00:00')")
        migrate(engine, "control")
        with Store(engine, green=False).begin() as connection:
            self.assertIsNone(services.get(connection, "h")["fenced_at"])
            self.assertEqual([], moves.opened(connection))
            [port] = networks.instance_ports(connection, ["i"])
            self.assertEqual(("p", 0, "192.0.2.5", None, False), tuple(
                port[name] for name in ("uuid", "position", "address", "name", "kept")))


class AdvanceTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        path = self.useFixture(fixtures.TempDir()).path
        engine = open_engine(f"sqlite:///{path}/control.sqlite")
        self.addCleanup(engine.dispose)
        migrate(engine, "control")
        self.store = Store(engine, green=False)

    def test_only_from_what_was_expected(self):
        with self.store.begin() as connection:
            made = records.create_migration(connection, {"status": "accepted"})["id"]
            self.assertFalse(moves.advance(connection, made, "error", ("running",)))
            self.assertTrue(moves.advance(connection, made, "error", ("queued", "accepted")))
            self.assertFalse(moves.advance(connection, made, "running", ("accepted",)))
            [row] = records.query_migrations(connection, tables.migrations.c.id == made)
            self.assertEqual("error", row["status"])

    def test_an_instance_with_a_move_claims_what_the_move_says(self):
        with self.store.begin() as connection:
            row = instances.create(connection, {
                "uuid": "i", "display_name": "one", "vm_state": "active", "memory_mb": 512,
                "vcpus": 1, "root_gb": 1, "ephemeral_gb": 0, "allocation_node": "a",
                "server_group": "g", "host": "h"})
            made = records.create_migration(connection, {
                "status": "running", "instance_uuid": "i", "migration_type": LIVE})
            moves.create(connection, {"migration_id": made["id"], "instance_uuid": "i", **{
                name: value for name, value in move().items()
                if name in tables.moves.c}})
            self.assertEqual({"a": 512, "b": 1024}, {
                node: claim["memory_mb"]
                for node, claim in instances.allocations(connection).items()})
            self.assertEqual([("i", "a"), ("i", "b")], instances.group_nodes(connection, "g"))
            records.end_migrations(connection, row["uuid"])
            self.assertEqual({"a": 512}, {
                node: claim["memory_mb"]
                for node, claim in instances.allocations(connection).items()})
            self.assertEqual([("i", "a")], instances.group_nodes(connection, "g"))


class DescribedTest(testtools.TestCase):
    def test_what_is_not_known_is_left_out(self):
        plain = {"type": "resize", "status": "migrating", "dest_compute": None, "ended": False}
        self.assertEqual("resize: migrating", watch.described(plain))
        self.assertEqual((0, 0), watch.amounts(plain))
        self.assertTrue(watch.over({**plain, "status": "finished"}))
