"""magnetar up: the embedded control plane and the agent of this host in one process."""

from compute import concurrency

concurrency.setup()

import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run both until told to stop. Messages stay in this process unless transport_url is set."""
    from compute.cmd import common
    from control import service

    words = list(sys.argv[1:] if argv is None else argv)
    conf = common.prepare(words, "magnetar up")
    conf.set_default("network_service", "embedded")
    conf.set_default("volume_service", "embedded")
    running = []

    def make() -> common.Agent:
        lock = common.lock_state(conf.state_path)
        transport = common.transport_for(conf, otherwise="inproc://")
        running.append(service.start(conf, transport))
        return common.Agent(conf, transport, lock, methods=running[0].methods())

    def after() -> None:
        for control in running:
            control.stop()

    return common.serve(make, after)


if __name__ == "__main__":
    sys.exit(main())
