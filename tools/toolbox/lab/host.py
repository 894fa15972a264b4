"""One hypervisor host of a lab: its namespaces, its daemons, its guests, and what can go wrong."""

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import libvirt

from compute.errors import MagnetarError
from control.cli.client import Client
from tools.toolbox.lab import network, settings
from tools.toolbox.lab.place import NETNS, TOP, LabError, Place, mount_points
from tools.toolbox.lab.service import Service
from tools.toolbox.processes import Process
from virt.storage.console import BEFORE, CONSOLE

HOST_SCRIPT = Path(__file__).with_name("host.sh")
# What libvirt learnt about QEMU, kept over labs: asking QEMU takes four seconds.
CAPABILITIES = TOP / ".cache/libvirt-tests"
OWN = ("run", "run/libvirt", "run/lock", "etc", "etc/nwfilter", "lib/lockd/files", "log", "pids")
STATE = ("state/images", "state/instances")


class LabHost:
    """Host ``number`` (from 1) of the lab at ``place``; its name is host1, host2 and so on.

    ``virtlogd``, ``virtlockd``, ``libvirtd`` and ``agent`` are its daemons, each a
    :class:`~tools.toolbox.lab.service.Service`. ``links`` are "management", "migration", "guests".
    """

    def __init__(self, place: Place, number: int, shared: bool) -> None:
        self.place, self.number, self.shared = place, number, shared
        self.name = f"host{number}"
        self.address = network.address("management", number)
        self.migration_address = network.address("migration", number)
        self.namespace = place.namespace(self.name)
        self.directory = place.directory / self.name
        self.socket = place.short / self.name / "state/control.sock"
        self.uri = f"qemu+unix:///system?socket={place.short}/{self.name}/run/libvirt/libvirt-sock"
        self.tls_uri = f"qemu+tls://{self.name}/system"
        # Where the guests' disks are for a process outside; inside it is the same on all hosts.
        self.instances = place.shared if shared else self.directory / "state/instances"
        self.holder = self._service("namespaces", ["false"], ready=lambda: True)
        self.virtlogd = self._daemon("virtlogd")
        self.virtlockd = self._daemon("virtlockd")
        self.libvirtd = self._daemon("libvirtd", "--listen", ready=self._libvirt_answers)
        self.agent = self._service(
            "agent",
            [sys.executable, "-m", "compute.cmd.compute", *self.agent_arguments()],
            ready=self._agent_answers,
            sockets=[self.directory / "state/control.sock"],
        )
        self.daemons = (self.virtlogd, self.virtlockd, self.libvirtd)

    def agent_arguments(self) -> list[str]:
        """What its agent gets on the command line, whatever module runs it."""
        return ["--config-file", str(self.directory / "magnetar.conf")]

    def boot(self, options: settings.Options | None = None) -> None:
        """Make the host and start its daemons, except for the agent; what runs is left alone.

        :param options: of its agent, by group.
        """
        network.make_host(self.place, self.name, self.number)
        if options is not None or not (self.directory / "magnetar.conf").exists():
            text = settings.agent(self.name, self.address, self.migration_address, options or {})
            self.directory.mkdir(exist_ok=True)
            (self.directory / "magnetar.conf").write_text(text)
        if self.holder.process() is None:
            network.end_processes(self.namespace)
            self._write_files()
            self._hold()
        for daemon in self.daemons:
            daemon.start()

    def crash(self) -> None:
        """Lose power: every process of the host, its guests too, ends at once. boot() again."""
        network.end_processes(self.namespace)

    def enter(self) -> list[str]:
        """The words before a command that run it in this host. Raises LabError when it is off."""
        holder = self.holder.process()
        if holder is None:
            raise LabError(
                f"{self.name} is off. Nothing was done. 'tools/lab up' starts what does not run."
            )
        return ["nsenter", f"--target={holder.pid}", "--mount", "--uts", "--net"]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command in the host and return what it said.

        :raises subprocess.CalledProcessError: when it failed, unless ``check`` is false.
        """
        return subprocess.run(
            [*self.enter(), *command], capture_output=True, text=True, check=check,
            stdin=subprocess.DEVNULL, env=self.environment(), cwd="/",
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """For commands in the host: magnetar there speaks to the host's agent."""
        environment = {**os.environ, "MAGNETAR_SOCKET": "/var/lib/magnetar/control.sock"}
        environment["PATH"] = f"{TOP}/.venv/bin:{network.PATH}"
        return environment

    def start_agent(
        self, env: Mapping[str, str] | None = None, module: str = "", wait: bool = True
    ) -> None:
        """Start the agent, with more environment or as another module than compute.cmd.compute."""
        other = [sys.executable, "-m", module, *self.agent_arguments()] if module else []
        self.agent.start(env, other, wait)

    def libvirt(self) -> libvirt.virConnect:
        """A new connection to the host's libvirtd, from outside."""
        return libvirt.open(self.uri)

    def client(self, timeout: float = 60) -> Client:
        """The agent's control socket."""
        return Client(str(self.socket), timeout)

    def qemus(self) -> dict[str, Process]:
        """The QEMU processes in this host by the guest's uuid."""
        found = {}
        for pid in network.processes(self.namespace):
            with contextlib.suppress(OSError, ValueError):
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                guest = words[words.index("-uuid") + 1]
                process = Process.of(pid, f"QEMU of {guest}")
                if process is not None and process.alive():
                    found[guest] = process
        return found

    def qemu(self, guest: str) -> Process | None:
        """The QEMU process of a guest (by uuid) in this host, None when there is none."""
        return self.qemus().get(guest)

    def console(self, guest: str) -> str:
        """What a guest (by uuid) has written to its console, on this host and on those it was on
        before; "" without a log."""
        files = (self.instances / guest / name for name in (CONSOLE + BEFORE, CONSOLE))
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def cut(self, link: str, silent: bool = False) -> None:
        """Cut a link: the cable is pulled, or with ``silent`` every packet is lost without a sign.

        The agent's and libvirt's unix sockets stay reachable from outside.
        """
        (network.drop if silent else network.link_down)(self.place, self.name, link)

    def restore(self, link: str) -> None:
        """Mend a link, however it was cut; nothing to do when it was not."""
        network.undrop(self.place, self.name, link)
        network.link_up(self.place, self.name, link)

    def limit(self, link: str, mbit: float | None) -> None:
        """Let at most ``mbit`` megabits a second pass in each direction; None: no limit."""
        network.limit(self.place, self.name, link, mbit)

    def status(self) -> dict[str, str]:
        """Each daemon with "pid N" or "off"; guests with their number."""
        shown = {}
        for service in (*self.daemons, self.agent):
            process = service.process()
            shown[service.name.split()[1]] = f"pid {process.pid}" if process else "off"
        return {**shown, "guests": str(len(self.qemus()))}

    def _write_files(self) -> None:
        shutil.rmtree(self.directory / "run", ignore_errors=True)
        for name in (*OWN, *STATE):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        CAPABILITIES.mkdir(parents=True, exist_ok=True)
        links = {
            "cache": CAPABILITIES,
            "images": self.place.images,
            "locks": self.place.locks if self.shared else self.directory / "lib/lockd/files",
            "hosts": self.place.directory / "hosts",
            "pki": self.place.directory / "certificates" / self.name,
        }
        for name, target in links.items():
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(target)
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{self.place.id}")
        files = {
            "etc/libvirtd.conf": settings.LIBVIRTD.format(host_uuid=identity),
            "etc/qemu.conf": settings.QEMU.format(migration_address=self.migration_address),
            "etc/qemu-lockd.conf": settings.LOCKS,
            "etc/virtlogd.conf": "",
            "etc/virtlockd.conf": "",
            "boot_id": f"{uuid.uuid4()}\n",
            "no-kvm": "",
            "resolv.conf": "",
        }
        for name, text in files.items():
            (self.directory / name).write_text(text)
        for rules in Path("/etc/libvirt/nwfilter").glob("*.xml"):
            shutil.copy(rules, self.directory / "etc/nwfilter")

    def _hold(self) -> None:
        """Make mount and UTS namespaces; a sleeping process keeps them."""
        script = ["sh", str(HOST_SCRIPT), str(self.directory), self.name]
        if self.shared:
            script.append(str(self.place.shared))
        # Slave: when a network namespace's name goes outside, it goes here too.
        own = ["unshare", "--mount", "--propagation", "slave", "--uts"]
        begun = self.holder.log.stat().st_size if self.holder.log.exists() else 0
        network_of_host = ["nsenter", f"--net={NETNS / self.namespace}"]
        outside = Service(
            self.holder.name, [*own, *script], lambda: network_of_host, self.directory,
            lambda: b"ready\n" in self.holder.log.read_bytes()[begun:],
        )  # fmt: skip
        with mount_points():
            outside.start()

    def _libvirt_answers(self) -> bool:
        if not (self.directory / "run/libvirt/libvirt-sock").exists():
            return False
        try:
            self.libvirt().close()
        except libvirt.libvirtError:
            return False
        return True

    def _agent_answers(self) -> bool:
        client = self.client(timeout=5)
        try:
            return client.health()["status"] == "serving"
        except (MagnetarError, OSError):
            return False
        finally:
            client.close()

    def _daemon(self, name: str, *words: str, ready=None) -> Service:
        socket = self.directory / f"run/libvirt/{name.replace('libvirtd', 'libvirt')}-sock"
        command = [name, "--config", f"/etc/libvirt/{name}.conf", *words]
        command += ["--pid-file", f"/run/{name}.pid"]
        return self._service(name, command, ready or socket.exists, [socket])

    def _service(self, name: str, command: Sequence[str], ready, sockets=()) -> Service:
        return Service(
            f"{self.name} {name}", command, self.enter, self.directory, ready, sockets=sockets
        )
