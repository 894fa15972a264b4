"""The control plane's tables and queries, on SQLite and on PostgreSQL."""

import threading

import fixtures
import sqlalchemy as sa
import testtools
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from db.control import catalog, instances, networks, records, services, tables
from db.control.store import Store
from db.engine import current, migrate, newest, open_engine
from tests.functional.control_support import PostgreSQLDatabase

C = tables.instances.c


class DatabaseTest(testtools.TestCase):
    """On SQLite; the subclass below runs the same on PostgreSQL."""

    def setUp(self):
        super().setUp()
        self.engine = open_engine(self.url())
        self.addCleanup(self.engine.dispose)
        migrate(self.engine, "control")
        self.store = Store(self.engine, green=False)

    def url(self):
        return f"sqlite:///{self.useFixture(fixtures.TempDir()).path}/control.sqlite"

    def instance(self, number=1, **values):
        with self.store.begin() as connection:
            return instances.create(connection, {
                "uuid": f"{number:036d}", "display_name": f"s{number}", "vm_state": "building",
                "task_state": "scheduling", "memory_mb": 64, "vcpus": 1, "root_gb": 1,
                "ephemeral_gb": 0, **values,
            })

    def test_the_migration_makes_the_tables_that_the_queries_know(self):
        self.assertEqual(newest("control"), current(self.engine, "control"))
        migrate(self.engine, "control")  # again: nothing to do
        with self.engine.connect() as connection:
            opts = {"version_table": "alembic_control"}
            context = MigrationContext.configure(connection, opts=opts)
            self.assertEqual([], compare_metadata(context, tables.METADATA))

    def test_times_and_json_come_back_as_on_the_wire(self):
        row = self.instance(metadata={"a": "b"}, launched_at="2026-01-02T03:04:05Z")
        self.assertEqual("2026-01-02T03:04:05Z", row["launched_at"])
        self.assertRegex(row["created_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(({"a": "b"}, False, None),
                         (row["metadata"], row["deleted"], row["flavor"]))

    def test_compare_and_swap_lets_one_of_many_win(self):
        self.instance(task_state=None)
        won, lost = [], []

        def swap(name):
            with self.store.begin() as connection:
                row = instances.save(connection, f"{1:036d}", {"task_state": name},
                                     instances.matches(C.task_state, [None]))
            (lost if row is None else won).append(name)

        threads = [threading.Thread(target=swap, args=(f"t{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((1, 7), (len(won), len(lost)))
        with self.store.begin() as connection:
            self.assertEqual(won[0], instances.get(connection, f"{1:036d}")["task_state"])

    def test_a_deleted_instance_is_not_saved_any_more(self):
        uuid = self.instance()["uuid"]
        with self.store.begin() as connection:
            self.assertTrue(instances.destroy(connection, uuid)["deleted"])
            self.assertIsNone(instances.destroy(connection, uuid))
            self.assertIsNone(instances.save(connection, uuid, {"host": "h"}))
            self.assertIsNone(instances.get(connection, uuid))
            self.assertIsNotNone(instances.get(connection, uuid, deleted=True))

    def test_one_request_and_name_make_one_instance(self):
        self.instance(request_id="req-1", display_name="a")
        self.instance(2, request_id="req-1", display_name="b")
        self.instance(3, display_name="a")
        self.assertRaises(sa.exc.IntegrityError, self.instance, 4, request_id="req-1",
                          display_name="a")

    def test_filters(self):
        self.instance(1, host="h")
        self.instance(2, host="h", task_state=None)
        self.instance(3)
        with self.store.begin() as connection:
            instances.destroy(connection, f"{1:036d}")

            def found(**filters):
                rows = instances.query(connection, *instances.by_filters(filters))
                return [int(row["uuid"]) for row in rows]

            self.assertEqual([1, 2], found(host="h"))
            self.assertEqual([2], found(host="h", deleted=False))
            self.assertEqual([1], found(deleted=True, soft_deleted=False))
            self.assertEqual([1, 2, 3], found(task_state=["scheduling", None]))
            self.assertEqual([2], found(task_state=None))
            self.assertEqual([], found(uuid=[]))
            self.assertEqual([3], found(name="s3"))
            self.assertRaises(KeyError, instances.by_filters, {"key_data": "x"})

    def test_allocations_count_the_living_by_node(self):
        self.instance(1, allocation_node="n1", memory_mb=100, vcpus=2, root_gb=5)
        self.instance(2, allocation_node="n1", memory_mb=10, vm_state="active", task_state=None)
        self.instance(3, allocation_node="n1")
        self.instance(4)
        with self.store.begin() as connection:
            instances.destroy(connection, f"{3:036d}")
            self.assertEqual(
                {"n1": {"vcpus": 3, "memory_mb": 110, "disk_gb": 6, "servers": 2, "busy": 1}},
                instances.allocations(connection),
            )

    def test_heartbeats_and_versions(self):
        with self.store.begin() as connection:
            self.assertEqual(0, services.minimum_version(connection, "nova-compute"))
            values = {"host": "h", "binary": "nova-compute", "version": 74}
            row = services.create(connection, values)
            self.assertIsNone(row["last_seen_up"])
            services.create(connection, {"host": "i", "binary": "nova-compute", "version": 72,
                                         "forced_down": True})
            self.assertEqual(74, services.minimum_version(connection, "nova-compute"))
            row = services.save(connection, row["id"], {"report_count": 1})
            self.assertIsNotNone(row["last_seen_up"])
            self.assertIsNone(services.save(connection, 999, {"report_count": 1}))

    def test_events_end_and_mark_their_action(self):
        uuid = self.instance()["uuid"]
        with self.store.begin() as connection:
            action = records.start_action(connection, "create", uuid, "req-1")
            self.assertIsNone(records.finish_event(connection, action["id"], "e", "Success", None,
                                                   None))
            records.start_event(connection, action["id"], "e", "h")
            records.finish_event(connection, action["id"], "e", "Error", "tb", "why")
            found = records.find_action(connection, uuid, "req-1")
            self.assertEqual("Error", found["message"])
            self.assertIsNotNone(found["finish_time"])
            self.assertEqual("why", records.events(connection, [action["id"]])[0]["details"])

    def test_addresses_are_unique_and_networks_with_ports_stay(self):
        with self.store.begin() as connection:
            network = networks.create(connection, {
                "name": "n", "kind": "network", "source": "n", "cidr": "192.0.2.0/24",
                "status": "active"})
        port = {"network_uuid": network["uuid"], "instance_uuid": "i", "position": 0,
                "mac": "fa:16:3e:00:00:01", "address": "192.0.2.5"}
        with self.store.begin() as connection:
            networks.create_port(connection, port)

        def second():
            with self.store.begin() as connection:
                networks.create_port(connection, {**port, "position": 1, "mac": "x"})

        def remove():
            with self.store.begin() as connection:
                networks.delete(connection, network["uuid"])

        self.assertRaises(sa.exc.IntegrityError, second)
        self.assertRaises(sa.exc.IntegrityError, remove)
        with self.store.begin() as connection:
            self.assertEqual(1, networks.release_ports(connection, "i"))
        remove()

    def test_catalog(self):
        with self.store.begin() as connection:
            values = {"name": "f", "flavorid": "1", "vcpus": 1, "memory_mb": 1, "root_gb": 0,
                      "ephemeral_gb": 0, "swap": 0, "extra_specs": {"a": "b"}}
            made = catalog.create_flavor(connection, values)
            self.assertEqual(made, catalog.find_flavors(connection, "1")[0])
            self.assertEqual(made, catalog.find_flavors(connection, "f")[0])
            catalog.delete_flavor(connection, made["id"])
            self.assertEqual([], catalog.list_flavors(connection))


class PostgreSQLTest(DatabaseTest):
    def url(self):
        return self.useFixture(PostgreSQLDatabase()).url
