"""A stock Nova control plane on loopback, with one agent of either kind under it.

RabbitMQ, MariaDB, the released Placement, a stock nova-conductor, and a driver process that holds
Nova's own API layer and ComputeAPI client. `missing()` says why it cannot run here, if so.
"""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import typing

from compute.services.images import LocalImages
from tests.contract import backends, processes, venv

PREFIX = "magnetar-contract-"
ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
IMAGE = "3f2c6a1e-0000-4000-8000-00000000c0de"
PASSWORDLESS = "admin"


class RemoteError(Exception):
    """A command of the driver failed; `kind` and `module` name the exception that Nova raised."""

    def __init__(self, kind: str, module: str, message: str) -> None:
        super().__init__(f"{module}.{kind}: {message}")
        self.kind = kind
        self.module = module


def missing() -> str | None:
    """Return why the environment cannot start on this machine, or None."""
    return backends.missing() or venv.missing()


def sweep() -> None:
    """Remove the directories of runs that were killed; their processes ended with them."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*/owner"):
        with contextlib.suppress(OSError), path.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)


class Environment:
    """Everything of one run, in one temporary directory. Use as a context manager."""

    def __init__(self, keep: bool = False) -> None:
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX))
        self.keep = keep
        self.broker = backends.Broker(self.home / "mq")
        self.database = backends.Database(self.home / "db")
        self._services_port = processes.free_port()
        self._children: list[processes.Process] = []
        self._agents: list[processes.Process] = []
        self._driver: processes.Process | None = None
        self._owner: typing.TextIO | None = None

    def __enter__(self) -> typing.Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the control plane; no agent yet."""
        sweep()
        self._claim()
        (self.home / "state").mkdir()
        self.broker.start()
        self._write_configuration()
        self._start_database()
        services = self.spawn("services", [
            venv.python(), HERE / "nova_side" / "services.py", self._services_port,
            self.database.url("placement"), IMAGE, self.home])
        services.wait_until(lambda: processes.listening(self._services_port), processes.SECONDS)
        self._driver = processes.Process(
            "driver", [str(venv.python()), "-m", "nova_side.driver", *self._with_database()],
            self.home / "driver.log", stdin=processes.PIPE, stdout=processes.PIPE, cwd=HERE,
            text=True)
        self._children.append(self._driver)
        self._answer()  # the driver has pointed the cells at this run; the conductor reads them
        self.start_conductor()

    def _claim(self) -> None:
        """Mark the directory as in use; the lock ends with this process, however that ends."""
        partial = self.home / "owner.partial"
        self._owner = partial.open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        partial.rename(self.home / "owner")

    def start_conductor(self) -> processes.Process:
        """Start a stock nova-conductor; `conductor` is the latest one."""
        self.conductor = self.spawn(
            "conductor", [venv.tool("nova-conductor"), *self._with_database()])
        return self.conductor

    def stop(self) -> None:
        """Stop every process that was started and remove the directory."""
        while self._children:
            self._children.pop().stop()
        self.database.stop()
        self.broker.stop()
        if self._owner is not None:
            self._owner.close()
        if not self.keep:
            shutil.rmtree(self.home, ignore_errors=True)

    def spawn(self, name: str, command: list[object], **popen: object) -> processes.Process:
        """Start one more process that ends with this environment."""
        child = processes.Process(
            name, [str(word) for word in command], self.home / f"{name}.log", **popen)
        self._children.append(child)
        return child

    def tails(self, lines: int) -> str:
        """Return the ends of the logs of all agents that were started."""
        return "\n".join(f"{child.name}:\n{child.tail(lines)}" for child in self._agents)

    def do(self, command: str, **arguments: object) -> dict[str, typing.Any]:
        """Run a command of nova_side/driver.py. Raises RemoteError with what Nova raised."""
        assert self._driver is not None
        self._driver.child.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self._driver.child.stdin.flush()
        return self._answer()

    def start_nova_compute(self, host: str) -> processes.Process:
        """Start Nova's own agent with its fake driver; see nova_side.reference_compute."""
        state = self.home / host
        state.mkdir(exist_ok=True)
        override = self.home / f"{host}.conf"
        override.write_text(f"[DEFAULT]\nhost = {host}\nstate_path = {state}\n"
                            "compute_driver = fake.ReferenceDriver\n"
                            "update_resources_interval = 2\n")
        return self._agent(host, [venv.python(), "-m", "nova_side.reference_compute",
                                  "--config-file", self.home / "nova.conf",
                                  "--config-file", override], cwd=HERE)

    def start_agent(self, host: str, options: str = "") -> processes.Process:
        """Start magnetar-compute of this checkout with its fake driver."""
        agent = ROOT / ".venv" / "bin" / "magnetar-compute"
        return self._agent(host, [agent, "--config-file", self._agent_conf(host, options)])

    def start_moving_agent(self, host: str, options: str = "") -> processes.Process:
        """Start an agent whose fake hypervisor is in one fabric with the others started so."""
        return self._agent(
            host, [sys.executable, "-m", "tests.contract.moving_agent",
                   "--config-file", self._agent_conf(host, options)],
            cwd=ROOT, env={**os.environ, "MAGNETAR_FABRIC": str(self.fabric)})

    def _agent(self, host: str, command: list[object], **popen: object) -> processes.Process:
        child = self.spawn(host, command, **popen)
        self._agents.append(child)
        return child

    @property
    def fabric(self) -> pathlib.Path:
        """What the hypervisors of moving agents share."""
        return self.home / "fabric"

    def _agent_conf(self, host: str, options: str) -> pathlib.Path:
        state = self.home / host
        state.mkdir(exist_ok=True)
        images = self.home / "images"
        if not images.exists():
            LocalImages(str(images)).create(
                io.BytesIO(bytes(1 << 20)), disk_format="raw", name="contract", image_id=IMAGE)
        conf = self.home / f"{host}.conf"
        conf.write_text(
            f"[DEFAULT]\nhost = {host}\ntransport_url = {self.broker.url}\n"
            f"state_path = {state}\ncompute_driver = fake\nimage_dir = {images}\n{options}\n")
        return conf

    def _answer(self) -> dict[str, typing.Any]:
        line = self._driver.child.stdout.readline()
        if not line:
            raise processes.StartFailed(f"The driver ended.\n{self._driver.tail()}")
        answer = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            raise RemoteError(error["class"], error["module"], error["message"])
        return answer

    def _with_database(self) -> list[str]:
        return ["--config-file", str(self.home / "nova.conf"),
                "--config-file", str(self.home / "database.conf")]

    def _write_configuration(self) -> None:
        base = f"http://127.0.0.1:{self._services_port}"
        sections = [
            f"[DEFAULT]\nhost = control\ntransport_url = {self.broker.url}\n"
            f"state_path = {self.home}/state\ndebug = true\nreport_interval = 2\n"
            "allow_resize_to_same_host = true",
            f"[oslo_concurrency]\nlock_path = {self.home}/state",
            "[conductor]\nworkers = 1",
            "[quota]\ndriver = nova.quota.NoopQuotaDriver",
            f"[glance]\napi_servers = {base}/image",
        ]
        for section, path in (("placement", "placement"), ("neutron", "network")):
            sections.append(f"[{section}]\nauth_type = admin_token\ntoken = admin\n"
                            f"endpoint = {base}/{path}\nendpoint_override = {base}/{path}")
        (self.home / "nova.conf").write_text("\n".join(sections) + "\n")
        (self.home / "database.conf").write_text(
            f"[database]\nconnection = {self.database.url('nova_cell1')}\n"
            f"[api_database]\nconnection = {self.database.url('nova_api')}\n")

    def _start_database(self) -> None:
        template = venv.state() / "database"
        if not template.exists():
            self._make_template(template)
        self.database.copy_from(template)
        self.database.start()

    def _make_template(self, template: pathlib.Path) -> None:
        """Create Nova's schemas once; later runs copy the data directory."""
        maker = Environment(keep=True)
        maker.home.rmdir()
        maker.home = self.home / "template"
        maker.home.mkdir()
        maker.database = backends.Database(maker.home / "db")
        maker._write_configuration()
        database = maker.database
        database.create()
        try:
            database.start()
            database.make_databases()
            for words in (("api_db", "sync"),
                          ("cell_v2", "map_cell0", "--database_connection",
                           database.url("nova_cell0")),
                          ("db", "sync"),
                          ("cell_v2", "create_cell", "--name", "cell1")):
                processes.run([str(venv.tool("nova-manage")), *maker._with_database(), *words],
                              maker.home / "manage.log")
        finally:
            database.stop()
        database.save_to(template)
