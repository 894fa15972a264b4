"""What all hosts of a lab share: the message broker and the control plane, both in the switch."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from compute.errors import MagnetarError
from control.cli.client import Client
from tools.toolbox.lab import settings
from tools.toolbox.lab.place import NETNS, Place
from tools.toolbox.lab.service import Service

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def enter(place: Place) -> Callable[[], list[str]]:
    """Gives the words before a command that run it in the switch's network."""
    return lambda: ["nsenter", f"--net={NETNS / place.switch}"]


class Broker(Service):
    """A RabbitMQ node that listens on the switch's management address; queues survive kills."""

    def __init__(self, place: Place) -> None:
        home = place.directory / "broker"
        environment = {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_NODENAME": "lab@localhost",
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/none.sh",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
            "RABBITMQ_SERVER_START_ARGS": "-noinput -noshell",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
        }  # fmt: skip
        super().__init__(
            "broker", [str(RABBITMQ)], enter(place), place.directory,
            lambda: _listens(self, 5672), environment,
        )  # fmt: skip
        self._home = home
        self._names = Service(
            "epmd", ["epmd", "-address", "127.0.0.1"], enter(place), place.directory,
            lambda: _listens(self._names, 4369), environment,
        )  # fmt: skip

    def start(self, *args, **kwargs) -> None:
        """Start the node and Erlang's port mapper, which it needs."""
        self._home.mkdir(exist_ok=True)
        (self._home / "rabbitmq.conf").write_text(settings.BROKER)
        self._names.start()
        super().start(*args, **kwargs)


class ControlPlane(Service):
    """``magnetar control`` with its database, reached through its socket."""

    def __init__(self, place: Place) -> None:
        self.config = place.directory / "control.conf"
        self.state = place.directory / "control"
        self.socket = place.short / "control/control.sock"
        self._place = place
        command = [sys.executable, "-m", "control.cli.main", "control"]
        super().__init__(
            "control", [*command, "--config-file", str(self.config)], enter(place),
            place.directory, self._answers, sockets=[self.state / "control.sock"],
        )  # fmt: skip

    def prepare(self, options: settings.Options) -> None:
        """Write its configuration; ``options`` by group overrule the lab's."""
        self.state.mkdir(exist_ok=True)
        state = f"{self._place.short}/control"
        self.config.write_text(settings.control(state, str(self._place.images), options))

    def client(self, timeout: float = 60) -> Client:
        """The control plane's socket."""
        return Client(str(self.socket), timeout)

    def _answers(self) -> bool:
        client = self.client(timeout=5)
        try:
            return client.health()["status"] == "serving"
        except (MagnetarError, OSError):
            return False
        finally:
            client.close()


def _listens(service: Service, port: int) -> bool:
    """Whether a daemon listens on a TCP port; /proc shows the network that it is in."""
    process = service.process()
    if process is None:
        return False
    home = Path(f"/proc/{process.pid}")
    lines, own = [], set()
    with contextlib.suppress(OSError):
        for family in ("tcp", "tcp6"):
            lines += (home / "net" / family).read_text().splitlines()[1:]
        own = {os.readlink(descriptor) for descriptor in (home / "fd").iterdir()}
    # Fields: 1 the local address and port, 3 the state (0A is listening), 9 the socket's inode.
    sockets = [line.split() for line in lines]
    return any(
        int(one[1].split(":")[1], 16) == port and one[3] == "0A" and f"socket:[{one[9]}]" in own
        for one in sockets
    )
