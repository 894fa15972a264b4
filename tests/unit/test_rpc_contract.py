"""Errors across the wire, objects as plain dicts, and the table of RPC methods."""

from __future__ import annotations

import fixtures
import oslo_messaging as messaging
import testtools
from oslo_messaging.rpc.client import RemoteError

from compute.errors import KINDS, Failed, MagnetarError, Refused, Retryable, Unknown, from_dict
from compute.manager import Manager
from compute.model import states
from compute.rpc import exceptions, primitives
from compute.rpc.contract import METHODS, TYPES, VERSION
from compute.rpc.exceptions import FROM_NOVA, TO_NOVA, from_remote, nova_exception, to_nova
from compute.rpc.serializer import Context, ContextSerializer, admin_context
from compute.rpc.server import ComputeEndpoint, Handlers
from db.journal import rows
from tests import fakes
from tests.waiting import PATIENCE, wait_until

# What this version carries out; everything else of 6.5 is answered as not implemented.
CARRIED_OUT = {
    "build_and_run_instance", "terminate_instance", "start_instance", "stop_instance",
    "reboot_instance", "get_console_output", "external_instance_event", "set_host_enabled",
    "get_host_uptime", "pause_instance", "unpause_instance", "suspend_instance",
    "resume_instance", "prep_resize", "resize_instance", "finish_resize", "confirm_resize",
    "revert_resize", "finish_revert_resize", "check_can_live_migrate_destination",
    "check_can_live_migrate_source", "live_migration", "live_migration_abort",
    "live_migration_force_complete", "pre_live_migration",
    "post_live_migration_at_destination", "rollback_live_migration_at_destination",
    "drop_move_claim_at_destination", "check_instance_shared_storage", "rebuild_instance",
    "trigger_crash_dump", "rescue_instance", "unrescue_instance", "set_admin_password",
    "quiesce_instance", "unquiesce_instance", "get_diagnostics", "get_instance_diagnostics",
    "snapshot_instance", "backup_instance", "shelve_instance", "shelve_offload_instance",
    "unshelve_instance",
    "soft_delete_instance", "restore_instance", "attach_interface", "detach_interface",
    "get_vnc_console", "get_spice_console", "get_serial_console", "validate_console_port",
    "reserve_block_device_name", "attach_volume", "detach_volume", "swap_volume",
    "remove_volume_connection",
    "cache_images",
}
EXPECTED_TO_NOVA = {
    "no_room": "ComputeResourcesUnavailable", "guest_not_found": "InstanceNotFound",
    "busy": "InstanceInvalidState", "stale": "UnexpectedTaskStateError",
    "deleting": "UnexpectedDeletingTaskStateError", "bad_request": "Invalid",
    "image_not_found": "ImageNotFound", "image_unacceptable": "ImageUnacceptable",
    "flavor_unacceptable": "Invalid", "flavor_disk_too_small": "FlavorDiskSmallerThanImage",
    "flavor_memory_too_small": "FlavorMemoryTooSmall", "network_missing": "NetworkNotFound",
    "host_not_found": "ComputeHostNotFound", "service_not_found": "ServiceNotFound",
    "service_too_old": "ServiceTooOld", "disk_full": "InsufficientFreeDiskSpace",
    "no_valid_host": "NoValidHost", "migration_not_found": "MigrationNotFound",
    "disk_shrink": "CannotResizeDisk", "same_host": "UnableToMigrateToSelf",
    "cannot_move": "MigrationPreCheckError", "incoming_busy": "IncomingMigrationsLimit",
    "no_migration": "InvalidMigrationState", "timeout": "MigrationTimeout",
    "lease_over": "MigrationError", "migration_failed": "MigrationError",
    "agent_missing": "QemuGuestAgentNotEnabled",
    "agent_unresponsive": "InstanceAgentNotEnabled",
    "password_refused": "InstancePasswordSetFailed", "not_running": "InstanceInvalidState",
    "address_in_use": "FixedIpAlreadyInUse", "bad_address": "InvalidInput",
    "no_more_addresses": "NoMoreFixedIps", "port_missing": "PortNotFound",
    "port_in_use": "PortInUse",
    "attach_failed": "InterfaceAttachFailed", "console_unavailable": "ConsoleTypeUnavailable",
    "console_type_unknown": "ConsoleTypeInvalid", "console_not_ready": "InstanceNotReady",
    "volume_not_found": "VolumeNotFound", "volume_attached": "InvalidVolume",
    "device_in_use": "DevicePathInUse", "too_many_disks": "TooManyDiskDevices",
    "mapping_not_found": "VolumeBDMNotFound",
}
EXPECTED_FROM_NOVA = {
    "UnexpectedTaskStateError": (Refused, "stale"), "UnexpectedVMStateError": (Refused, "stale"),
    "InstanceUpdateConflict": (Refused, "stale"),
    "UnknownInstanceUpdateConflict": (Unknown, "conflict"),
    "UnexpectedDeletingTaskStateError": (Refused, "deleting"),
    "InstanceNotFound": (Refused, "guest_not_found"),
    "ComputeHostNotFound": (Refused, "host_not_found"),
    "ComputeHostNotCreated": (Retryable, "conductor_error"),
    "HostBinaryNotFound": (Refused, "service_not_found"),
    "ServiceNotFound": (Refused, "service_not_found"),
    "ServiceTooOld": (Refused, "service_too_old"),
    "InstanceActionNotFound": (Refused, "action_not_found"),
    "InstanceActionEventNotFound": (Refused, "action_not_found"),
    "InstanceInfoCacheNotFound": (Refused, "guest_not_found"),
    "NoValidHost": (Refused, "no_valid_host"), "NetworkNotFound": (Refused, "network_missing"),
    "MigrationNotFound": (Refused, "migration_not_found"),
    "FixedIpAlreadyInUse": (Refused, "address_in_use"),
    "NoMoreFixedIps": (Refused, "no_more_addresses"), "PortNotFound": (Refused, "port_missing"),
    "PortInUse": (Refused, "port_in_use"),
    "InterfaceAttachFailed": (Failed, "attach_failed"),
    "VolumeNotFound": (Refused, "volume_not_found"),
    "InvalidVolume": (Refused, "volume_attached"), "DevicePathInUse": (Refused, "device_in_use"),
    "TooManyDiskDevices": (Refused, "too_many_disks"),
    "VolumeBDMNotFound": (Refused, "mapping_not_found"),
    "BDMNotFound": (Refused, "mapping_not_found"),
    "InstanceInvalidState": (Refused, "busy"),
    "ConsoleTypeUnavailable": (Refused, "console_unavailable"),
    "ConsoleTypeInvalid": (Refused, "console_type_unknown"),
    "InstanceNotReady": (Refused, "console_not_ready"),
    "MigrationPreCheckError": (Refused, "cannot_move"),
    "IncomingMigrationsLimit": (Retryable, "incoming_busy"),
    "MigrationTimeout": (Unknown, "timeout"),
    "ComputeResourcesUnavailable": (Refused, "no_room"),
    "QemuGuestAgentNotEnabled": (Refused, "agent_missing"),
    "InstanceAgentNotEnabled": (Retryable, "agent_unresponsive"),
    "InstancePasswordSetFailed": (Failed, "password_refused"),
    "DBConnectionError": (Unknown, "conductor_database"),
    "DBDeadlock": (Retryable, "conductor_database"),
    "OperationalError": (Unknown, "conductor_database"),
    "DBError": (Unknown, "conductor_database"),
}


