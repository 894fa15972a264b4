"""The conductor's object methods: as a stock one answers, and its refusals."""

import copy
import uuid

from compute.rpc import primitives
from compute.rpc.primitives import data
from compute.rpc.serializer import Context
from db.control import instances, records
from tests.contract import wire as captures
from tests.functional.control_support import ControlTest, nova_errors

TIMES = ("created_at", "updated_at", "deleted_at", "last_seen_up")


class ConductorTest(ControlTest):
    def setUp(self):
        super().setUp()
        self.host = self.agent("lab1", hypervisor_hostname="vm")

    def error(self, name, function, *args, **kwargs):
        error = self.assertRaises(nova_errors(), function, *args, **kwargs)
        self.assertEqual((name, "nova.exception"), (type(error).__name__, type(error).__module__))
        return error

    def instance(self, **values):
        """A row, and the object as the conductor gives it."""
        made = str(uuid.uuid4())
        with self.control.store.begin() as connection:
            instances.create(connection, {
                "uuid": made, "display_name": "x", "vm_state": "active", "memory_mb": 1,
                "vcpus": 1, "root_gb": 0, "ephemeral_gb": 0, **values,
            })
        return self.host.ask("Instance.get_by_uuid", made)


class SaveTest(ConductorTest):
    def test_expected_task_state(self):
        one = self.instance(task_state="powering-off")
        for expected, fits in (
            ("powering-off", True), (["powering-off", None], True), (None, True),
            ("powering-on", False), ([None], False), ([], False),
        ):
            if fits:
                self.host.save(one, None, expected, progress=1)
            else:
                error = self.error("UnexpectedTaskStateError", self.host.save, one, None, expected,
                                   progress=2)
                self.assertIn("Actual: {'task_state': 'powering-off'}", str(error))
        now = self.host.ask("Instance.get_by_uuid", data(one)["uuid"])
        self.assertEqual(1, data(now)["progress"])

    def test_none_must_be_none(self):
        one = self.instance(task_state=None)
        self.host.save(one, None, [None], task_state="networking")
        self.error("UnexpectedTaskStateError", self.host.save, one, None, [None], progress=2)

    def test_a_delete_is_never_trampled(self):
        one = self.instance(task_state="deleting")
        self.error("UnexpectedDeletingTaskStateError", self.host.save, one, None, ["spawning"],
                   task_state=None)

    def test_expected_vm_state(self):
        one = primitives.patch(self.instance(), {"progress": 1})
        self.host.action(one, "save", expected_vm_state=["active", "paused"])
        self.error("UnexpectedVMStateError", self.host.action, one, "save",
                   expected_vm_state="stopped")

    def test_a_save_of_nothing_still_compares(self):
        one = primitives.clean(self.instance(task_state="deleting"))
        self.error("UnexpectedDeletingTaskStateError", self.host.action, one, "save",
                   expected_task_state="spawning")
        self.assertEqual(
            {"obj_what_changed": []},
            self.host.action(one, "save", expected_task_state="deleting")[0])

    def test_a_save_tells_what_the_caller_has_otherwise(self):
        stale = self.instance(task_state=None)
        self.host.save(stale, task_state="deleting", host="h")
        updates, result = self.host.action(primitives.patch(stale, {"progress": 7}), "save")
        self.assertIsNone(result)
        self.assertEqual(("deleting", "h", []), (updates["task_state"], updates["host"],
                                                 updates["obj_what_changed"]))
        self.assertNotIn("progress", updates)

    def test_metadata_is_replaced_whole(self):
        one = self.instance(system_metadata={"a": "1", "b": "2"}, metadata={"m": "1"})
        self.host.save(one, system_metadata={"b": "3"}, metadata={})
        now = self.host.ask("Instance.get_by_uuid", data(one)["uuid"],
                            expected_attrs=["system_metadata", "metadata"])
        self.assertEqual(({"b": "3"}, {}), (data(now)["system_metadata"], data(now)["metadata"]))

    def test_node_needs_compute_id(self):
        self.error("ObjectActionError", self.host.save, self.instance(), node="n")

    def test_giving_up_the_host_gives_up_the_claim(self):
        one = self.instance(allocation_node="n1", host="lab1")
        self.host.save(one, host=None, node=None, compute_id=None)
        with self.control.store.begin() as connection:
            self.assertEqual({}, instances.allocations(connection))

    def test_a_nested_info_cache_is_saved_too(self):
        one = self.instance()
        full = self.host.ask("Instance.get_by_uuid", data(one)["uuid"],
                             expected_attrs=["info_cache"])
        cache = primitives.patch(data(full)["info_cache"], {"network_info": '[{"id": "p"}]'})
        self.host.action(primitives.patch(full, {"info_cache": cache}), "save")
        found = self.host.ask("InstanceInfoCache.get_by_instance_uuid", data(one)["uuid"])
        self.assertEqual('[{"id": "p"}]', data(found)["network_info"])

    def test_what_is_gone_is_not_found(self):
        one = self.instance()
        self.host.action(one, "destroy")
        for method in ("save", "refresh", "destroy"):
            changed = primitives.patch(one, {"progress": 1})
            self.error("InstanceNotFound", self.host.action, changed, method)
        self.error("InstanceNotFound", self.host.ask, "Instance.get_by_uuid", data(one)["uuid"])
        context = Context.from_dict({"read_deleted": "yes", "is_admin": True})
        found = self.host.ask("Instance.get_by_uuid", data(one)["uuid"], context=context)
        self.assertTrue(data(found)["deleted"])

    def test_refresh_gives_the_optional_parts_that_the_caller_has(self):
        one = self.instance(flavor={"f": 1})
        full = self.host.ask("Instance.get_by_uuid", data(one)["uuid"],
                             expected_attrs=["flavor", "info_cache"])
        self.host.save(one, flavor={"f": 2}, host="h")
        updates, _ = self.host.action(full, "refresh")
        self.assertEqual({"flavor", "host", "updated_at", "obj_what_changed"}, set(updates))
        updates, _ = self.host.action(one, "refresh")
        self.assertNotIn("flavor", updates)


