"""Filters, weighers, and the explanation when no host fits."""

import dataclasses
from datetime import datetime, timedelta

import testtools
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg

from compute import conf as compute_conf
from compute.errors import Refused
from control.scheduler import filters, hosts, no_valid_host, selection, weighers
from control.scheduler.filters import Request

NOW = datetime(2026, 1, 1, 12)
SERVICE = {
    "host": "h1", "disabled": False, "disabled_reason": None, "forced_down": False,
    "last_seen_up": "2026-01-01T11:59:30Z", "created_at": "2026-01-01T00:00:00Z",
    "availability_zone": None,
}
NODE = {
    "id": 1, "uuid": "u1", "host": "h1", "hypervisor_hostname": "n1", "vcpus": 4,
    "memory_mb": 4608, "local_gb": 100, "stats": {"failed_builds": "2"}, "cpu_info": "{}",
    "supported_hv_specs": [{"nova_object.data": {
        "arch": "x86_64", "hv_type": "kvm", "vm_mode": "hvm"}}],
    "cpu_allocation_ratio": 2.0, "ram_allocation_ratio": 1.0, "disk_allocation_ratio": 1.0,
    "hypervisor_type": "QEMU", "hypervisor_version": 7002000, "host_ip": "127.0.0.1",
}
SMALL = Request(vcpus=1, memory_mb=512, disk_gb=1)


class SchedulerTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        compute_conf.register(cfg.CONF)
        self.conf = cfg.CONF

    def host(self, service=None, node=None, claim=None):
        return hosts.build({**SERVICE, **(service or {})}, {**NODE, **(node or {})},
                           claim or {}, self.conf, NOW)


class FiltersTest(SchedulerTest):
    def reasons(self, request=SMALL, **rows):
        return filters.reasons(self.host(**rows), request)

    def test_a_good_host_has_nothing_against_it(self):
        self.assertEqual({}, self.reasons())

    def test_disabled(self):
        found = self.reasons(service={"disabled": True, "disabled_reason": "new disk"})
        self.assertEqual({"enabled": "it is disabled (new disk)"}, found)

    def test_a_host_is_down_after_service_down_time(self):
        self.assertEqual({}, self.reasons(service={"last_seen_up": "2026-01-01T11:59:00Z"}))
        found = self.reasons(service={"last_seen_up": "2026-01-01T11:58:59Z"})
        self.assertEqual({"up": "it has not been heard of for 61 seconds"}, found)

    def test_forced_down_is_down_though_it_beats(self):
        self.assertEqual({"up": "it was forced down"}, self.reasons(service={"forced_down": True}))

    def test_memory_counts_reserved_and_claimed(self):
        self.assertEqual({}, self.reasons(Request(1, 4096, 1)))
        found = self.reasons(Request(1, 4096, 1), claim={"memory_mb": 1})
        self.assertEqual(
            {"memory": "4096 MiB of memory wanted, 4095 of 4096 MiB free"}, found)

    def test_the_agents_own_reserved_amount_wins(self):
        stats = {"failed_builds": "0", "reserved_host_memory_mb": "1024"}
        self.assertEqual(3584, self.host(node={"stats": stats}).memory_limit)

    def test_vcpus_are_promised_as_often_as_the_ratio_says(self):
        self.assertEqual({}, self.reasons(Request(4, 1, 1), claim={"vcpus": 4}))
        found = self.reasons(Request(4, 1, 1), claim={"vcpus": 5})
        self.assertEqual({"vCPUs": "4 vCPUs wanted, 3 of 8 free"}, found)

    def test_one_guest_never_gets_more_vcpus_than_the_host_has_cpus(self):
        self.assertEqual({"vCPUs": "5 vCPUs wanted, the host has 4 CPUs"},
                         self.reasons(Request(5, 1, 1)))

    def test_disk(self):
        found = self.reasons(Request(1, 1, 91), claim={"disk_gb": 10})
        self.assertEqual({"disk": "91 GiB of disk wanted, 90 of 100 GiB free"}, found)

    def test_zone(self):
        wanted = dataclasses.replace(SMALL, zone="east")
        self.assertEqual({}, self.reasons(wanted, service={"availability_zone": "east"}))
        self.assertIn("availability zone", self.reasons(wanted))

    def test_image_properties(self):
        for properties in ({"hw_architecture": "x86_64", "img_hv_type": "KVM"},
                           {"hw_vm_mode": "hvm"}):
            self.assertEqual({}, self.reasons(dataclasses.replace(SMALL, properties=properties)))
        found = self.reasons(dataclasses.replace(SMALL, properties={"hw_architecture": "aarch64"}))
        self.assertIn("aarch64/any/any", found["image properties"])

    def test_machine_type_matters_when_the_host_reports_it(self):
        wanted = dataclasses.replace(SMALL, properties={"hw_machine_type": "q35"})
        self.assertEqual({}, self.reasons(wanted))
        reported = {"cpu_info": '{"machine_types": ["pc", "virt"]}'}
        self.assertIn("image properties", self.reasons(wanted, node=reported))
        reported = {"cpu_info": '{"machine_types": ["pc", "q35"]}'}
        self.assertEqual({}, self.reasons(wanted, node=reported))

    def test_tried_hosts_are_not_tried_again(self):
        self.assertIn("retries", self.reasons(dataclasses.replace(SMALL, tried=frozenset({"h1"}))))

    def test_affinity(self):
        wanted = dataclasses.replace(SMALL, group_policy="affinity")
        self.assertEqual({}, self.reasons(wanted))
        self.assertEqual({}, self.reasons(dataclasses.replace(wanted, group_nodes=("u1",))))
        elsewhere = dataclasses.replace(wanted, group_nodes=("u2",))
        self.assertIn("server group", self.reasons(elsewhere))

    def test_anti_affinity_with_a_limit(self):
        wanted = dataclasses.replace(SMALL, group_policy="anti-affinity", group_nodes=("u1",))
        self.assertIn("server group", self.reasons(wanted))
        self.assertEqual({}, self.reasons(dataclasses.replace(wanted, group_limit=2)))

    def test_a_busy_host_gets_no_more(self):
        self.assertIn("io ops", self.reasons(claim={"busy": 8}))
        self.assertEqual({}, self.reasons(claim={"busy": 7}))

    def test_no_host_explains_each_host_with_all_its_reasons(self):
        known = [self.host(service={"host": "b"}, node={"host": "b", "uuid": "u2"}),
                 self.host(service={"disabled": True})]
        error = no_valid_host(known, Request(9, 9999, 1))
        self.assertEqual("no_valid_host", error.code)
        self.assertIn("h1: it is disabled (no reason given); 9999 MiB of memory wanted, 4096 of "
                      "4096 MiB free; 9 vCPUs wanted", error.what)
        self.assertLess(error.what.index("b: "), error.what.index("h1: "))
        self.assertIsInstance(error, Refused)

    def test_no_host_at_all(self):
        self.assertIn("No host has registered", no_valid_host([], SMALL).what)