class ErrorTest(testtools.TestCase):
    def test_every_code_becomes_the_class_that_nova_expects(self):
        self.assertEqual(EXPECTED_TO_NOVA, TO_NOVA)
        for code, name in EXPECTED_TO_NOVA.items():
            error = to_nova(Refused("It happened.", now="It is so.", next="Do it.", code=code))
            self.assertEqual(("nova.exception", name),
                             (type(error).__module__, type(error).__name__))
            self.assertEqual("It happened. It is so. Do it.", str(error))
        self.assertEqual("NovaException", type(to_nova(Failed("x", code="other"))).__name__)

    def test_every_class_of_the_conductors_becomes_a_kind(self):
        self.assertEqual(EXPECTED_FROM_NOVA, FROM_NOVA)
        for name, (kind, code) in EXPECTED_FROM_NOVA.items():
            for error in (RemoteError(name, "the text", []), nova_exception(name)("the text")):
                found = from_remote(error, "save it")
                self.assertEqual((kind, code), (type(found), found.code))
                self.assertIn("the text", str(found))
                self.assertIn("save it", str(found))

    def test_what_we_send_we_understand_again(self):
        for code, name in TO_NOVA.items():
            if name in FROM_NOVA:
                found = from_remote(to_nova(Refused("x", code=code)), "do it")
                self.assertEqual(name, TO_NOVA[found.code])

    def test_a_timeout_is_unknown_and_a_broker_that_is_away_retryable(self):
        timeout = from_remote(messaging.MessagingTimeout("x"), "save it")
        self.assertEqual((Unknown, "rpc_timeout"), (type(timeout), timeout.code))
        for error in (messaging.MessageDeliveryFailure("x"), ConnectionRefusedError()):
            found = from_remote(error, "save it")
            self.assertEqual((Retryable, "broker_unreachable"), (type(found), found.code))

    def test_other_errors_are_failures_and_our_own_stay(self):
        found = from_remote(RemoteError("KeyError", "x", []), "save it")
        self.assertEqual((Failed, "remote_error"), (type(found), found.code))
        own = Refused("x")
        self.assertIs(own, from_remote(own, "save it"))

    def test_every_kind_travels_as_plain_data(self):
        for kind, cls in KINDS.items():
            error = cls("What.", now="Now.", next="Next.", code="word")
            again = from_dict(error.to_dict())
            self.assertEqual((kind, cls, "What. Now. Next.", "word"),
                             (again.kind, type(again), str(again), again.code))
        self.assertIsInstance(from_dict({}), Failed)
        self.assertEqual("refused", Refused("x").code)

    def test_the_made_up_classes_are_made_once(self):
        self.assertIs(nova_exception("A"), nova_exception("A"))
        self.assertIn("nova.exception.A", exceptions.nova_exception("A").__doc__)