class RefusalsTest(ConductorTest):
    def test_unknown_objects_and_methods(self):
        self.error("UnsupportedObjectError", self.host.ask, "Nonsense.get")
        self.error("ObjectActionError", self.host.ask, "Instance.explode")
        self.error("ObjectActionError", self.host.action, self.instance(), "explode")
        self.error("ObjectActionError", self.host.action, {"no": "object"}, "save")

    def test_missing_and_surplus_arguments(self):
        self.error("ObjectActionError", self.host.ask, "Instance.get_by_uuid")
        self.error("ObjectActionError", self.host.ask, "Service.get_minimum_version", "a", "b", "c")
        self.error("Invalid", self.host.ask, "InstanceList.get_by_filters", {"key_data": 1})

    def test_a_service_older_than_the_rest_may_not_join(self):
        old = primitives.make("Service", {"host": "h", "binary": "nova-compute", "version": 73,
                                          "topic": "compute", "report_count": 0})
        self.error("ServiceTooOld", self.host.action, old, "create")
        self.error("ServiceTooOld", self.host.save, self.host.service, version=70)

    def test_a_second_service_or_node_is_refused(self):
        again = self.agent("lab1", register=False)
        self.error("ServiceBinaryExists", again.register)
        node = primitives.make("ComputeNode", {**data(self.host.node), "uuid": str(uuid.uuid4())})
        self.error("DuplicateRecord", self.host.action, node, "create")

    def test_hosts_that_are_not_there(self):
        self.error("ComputeHostNotFound", self.host.ask, "Service.get_by_compute_host", "x")
        self.error("ComputeHostNotFound", self.host.ask, "ComputeNodeList.get_all_by_host", "x")
        self.error("ComputeHostNotFound", self.host.ask, "ComputeNode.get_by_uuid", "x")
        self.assertIsNone(self.host.ask("Service.get_by_host_and_binary", "x", "nova-compute"))
        self.error("ServiceNotFound", self.host.ask, "Service.get_by_uuid", "x")

    def test_events_need_an_action_but_a_services_own_work_takes_the_newest(self):
        one = data(self.instance())["uuid"]
        args = ("InstanceActionEvent.event_start", one, "compute_stop_instance")
        self.error("InstanceActionNotFound", self.host.ask, *args)
        with self.control.store.begin() as connection:
            records.start_action(connection, "stop", one, "req-1")
        tenant = Context.from_dict({"request_id": "req-2", "project_id": "p"})
        self.error("InstanceActionNotFound", self.host.ask, *args, context=tenant)
        found = self.host.ask(*args, want_result=True, host="lab1")
        self.assertEqual("lab1", data(found)["host"])

    def test_backport(self):
        one = self.instance()
        lowered = self.host._client.call(
            Context.from_dict({}), "object_backport_versions", objinst=one,
            object_versions={"Instance": "2.7"},
        )
        self.assertEqual("2.7", lowered[primitives.VERSION])

    def test_ping(self):
        base = self.host._client.prepare(namespace="baseapi", version="1.0")
        self.assertEqual({"service": "conductor", "arg": "x"}, base.call({}, "ping", arg="x"))


