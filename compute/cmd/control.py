"""magnetar control: the embedded control plane in a process of its own, without an agent."""

from compute import concurrency

concurrency.setup()

import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402


class ControlProcess:
    """The control plane's RPC server and its socket. Has the methods of an agent that
    :func:`compute.cmd.common.serve` calls."""

    def __init__(self, conf: Any, transport: Any):
        from compute.operator.socket import ControlSocket
        from control.service import Service

        self.conf, self.serving = conf, False
        self.service = Service(conf, transport)
        methods = self.service.control.methods()
        self.socket = ControlSocket(conf.socket, methods, self.health)

    def health(self) -> dict[str, Any]:
        """What GET /v1/health adds to the status."""
        from importlib import metadata

        return {"status": "serving" if self.serving else "starting", "host": self.conf.host,
                "version": metadata.version("magnetar"), "pid": os.getpid(),
                "role": "control plane"}

    def start(self) -> None:
        """Serve. Raises Refused: another process has the socket, or it cannot be made."""
        self.socket.start()
        self.service.start()
        self.serving = True

    def give_up(self) -> None:
        """Nothing is waited for at start that would not end by itself."""

    def stop(self) -> None:
        """Answer what has begun; moves and drains go on with the next start."""
        self.serving = False
        self.socket.stop()
        self.service.stop()


def check_transport(conf: Any) -> None:
    """Without a broker no agent could be reached.

    :raises NeedsOperator: code ``no_broker``.
    """
    import oslo_messaging

    from compute.errors import NeedsOperator

    url = oslo_messaging.TransportURL.parse(conf)
    if url.transport == "rabbit" and not url.hosts:
        raise NeedsOperator(
            "No message broker is configured, so no agent could be reached.",
            now="The control plane did not start; servers keep running.",
            next="Set [DEFAULT] transport_url, or use 'magnetar up', which runs control plane and "
                 "agent in one process.", code="no_broker")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the control plane until it is told to stop."""
    from compute.cmd import common

    words = list(sys.argv[1:] if argv is None else argv)
    conf = common.prepare(words, "magnetar control")

    def make() -> Any:
        check_transport(conf)
        return ControlProcess(conf, common.transport_for(conf))

    return common.serve(make)


if __name__ == "__main__":
    sys.exit(main())
