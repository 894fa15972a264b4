"""libvirt's job statistics and states in our words."""

import libvirt
import testtools

from compute.model import move
from virt.libvirt import jobs

OUT = {"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT}
RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)
MIGRATING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
POSTCOPY = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY)
BROKEN = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)


class TestWords(testtools.TestCase):
    def test_each_job_has_its_word(self):
        for state, stats, word in (
            (RUNNING, {"type": 0}, ""), (RUNNING, {}, ""), (RUNNING, None, ""),
            (RUNNING, OUT, "out"),
            (RUNNING, {"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP}, ""),
            (MIGRATING, OUT, "out"), (MIGRATING, None, "in"), (MIGRATING, {"type": 0}, ""),
            (POSTCOPY, None, "out"), (BROKEN, None, "out"),
            ((libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY), None, "in"),
            ((libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED), None, "in"),
            ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE), None, "save"),
        ):
            self.assertEqual(word, jobs.word(*state, stats), (state, stats))

    def test_each_phase_is_told_by_state_and_statistics(self):
        for state, stats, phase in (
            (RUNNING, OUT, move.SETUP), (RUNNING, {**OUT, "disk_total": 5}, move.SETUP),
            (RUNNING, {**OUT, "memory_total": 5}, move.PRECOPY),
            ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER),
             {**OUT, "memory_total": 5}, move.PRECOPY),
            (MIGRATING, {**OUT, "memory_total": 5}, move.SWITCHOVER),
            (POSTCOPY, OUT, move.POSTCOPY), (BROKEN, {}, move.POSTCOPY_PAUSED),
        ):
            self.assertEqual(phase, jobs.phase(*state, stats), (state, stats))

    def test_a_sample_has_bytes_and_seconds(self):
        sample = jobs.sample({
            "time_elapsed": 1500, "memory_total": 10, "memory_processed": 4, "memory_remaining": 6,
            "memory_dirty_rate": 3, "memory_page_size": 4096, "memory_iteration": 2,
            "memory_bps": 7, "disk_total": 20, "disk_processed": 1, "disk_remaining": 19,
            "downtime": 250, "auto_converge_throttle": 30,
        }, move.PRECOPY)  # fmt: skip
        self.assertEqual((1.5, 25, 30, 3 * 4096, 7, 2, 250, 30), (
            sample.elapsed, sample.remaining, sample.total, sample.dirty_rate, sample.bandwidth,
            sample.iteration, sample.downtime_ms, sample.throttle))
        self.assertGreater(sample.time, 1e9)
        empty = jobs.sample({}, move.FAILED, "why")
        self.assertEqual((0, None, "why"), (empty.total, empty.downtime_ms, empty.error))
