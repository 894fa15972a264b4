"""This host as a provider of Placement, against a local server that keeps what it is told."""

import types

import fixtures
import testtools

from compute.errors import NeedsOperator, Refused, Retryable
from compute.resources.providing import Provider, tell
from compute.services import chosen
from tests import fakes
from tests.functional.cloud_support import HTTP, Cloud
from tests.modes import once

NODE = "cccccccc-0000-4000-8000-000000000001"
GUEST, GONE, OTHER = (f"aaaaaaaa-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
MOVE = "bbbbbbbb-0000-4000-8000-000000000001"
ROOT = f"/resource_providers/{NODE}"
SMALL = {"vcpus": 1, "memory_mb": 64, "disk_gb": 1}
HELD = {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}


class Kept:
    """A placement service with one provider."""

    def __init__(self, cloud):
        self.provider, self.generation = None, 0
        self.inventories, self.traits, self.allocations = {}, ["CUSTOM_GOLD"], {}
        for method, path, answer in (
            ("GET", ROOT, self.show), ("POST", "/resource_providers", self.make),
            ("GET", f"{ROOT}/(inventories|traits)", self.read),
            ("PUT", f"{ROOT}/(inventories|traits)", self.write),
            ("GET", f"{ROOT}/allocations", lambda asked: (200, {"allocations": {
                consumer: {"resources": held[NODE]}
                for consumer, held in self.allocations.items() if NODE in held}})),
            ("GET", "/allocations/.*", self.record), ("POST", "/allocations", self.swap),
            ("PUT", "/allocations/.*", self.claim), ("DELETE", "/allocations/.*", self.free),
        ):
            cloud.when(method, path, answer)

    def show(self, asked):
        return (200, self.provider) if self.provider else (404, {"errors": [{"detail": "none"}]})

    def make(self, asked):
        self.provider = asked.body
        return 200, asked.body

    def read(self, asked):
        what = asked.path.rpartition("/")[2]
        return 200, {"resource_provider_generation": self.generation, what: getattr(self, what)}

    def write(self, asked):
        if asked.body["resource_provider_generation"] != self.generation:
            return 409, {"errors": [{"detail": "resource provider generation conflict"}]}
        what = asked.path.rpartition("/")[2]
        setattr(self, what, asked.body[what])
        self.generation += 1
        return 200, asked.body

    def record(self, asked):
        consumer = asked.path.rpartition("/")[2]
        held = self.allocations.get(consumer, {})
        owner = {"project_id": "p", "user_id": "u", "consumer_generation": 7} if held else {}
        return 200, {**owner, "allocations": {
            node: {"resources": resources} for node, resources in held.items()}}

    def swap(self, asked):
        for consumer, one in asked.body.items():
            known = 7 if consumer in self.allocations else None
            if one["consumer_generation"] != known:
                return 409, {"errors": [{"detail": "consumer generation conflict"}]}
        for consumer, one in asked.body.items():
            self.allocations.pop(consumer, None)
            if one["allocations"]:
                self.allocations[consumer] = {
                    node: held["resources"] for node, held in one["allocations"].items()}
        return (204,)

    def claim(self, asked):
        consumer = asked.path.rpartition("/")[2]
        if consumer in self.allocations and asked.body["consumer_generation"] != 7:
            return 409, {"errors": [{"detail": "consumer generation conflict"}]}
        self.allocations[consumer] = {node: one["resources"] for node, one in
                                      asked.body["allocations"].items()}
        return (204,)

    def free(self, asked):
        return (204,) if self.allocations.pop(asked.path.rpartition("/")[2], None) else (404, {})


@once(HTTP)
class PlacementTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch("compute.services.rest.PAUSE", 0.01))
        self.cloud = self.useFixture(Cloud())
        self.kept = Kept(self.cloud)
        world = fakes.world(self.useFixture(fixtures.TempDir()).path, vcpus=4, memory_mb=1024,
                            disk_gb=10)
        self.addCleanup(world.journal.engine.dispose)
        self.journal, self.tracker = world.journal, world.inventory
        self.tracker.conf = types.SimpleNamespace(**{
            **vars(world.conf), "reserved_host_cpus": 1, "reserved_host_memory_mb": 512,
            "reserved_host_disk_mb": 2048, "cpu_allocation_ratio": 2.0,
            "ram_allocation_ratio": 1.5, "disk_allocation_ratio": 1.0})
        self.tracker.record["nova_object.data"]["uuid"] = NODE
        self.deleted = set()
        self.records, self.moves, self.arriving = {}, [], []
        conductor = types.SimpleNamespace(
            deleted_among=lambda context, uuids: self.deleted & set(uuids),
            instance=lambda context, uuid: {"nova_object.data": self.records[uuid]},
            migrations=self.migrations, moves_here=lambda context, node: self.arriving,
            elsewhere=lambda context, uuids: {
                uuid: None for uuid in uuids if self.records[uuid]["host"] != self.tracker.host})
        self.port = self.make()
        self.provider = Provider(self.tracker, conductor, self.port)

    def make(self, **values):
        return chosen.providers(self.cloud.configured(
            "placement", **{"inventory_service": "placement", **values}))

    def claim(self, guest, kind="resources", **fields):
        self.journal.claim(kind, guest, guest, "op", SMALL)
        self.records[guest] = {"host": self.tracker.host, "task_state": None, "project_id": "p",
                               "user_id": "u", **fields}

    def migrations(self, context, filters):
        def fits(move):
            return all(move.get(key) in (value if isinstance(value, list) else [value])
                       for key, value in filters.items())

        return [{"nova_object.data": move} for move in self.moves if fits(move)]

    def move(self, status, kind="live-migration", guest=GUEST):
        """A migration from here, which holds this host's room; the guest holds the other's."""
        self.moves = [{"uuid": MOVE, "instance_uuid": guest, "status": status,
                       "migration_type": kind, "source_compute": self.tracker.host}]
        self.kept.allocations = {MOVE: {NODE: HELD}, guest: {"other": HELD}}

    def writes(self):
        return [(a.method, a.path) for a in self.cloud.asked if a.method != "GET"]

    def test_provider_inventory_and_traits(self):
        self.provider.report({})
        self.assertEqual({"uuid": NODE, "name": self.tracker.facts().hypervisor_hostname},
                         self.kept.provider)
        common = {"min_unit": 1, "step_size": 1}
        self.assertEqual({
            "VCPU": {"total": 4, "reserved": 1, "max_unit": 4, "allocation_ratio": 2.0, **common},
            "MEMORY_MB": {"total": 1024, "reserved": 512, "max_unit": 1024,
                          "allocation_ratio": 1.5, **common},
            "DISK_GB": {"total": 10, "reserved": 2, "max_unit": 10, "allocation_ratio": 1.0,
                        **common}}, self.kept.inventories)
        self.assertEqual(sorted({*self.tracker.facts().traits, "CUSTOM_GOLD"}), self.kept.traits)
        self.assertEqual("placement 1.28", self.cloud.asked[0].header("OpenStack-API-Version"))

    def test_what_is_known_is_not_told_again(self):
        self.provider.report({})
        self.cloud.asked.clear()
        self.provider.report({})
        self.assertEqual([f"{ROOT}/allocations"], [asked.path for asked in self.cloud.asked])
        self.provider.report({}, all_of_it=True)
        self.assertEqual([], self.writes())

    def test_what_placement_forgot_is_told_again(self):
        self.provider.report({})
        self.kept.provider, self.kept.inventories = None, {"CUSTOM_LICENCE": {"total": 2}}
        self.provider.report({}, all_of_it=True)
        self.assertEqual({"CUSTOM_LICENCE", "VCPU", "MEMORY_MB", "DISK_GB"},
                         set(self.kept.inventories))

    def test_a_host_that_takes_no_guests_says_so(self):
        self.journal.set_fact("enabled", False)
        self.provider.report({})
        self.assertIn("COMPUTE_STATUS_DISABLED", self.kept.traits)
        self.journal.set_fact("enabled", True)
        self.provider.report({})
        self.assertNotIn("COMPUTE_STATUS_DISABLED", self.kept.traits)

    def test_another_writer_in_between(self):
        def interfere(asked):
            self.kept.generation += 1
            return self.kept.write(asked)

        self.cloud.when("PUT", f"{ROOT}/inventories", interfere, self.kept.write)
        self.provider.report({})
        self.assertIn("VCPU", self.kept.inventories)
        self.cloud.when("PUT", f"{ROOT}/traits", interfere)
        self.journal.set_fact("enabled", False)
        error = self.assertRaises(Retryable, self.provider.report, {})
        self.assertEqual("service_unreachable", error.code)

    def test_less_than_guests_hold_is_refused(self):
        self.cloud.when("PUT", f"{ROOT}/inventories",
                        (409, {"errors": [{"detail": "Inventory for VCPU in use."}]}))
        error = self.assertRaises(Refused, self.provider.report, {})
        self.assertIn("VCPU in use", error.what)

    def test_a_name_that_another_node_has(self):
        self.cloud.when("POST", "/resource_providers",
                        (409, {"errors": [{"detail": "Conflicting resource provider name."}]}))
        error = self.assertRaises(NeedsOperator, self.provider.report, {})
        self.assertEqual("provider_conflict", error.code)

    def test_deleted_guests_hold_nothing(self):
        self.claim(GUEST)
        self.kept.allocations = {uuid: {NODE: HELD} for uuid in (GUEST, GONE, OTHER)}
        self.deleted = {GUEST, GONE}  # what is still here is freed when it is not any more
        self.provider.report({})
        self.assertEqual({GUEST, OTHER}, set(self.kept.allocations))
        self.port.release(GONE)

    def test_guests_that_hold_nothing_are_given_what_they_take(self):
        self.claim(GUEST)
        self.provider.report({})
        self.assertEqual({}, self.kept.allocations)
        self.provider.report({}, all_of_it=True)
        self.assertEqual({GUEST: {NODE: HELD}}, self.kept.allocations)
        [put] = self.cloud.of("PUT", "/allocations/.*")
        self.assertEqual(("p", "u", None), tuple(
            put.body[name] for name in ("project_id", "user_id", "consumer_generation")))

    def test_guests_on_their_way_are_left_alone(self):
        self.claim(GUEST, task_state="migrating")
        self.claim(GONE, host="elsewhere")
        self.claim(OTHER)
        self.kept.allocations = {OTHER: {"another node": HELD}}
        self.provider.report({}, all_of_it=True)
        self.journal.claim("resources-move", GUEST, GUEST, "op", SMALL)
        self.records[GUEST]["task_state"] = None
        self.provider.report({}, all_of_it=True)
        self.assertEqual({OTHER: {"another node": HELD}}, self.kept.allocations)

    def test_a_move_that_went_well_frees_the_source(self):
        for status in ("running", "finished"):
            self.move(status)
            self.provider.report({})
            self.assertEqual({MOVE, GUEST}, set(self.kept.allocations), status)
        for status in ("completed", "confirmed"):
            self.move(status)
            self.provider.report({})
            self.assertEqual({GUEST: {"other": HELD}}, self.kept.allocations)

    def test_a_guest_that_stayed_holds_its_room_itself_again(self):
        self.claim(GUEST)
        for status in ("error", "cancelled", "reverted"):
            self.move(status)
            self.provider.report({})
            self.assertEqual({GUEST: {NODE: HELD}}, self.kept.allocations, status)
        self.move("error")
        self.records[GUEST]["host"] = "elsewhere"
        self.provider.report({})
        self.assertEqual({MOVE: {NODE: HELD}, GUEST: {"other": HELD}}, self.kept.allocations)

    def test_what_was_evacuated_leaves_this_host(self):
        self.move("done", "evacuation")
        self.records[GUEST] = {"host": "elsewhere"}
        self.kept.allocations = {GUEST: {NODE: HELD, "other": HELD}}
        self.arriving = [{"nova_object.data": {"instance_uuid": GUEST}}]
        self.provider.report({})
        self.assertEqual({NODE, "other"}, set(self.kept.allocations[GUEST]))
        self.arriving = []
        self.provider.report({})
        self.assertEqual({GUEST: {"other": HELD}}, self.kept.allocations)

    def test_a_claim_of_somebody_else_comes_first(self):
        self.kept.allocations = {GUEST: {NODE: HELD}}
        self.assertFalse(self.port.claim(GUEST, NODE, HELD, "p", "u"))

    def test_while_it_is_away_the_agent_goes_on(self):
        port = self.make(placement__http_retries=0)
        self.provider.providers = port
        self.cloud.when("GET", ROOT, (503, {}))
        tell(self.provider, {})
        self.assertEqual(1, len(self.cloud.asked))
        self.kept.provider = {"uuid": NODE}
        self.cloud.when("GET", ROOT, self.kept.show)
        tell(self.provider, {})
        self.assertIn("VCPU", self.kept.inventories)
        self.assertRaises(Retryable, port.set_inventory, "nobody", {}, ())

    def test_a_provider_that_somebody_deleted_is_made_again(self):
        self.provider.report({})
        self.kept.provider = None
        self.cloud.when("GET", f"{ROOT}/allocations", (404, {"errors": []}),
                        (200, {"allocations": {}}))
        self.assertRaises(Retryable, self.provider.report, {})
        self.provider.report({})
        self.assertEqual(NODE, self.kept.provider["uuid"])

    def test_without_placement_nothing_is_asked(self):
        provider = Provider(self.tracker, None, self.make(inventory_service="none"))
        provider.report({}, all_of_it=True)
        self.assertEqual([], self.cloud.asked)