class RecordsTest(ConductorTest):
    def test_block_devices(self):
        one = data(self.instance())["uuid"]
        device = primitives.make("BlockDeviceMapping", {
            "instance_uuid": one, "source_type": "volume", "volume_id": "v1",
            "device_name": "/dev/vdb"})
        updates, _ = self.host.action(device, "update_or_create")
        again, _ = self.host.action(device, "update_or_create")
        self.assertEqual(updates["id"], again["id"])
        found = self.host.ask("BlockDeviceMapping.get_by_volume_and_instance", "v1", one)
        self.host.save(found, attachment_id="a1")
        for way in (("get_by_id", updates["id"]), ("get_by_volume", "v1"),
                    ("get_by_volume", "v1", one)):
            found = self.host.ask(f"BlockDeviceMapping.{way[0]}", *way[1:])
            self.assertEqual("a1", data(found)["attachment_id"], way)
        other = {**device, primitives.DATA: {**data(device), "instance_uuid": "other"}}
        self.host.action(other, "create")
        self.error("BDMNotFound", self.host.ask, "BlockDeviceMapping.get_by_volume", "v1")
        self.host.action(found, "destroy")
        self.error("BDMNotFound", self.host.ask, "BlockDeviceMapping.get_by_id", updates["id"])
        self.error("VolumeBDMNotFound", self.host.ask,
                   "BlockDeviceMapping.get_by_volume_and_instance", "v1", one)

    def test_migrations(self):
        one = data(self.instance())["uuid"]
        migration = primitives.make("InstanceFault", {})
        migration = {**migration, primitives.NAME: "Migration", primitives.VERSION: "1.8"}
        migration = primitives.patch(migration, {
            "instance_uuid": one, "source_compute": "lab1", "source_node": "vm",
            "dest_compute": "lab2", "status": "running", "migration_type": "live-migration",
        })
        updates, _ = self.host.action(migration, "create")
        saved = primitives.clean(migration, updates)
        in_progress = "MigrationList.get_in_progress_by_host_and_node"
        self.assertEqual(1, len(primitives.objects(self.host.ask(in_progress, "lab1", "vm"))))
        self.host.save(saved, status="error")
        self.assertEqual([], primitives.objects(self.host.ask(in_progress, "lab1", "vm")))
        both = self.host.ask("MigrationList.get_in_progress_and_error", "lab1", "vm")
        self.assertEqual(1, len(primitives.objects(both)))
        found = self.host.ask("MigrationList.get_by_filters", {"status": ["error"], "host": "lab2"})
        self.assertEqual(1, len(primitives.objects(found)))
        self.error("MigrationNotFound", self.host.ask, "Migration.get_by_id", 999)