class WeighersTest(SchedulerTest):
    def named(self, name, **kwargs):
        host = self.host(**kwargs)
        return dataclasses.replace(host, host=name, uuid=name)

    def order(self, *found):
        return [host.host for host in weighers.ranked(found, SMALL, self.conf)]

    def test_the_emptiest_host_is_the_best(self):
        full = {"memory_mb": 2048, "vcpus": 2, "disk_gb": 50}
        self.assertEqual(["b", "a"], self.order(self.named("a", claim=full), self.named("b")))

    def test_equal_hosts_go_by_name(self):
        self.assertEqual(["a", "b"], self.order(self.named("b"), self.named("a")))

    def test_failed_builds_outweigh_room(self):
        good = self.named("a", node={"stats": {"failed_builds": "0"}}, claim={"memory_mb": 2048})
        bad = self.named("b", node={"stats": {"failed_builds": "5"}})
        self.assertEqual(["a", "b"], self.order(bad, good))

    def test_negative_weight_packs(self):
        self.conf.set_override("ram_weight", -9.0, "control")
        self.addCleanup(self.conf.clear_override, "ram_weight", "control")
        full = self.named("b", claim={"memory_mb": 2048})
        self.assertEqual(["b", "a"], self.order(self.named("a"), full))

    @given(st.lists(st.floats(-1e6, 1e6), max_size=8))
    def test_shares_are_between_0_and_1(self, values):
        shares = weighers.normalized(values)
        self.assertEqual(len(values), len(shares))
        self.assertTrue(all(0 <= share <= 1 for share in shares))
        if shares and max(values) > min(values):
            self.assertEqual((0, 1), (min(shares), max(shares)))


class HostTest(SchedulerTest):
    def test_a_host_never_heard_of_counts_from_its_registration(self):
        young = (NOW - timedelta(seconds=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
        row = {"last_seen_up": None, "created_at": young}
        self.assertTrue(self.host(service=row).up)

    def test_unreadable_cpu_info_is_no_machine_type(self):
        self.assertEqual(frozenset(), self.host(node={"cpu_info": "{"}).machine_types)

    def test_selection_is_novas_object(self):
        data = selection(self.host(), SMALL)["nova_object.data"]
        self.assertEqual(("h1", "n1", "u1"), (data["service_host"], data["nodename"],
                                              data["compute_node_uuid"]))
        self.assertIn('"MEMORY_MB": 512', data["allocation_request"])
