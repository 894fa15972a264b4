"""``magnetar-compute`` whose fake hypervisor is one of several, between which guests can move.

Run as ``python -m tests.contract.moving_agent --config-file FILE``; the environment variable
MAGNETAR_FABRIC names the directory that the hypervisors share (see virt.fake_state.Fabric).
"""

from compute.cmd import compute  # first: it settles which threads are used

if __name__ == "__main__":
    import os
    import sys
    from typing import Any

    from compute import agent
    from virt.fake import FakeDriver

    def make_driver(conf: Any) -> FakeDriver:
        """A hypervisor of the fabric."""
        return FakeDriver(conf.disk.instances_path, hostname=conf.host,
                          fabric=os.environ["MAGNETAR_FABRIC"])

    agent.make_driver = make_driver
    sys.exit(compute.main())