class ReplayTest(ConductorTest):
    """What a stock agent asked a stock conductor, asked ours: the answers have the same form."""

    def test_build_without_network(self):
        self.replay("build_no_network", "build_and_run_instance")

    def test_build(self):
        self.replay("build_and_run_instance", "build_and_run_instance")

    def test_stop(self):
        self.replay("stop", "stop_instance")

    def test_start(self):
        self.replay("start", "start_instance")

    def test_reboot(self):
        self.replay("reboot_soft", "reboot_instance")

    def test_terminate(self):
        self.replay("terminate_no_network", "terminate_instance")

    def test_terminate_with_network(self):
        self.replay("terminate_instance", "terminate_instance")

    def test_registration(self):
        for message in captures.load("service_first_registration").calls():
            if message.what != "ping":
                self.ask_as(message, Context.from_dict({}))

    def replay(self, name, method):
        capture = captures.load(name)
        cast = capture.cast(method)
        context = Context.from_dict(cast.context)
        self.restore(cast.args, context, capture)
        for message in capture.calls():
            if not self.foreign(message, context):
                self.ask_as(message, context)

    def foreign(self, message, context):
        """Calls of something else that went on while this was captured."""
        if "detach_interface" in str(message.args.get("args")):
            return True
        return message.what.startswith(("ComputeNode", "Service.save"))

    def restore(self, args, context, capture):
        """The rows that there were when the message was sent."""
        fields = dict(data(args["instance"]))
        known = {c.name for c in instances.instances.c} - {"id", *TIMES}
        values = {k: v for k, v in fields.items() if k in known}
        for message in capture.calls(what="VirtCPUModel.get_by_instance_uuid"):
            values["vcpu_model"] = message.result
        for message in capture.calls(what="Instance.get_by_uuid"):
            if data(message.result).get("flavor"):
                values["flavor"] = data(message.result)["flavor"]
        with self.control.store.begin() as connection:
            instances.create(connection, values)
            records.start_action(connection, "x", fields["uuid"], context.request_id)
            devices = args.get("bdms") or args.get("block_device_mapping")
            for device in primitives.objects(devices) or [wire_device(capture)]:
                values = {k: v for k, v in data(device).items() if k not in TIMES}
                records.create_device(connection, values)
            if capture.calls(what="VirtualInterfaceList.get_by_instance_uuid"):
                for interface in captured_interfaces(capture):
                    records.create_interface(connection, interface)

    def ask_as(self, message, context):
        args = copy.deepcopy(message.args)
        if "objinst" in args:
            identify(args["objinst"], self.host)
        try:
            got = self.host._client.call(context, message.method, **args)
        except nova_errors() as error:
            self.assertIsNotNone(message.failure, f"{message.what}: {error}")
            self.assertEqual(message.failure["class"], type(error).__name__)
            return
        self.assertIsNone(message.failure, message.what)
        if message.method == "object_action":
            self.same_updates(message, got)
        else:
            self.same_form(message.what, message.result, got)

    def same_updates(self, message, got):
        updates, result = got
        wanted, wanted_result = message.result
        self.assertEqual(wanted_result, result)
        objects = {k for k, v in wanted.items() if isinstance(v, dict | list)}
        missing = set(wanted) - set(updates) - objects - {"updated_at"}
        self.assertEqual(set(), missing, message.what)

    def same_form(self, what, wanted, got):
        self.assertEqual(type(wanted), type(got), what)
        if primitives.is_object(wanted):
            self.assertEqual([wanted[key] for key in (primitives.NAME, primitives.VERSION)],
                             [got[key] for key in (primitives.NAME, primitives.VERSION)])
            self.assertEqual(set(data(wanted)), set(data(got)), what)
            for name, value in data(wanted).items():
                if primitives.is_object(value):
                    self.same_form(f"{what} {name}", value, data(got)[name])
            pairs = zip(primitives.objects(wanted), primitives.objects(got), strict=True)
            for one, other in pairs:
                self.same_form(f"{what} member", one, other)


def captured_interfaces(capture):
    """The virtual interfaces that there were before the capture began."""
    if capture.calls(what="VirtualInterface.create"):
        return []
    message = capture.calls(what="VirtualInterfaceList.get_by_instance_uuid")[0]
    fields = ("address", "instance_uuid", "uuid", "tag")
    found = map(data, primitives.objects(message.result))
    return [{name: one[name] for name in fields} for one in found]


def wire_device(capture):
    """The root disk as the capture has it."""
    for message in capture.calls(what="BlockDeviceMappingList.get_by_instance_uuid"):
        return primitives.objects(message.result)[0]
    return primitives.make("BlockDeviceMapping", {"source_type": "image"})


def identify(objinst, host):
    """Put our row's id into a captured object."""
    fields = objinst[primitives.DATA]
    if objinst[primitives.NAME] == "Service" and "id" in fields:
        fields["id"] = data(host.service)["id"]
    if objinst[primitives.NAME] == "ComputeNode" and "id" in fields:
        fields["id"] = data(host.node)["id"]