class PrimitiveTest(testtools.TestCase):
    def test_a_patch_names_what_it_changed_and_leaves_the_original(self):
        prim = primitives.make("Instance", {"host": None, "future": [1]}, changes=())
        patched = primitives.patch(prim, {"host": "h", "node": "n"})
        self.assertEqual(({"host": "h", "node": "n", "future": [1]}, ["host", "node"]),
                         (primitives.data(patched), primitives.changes(patched)))
        self.assertEqual(({"host": None, "future": [1]}, []),
                         (primitives.data(prim), primitives.changes(prim)))
        again = primitives.patch(patched, {"host": "i"})
        self.assertEqual(["host", "node"], primitives.changes(again))

    def test_after_a_save_nothing_is_changed(self):
        patched = primitives.patch(primitives.make("Instance", {"host": None}), {"host": "h"})
        saved = primitives.clean(patched, {"updated_at": "now", "obj_what_changed": []})
        self.assertEqual({"host": "h", "updated_at": "now"}, primitives.data(saved))
        self.assertNotIn("nova_object.changes", saved)

    def test_lists_and_nothing(self):
        members = [primitives.make("Instance", {"uuid": "u"})]
        self.assertEqual(members, primitives.objects(primitives.make_list("InstanceList", members)))
        self.assertEqual(([], {}), (primitives.objects(None), primitives.data(None)))
        self.assertFalse(primitives.is_object({"nova_object.name": "Instance"}))
        self.assertRegex(primitives.now(), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


class ContextTest(testtools.TestCase):
    def test_keys_that_we_do_not_know_are_kept(self):
        sent = {"request_id": "req-1", "user_id": "u", "project_id": "p", "is_admin": True,
                "roles": ["member"], "future": {"a": 1}, "read_deleted": "yes",
                "service_catalog": [], "auth_token": "t"}
        serializer = ContextSerializer()
        again = serializer.serialize_context(serializer.deserialize_context(sent))
        for key, value in sent.items():
            self.assertEqual(value, again[key], key)

    def test_a_request_without_an_id_gets_one(self):
        made = Context.from_dict({"user_id": "u"}).to_dict()
        self.assertTrue(made["request_id"].startswith("req-"))
        self.assertEqual("req-2", admin_context("req-2").to_dict()["request_id"])
        serializer = ContextSerializer()
        self.assertEqual({"a": 1}, serializer.serialize_context({"a": 1}))
        entity = object()
        self.assertIs(entity, serializer.serialize_entity({}, entity))
        self.assertIs(entity, serializer.deserialize_entity({}, entity))


class TableTest(testtools.TestCase):
    """Every method of 6.5 at the agent's endpoint."""

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.world = fakes.world(self.useFixture(fixtures.TempDir()).path)
        self.addCleanup(self.world.journal.engine.dispose)
        self.manager = Manager(self.world, workers=2)
        self.addCleanup(self.manager.park, PATIENCE)
        self.endpoint = ComputeEndpoint(Handlers(self.manager))

    def call(self, method: str, **args):
        """Call it as oslo.messaging would; an expected error comes as itself."""
        try:
            return getattr(self.endpoint, method)({"request_id": f"req-{method}"}, **args)
        except messaging.ExpectedException as error:
            raise error.exc_info[1] from error

    def guest(self, **fields):
        prim = fakes.instance(vm_state=states.ACTIVE, task_state="something", host=fakes.HOST,
                              **fields)
        self.world.conductor.add(prim)
        return prim

    def args(self, method):
        """Plausible arguments of a method."""
        return {name: self.guest() if name == "instance" else None for name in method.args}

    def test_all_methods_are_there(self):
        self.assertEqual("6.5", VERSION)
        self.assertEqual(VERSION, self.endpoint.target.version)
        for name in METHODS:
            self.assertTrue(callable(getattr(self.endpoint, name)), name)
        own = {name for name in METHODS if hasattr(Handlers(self.manager), name)}
        self.assertEqual(CARRIED_OUT, own)
        names = {name for m in METHODS.values() for name in (*m.args, *m.optional)}
        self.assertEqual([], sorted(set(TYPES) - names))

    def test_each_cast_that_is_not_carried_out_clears_its_task_and_tells_the_tenant(self):
        casts = [m for m in METHODS.values()
                 if m.kind == "cast" and m.name not in CARRIED_OUT]
        self.assertGreater(len(casts), 5)
        for method in casts:
            with self.subTest(method.name):
                self.unsupported(method)

    def unsupported(self, method):
        args = self.args(method)
        uuid = args["instance"]["nova_object.data"]["uuid"]
        error = self.assertRaises(NotImplementedError, self.call, method.name, **args)
        self.assertIn(method.name, str(error))
        wait_until(lambda: not self.world.journal.find(guest=uuid, active=True))
        [row] = self.world.journal.find(guest=uuid)
        self.assertEqual((rows.UNDONE, "not_implemented"), (row.state, row.error["code"]))
        fields = self.world.conductor.fields(uuid)
        self.assertEqual((None, states.ACTIVE), (fields["task_state"], fields["vm_state"]))
        state = self.world.conductor.read()
        self.assertIn([uuid, f"compute_{method.name}", "Error"], state["events"])
        self.assertTrue([text for u, text in state["faults"] if u == uuid and method.name in text])

    def test_each_call_that_is_not_carried_out_is_answered_so_and_nothing_is_begun(self):
        calls = [m for m in METHODS.values()
                 if m.kind == "call" and m.name not in CARRIED_OUT]
        self.assertGreater(len(calls), 5)
        for method in calls:
            with self.subTest(method.name):
                args = self.args(method)
                error = self.assertRaises(NotImplementedError, self.call, method.name, **args)
                self.assertIn(method.name, str(error))
        self.assertEqual([], self.world.journal.find())

    def test_every_method_refuses_what_it_does_not_know(self):
        for method in METHODS.values():
            error = self.assertRaises(Exception, self.call, method.name, **self.args(method),  # noqa: B017
                                      surprise=1)
            self.assertEqual("Invalid", type(error).__name__)
            for name in method.args:
                args = self.args(method)
                del args[name]
                error = self.assertRaises(Exception, self.call, method.name, **args)  # noqa: B017
                self.assertIn(f"lacks {name}", str(error))

    def test_an_internal_error_reaches_the_log(self):
        self.patch(self.manager, "accept", lambda *a, **k: 1 / 0)
        self.assertRaises(ZeroDivisionError, self.call, "start_instance", instance=self.guest())
        self.assertIn("start_instance met an error of a kind it should not", self.log.output)
        self.assertIn("Traceback", self.log.output)

    def test_requests_without_an_id_are_not_taken_for_each_other(self):
        seen = []
        self.patch(self.manager, "accept", lambda verb, guest, request, *rest: seen.append(request))
        for _ in range(20):
            self.endpoint.start_instance({}, instance=self.guest())
        self.assertEqual(20, len(set(seen)))

    def test_our_errors_are_told_as_novas(self):
        def refuse(*args, **kwargs):
            raise Refused("Guest is busy with stop.", code="busy")

        self.patch(self.manager, "accept", refuse)
        error = self.assertRaises(Exception, self.call, "start_instance",  # noqa: B017
                                  instance=self.guest())
        self.assertEqual("InstanceInvalidState", type(error).__name__)
        self.assertNotIsInstance(error, MagnetarError)
