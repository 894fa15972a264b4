"""Diagnostics in Nova's two forms."""

import testtools

from compute.model import states
from compute.model.diagnostics import Diagnostics, DiskUse, NicUse
from compute.rpc import diagnostics
from compute.rpc.primitives import data

FOUND = Diagnostics(
    power_state=states.RUNNING, virt_type="kvm", cpus=(5, 7),
    disks=(DiskUse("vda", 1, 512, 2, 1024, 3),),
    nics=(NicUse("tap1", "52:54:00:00:00:01", (10, 11, 12, 13), (20, 21, 22, 23)),),
    memory_max=131072, memory_now=65536, memory={"rss": 4096})  # fmt: skip
LAUNCHED = "2026-11-28T12:00:00Z"
LATER = 1795867260.0  # a minute after


class FormsTest(testtools.TestCase):
    def test_flat(self):
        self.assertEqual({
            "cpu0_time": 5, "cpu1_time": 7, "vda_read_req": 1, "vda_read": 512,
            "vda_write_req": 2, "vda_write": 1024, "vda_errors": 3, "tap1_rx": 10,
            "tap1_rx_packets": 11, "tap1_rx_errors": 12, "tap1_rx_drop": 13, "tap1_tx": 20,
            "tap1_tx_packets": 21, "tap1_tx_errors": 22, "tap1_tx_drop": 23, "memory": 131072,
            "memory-actual": 65536, "memory-rss": 4096,
        }, diagnostics.flat(FOUND))  # fmt: skip

    def test_whole(self):
        made = data(diagnostics.whole(
            FOUND, {"launched_at": LAUNCHED, "config_drive": "True"}, "libvirt", LATER))
        self.assertEqual(
            ("running", "libvirt", "kvm", "linux", 60, True, 2, 1, 1),
            tuple(made[name] for name in (
                "state", "driver", "hypervisor", "hypervisor_os", "uptime", "config_drive",
                "num_cpus", "num_nics", "num_disks")))
        self.assertEqual({"maximum": 128, "used": 64}, data(made["memory_details"]))
        self.assertEqual([{"id": 0, "time": 5, "utilisation": None},
                          {"id": 1, "time": 7, "utilisation": None}],
                         [data(cpu) for cpu in made["cpu_details"]])
        self.assertEqual({"read_bytes": 512, "read_requests": 1, "write_bytes": 1024,
                          "write_requests": 2, "errors_count": 3}, data(made["disk_details"][0]))
        self.assertEqual(
            {"mac_address": "52:54:00:00:00:01", "rx_octets": 10, "rx_packets": 11,
             "rx_errors": 12, "rx_drop": 13, "rx_rate": None, "tx_octets": 20, "tx_packets": 21,
             "tx_errors": 22, "tx_drop": 23, "tx_rate": None}, data(made["nic_details"][0]))

    def test_what_the_record_does_not_tell(self):
        made = data(diagnostics.whole(FOUND, {}, "fake", LATER))
        self.assertEqual((None, False), (made["uptime"], made["config_drive"]))
