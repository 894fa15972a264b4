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
    transport = common.transport_for(conf, otherwise="fake://")
    control = service.start(conf, transport)

    def make() -> common.Agent:
        return common.Agent(conf, transport, methods=control.methods())

    return common.serve(make, after=control.stop)


if __name__ == "__main__":
    sys.exit(main())
