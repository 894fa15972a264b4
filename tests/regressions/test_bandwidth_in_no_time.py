"""Two samples less than a tick of the hypervisor's clock apart made a bandwidth without end: the
policy, and with it the monitor, ended in an internal error.
"""

import dataclasses

import testtools

from compute.migration import trend
from compute.model.move import PRECOPY, JobSample


class BandwidthTest(testtools.TestCase):
    def test_less_than_a_tick_says_nothing(self):
        first = JobSample(phase=PRECOPY, time=10.0, elapsed=0.0, memory_total=1 << 30)
        later = dataclasses.replace(first, elapsed=1e-305, memory_processed=1 << 20)
        self.assertEqual(0, trend.bandwidth([first, later]))
        self.assertEqual(1 << 20, trend.bandwidth(
            [first, dataclasses.replace(later, time=11.0, elapsed=1.0)]))
