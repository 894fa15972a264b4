"""The broker and the database of the contract environment, private and on loopback only."""

import os
import pathlib
import shutil

from tests.contract import processes

RABBITMQ = pathlib.Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
DATABASES = ("nova_api", "nova_cell0", "nova_cell1", "placement")


def missing() -> str | None:
    """Return why the servers cannot run on this machine, or None if they can."""
    if not RABBITMQ.exists() or not shutil.which("epmd"):
        return "RabbitMQ is not installed; apt-get install rabbitmq-server"
    for name in ("mariadbd", "mariadb-install-db", "mariadb"):
        if not shutil.which(name):
            return f"{name} is not installed; apt-get install mariadb-server"
    return None


class Broker:
    """A RabbitMQ node with its own Erlang port mapper, mnesia directory and log."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.port = processes.free_port()
        self.url = f"rabbit://guest:guest@127.0.0.1:{self.port}/"
        self._epmd_port = processes.free_port()
        self._children: list[processes.Process] = []

    def start(self) -> None:
        """Start the port mapper, then the node; returns when the node accepts connections."""
        self.home.mkdir(parents=True, exist_ok=True)
        env = self._environment()
        epmd = processes.Process(
            "epmd", ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            self.home / "epmd.log", env=env,
        )
        self._children.append(epmd)
        epmd.wait_until(lambda: processes.listening(self._epmd_port), processes.SECONDS)
        node = processes.Process("rabbitmq", [str(RABBITMQ)], self.home / "rabbitmq.log", env=env)
        self._children.append(node)
        node.wait_until(lambda: processes.listening(self.port), processes.SECONDS)

    def stop(self) -> None:
        """Stop what was started, the newest first."""
        while self._children:
            self._children.pop().stop()

    def _environment(self) -> dict[str, str]:
        home = str(self.home)
        return os.environ | {
            "HOME": home,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_NODENAME": f"contract{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(processes.free_port()),
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_CONFIG_FILE": f"{home}/none",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/none.sh",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
            "RABBITMQ_SERVER_START_ARGS": "-noinput -noshell",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                '-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 2:2',
        }


class Database:
    """A MariaDB server on a unix socket. Durability is off: its data lives for one run."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.socket = home / "sock"
        self._data = home / "data"
        self._server: processes.Process | None = None

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of one database."""
        return f"mysql+pymysql://root@localhost/{name}?unix_socket={self.socket}&charset=utf8mb3"

    def create(self) -> None:
        """Make an empty data directory."""
        self.home.mkdir(parents=True, exist_ok=True)
        processes.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self._data}",
             "--auth-root-authentication-method=normal", "--skip-test-db",
             "--innodb-log-file-size=8M"],
            self.home / "install.log",
        )

    def copy_from(self, template: pathlib.Path) -> None:
        """Use a copy of a data directory that `create` made and a stopped server left."""
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.copytree(template, self._data)

    def save_to(self, template: pathlib.Path) -> None:
        """Copy the data directory; the server must be stopped."""
        partial = template.with_name(template.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self._data, partial)
        partial.rename(template)  # a run that is killed leaves no half of one

    def start(self) -> None:
        """Start the server; returns when its socket exists."""
        self._server = processes.Process(
            "mariadbd",
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={self._data}",
             f"--socket={self.socket}", "--skip-networking", "--innodb-log-file-size=8M",
             "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--skip-log-bin",
             "--innodb-buffer-pool-size=64M", "--performance-schema=OFF",
             f"--pid-file={self.home}/pid", "--character-set-server=utf8mb3"],
            self.home / "mariadbd.log",
        )
        self._server.wait_until(self.socket.exists, processes.SECONDS)

    def make_databases(self) -> None:
        """Create the empty databases that Nova and Placement want."""
        sql = "".join(f"CREATE DATABASE {name};" for name in DATABASES)
        processes.run(["mariadb", "--no-defaults", f"--socket={self.socket}", "-u", "root", "-e",
                       sql], self.home / "mariadb.log")

    def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.stop(60)
            self._server = None
