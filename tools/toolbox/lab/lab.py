"""A whole lab: up, down, what runs, and which labs are left over."""

import contextlib
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from control.cli.client import Client
from tools.toolbox import certificates
from tools.toolbox.lab import network
from tools.toolbox.lab.control import RABBITMQ, Broker, ControlPlane
from tools.toolbox.lab.host import LabHost
from tools.toolbox.lab.network import PATH
from tools.toolbox.lab.place import LABS, LabError, Place, remove_mount_points
from tools.toolbox.lab.settings import Options
from tools.toolbox.processes import Process

MOST_HOSTS = 50
NEEDED = (
    "ip", "nsenter", "unshare", "nft", "tc", "openssl", "libvirtd", "virtlogd", "virtlockd",
    "qemu-system-x86_64",
)  # fmt: skip


class Lab:
    """The lab called ``name`` of this checkout, whether it is up or not.

    ``hosts`` are its hosts, ``broker`` and ``control`` what they share.
    """

    def __init__(self, name: str = "default") -> None:
        self.place = Place(name)
        self.broker = Broker(self.place)
        self.control = ControlPlane(self.place)
        noted = self.place.noted()
        self.shared = bool(noted.get("shared"))
        self.bare = bool(noted.get("bare"))
        self.hosts = [self._host(number) for number in range(1, noted.get("hosts", 0) + 1)]

    def host(self, name: str) -> LabHost:
        """The host of this name. Raises LabError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in self.hosts) or "none, it is not up"
        raise LabError(f"the lab {self.place.name} has no host {name!r}; its hosts: {names}.")

    def up(
        self,
        hosts: int,
        shared: bool = False,
        bare: bool = False,
        options: Options | None = None,
        owner: Process | None = None,
    ) -> None:
        """Make what is missing and start what does not run; may be repeated, with more hosts.

        :param shared: the hosts' instance directories are one, on what looks like GlusterFS.
        :param bare: hosts and libvirt only; no broker, control plane and agents.
        :param options: of the agents and the control plane, by group, over the lab's own.
        :param owner: when this process has ended, sweep() takes the lab away.
        :raises LabError: with what was missing or failed; what was made stays for down().
        """
        reason = missing(shared, bare)
        if reason:
            raise LabError(f"{reason}. Nothing was made. 'tools/lab up' installs what it can.")
        with self.place.lock():
            self._check(hosts, shared, bare)
            self.place.prepare()
            self.shared, self.bare = shared, bare
            self.hosts = [self._host(number) for number in range(1, hosts + 1)]
            self.place.note({
                "hosts": hosts, "shared": shared, "bare": bare,
                "owner": owner.as_dict() if owner else None,
            })  # fmt: skip
            self._write_names()
            network.make_switch(self.place)
            self._start(options)

    def down(self) -> None:
        """End all processes of the lab and remove all that it made; may be repeated.

        :raises LabError: when a process does not end; what is not gone yet stays as it was.
        """
        with self.place.lock():
            self._remove()

    def sweep(self) -> bool:
        """Take it down if it is abandoned, and say whether it was; see :meth:`down`."""
        if not self.place.abandoned():
            return False
        with self.place.lock():
            if not self.place.abandoned():
                return False
            self._remove()
        return True

    def _remove(self) -> None:
        for namespace in self.place.namespaces():
            network.remove(namespace)
        self.place.short.unlink(missing_ok=True)
        if self.place.directory.exists():
            _remove_tree(self.place.directory)
        remove_mount_points()
        self.hosts = []

    def client(self, timeout: float = 60) -> Client:
        """The control plane, as the command line reaches it."""
        return self.control.client(timeout)

    def status(self) -> dict[str, dict[str, str]]:
        """By host, and for "switch", each daemon with "pid N" or "off"."""
        shared = {}
        for service in (self.broker, self.control):
            process = service.process()
            shared[service.name] = f"pid {process.pid}" if process else "off"
        return {"switch": shared, **{host.name: host.status() for host in self.hosts}}

    def _start(self, options: Options | None) -> None:
        """Everything at once, as far as one does not need the other."""
        with ThreadPoolExecutor() as pool:
            hosts = [pool.submit(host.boot, options) for host in self.hosts]
            if self.bare:
                _finish(hosts)
                return
            self.control.prepare(options or {})
            broker, control = pool.submit(self.broker.start), pool.submit(self.control.start)
            # Agents come last: what asks for a conductor too early waits seconds to ask again.
            _finish([*hosts, broker])
            _finish([control, *(pool.submit(host.start_agent) for host in self.hosts)])

    def _check(self, hosts: int, shared: bool, bare: bool) -> None:
        if not 1 <= hosts <= MOST_HOSTS:
            raise LabError(f"a lab has 1 to {MOST_HOSTS} hosts, not {hosts}. Nothing was made.")
        noted = self.place.noted()
        other = noted and (noted["shared"], noted["bare"]) != (shared, bare)
        if other or noted.get("hosts", 0) > hosts:
            kind = " ".join(word for word in ("shared", "bare") if noted[word])
            raise LabError(
                f"the lab {self.place.name} is there already with {noted['hosts']} hosts"
                f"{' ' + kind if kind else ''}. Nothing was changed. Take it down first, or give "
                "another --name."
            )

    def _host(self, number: int) -> LabHost:
        return LabHost(self.place, number, self.shared)

    def _write_names(self) -> None:
        """Certificates and /etc/hosts; written in place, since hosts have the file mounted."""
        lines = ["127.0.0.1 localhost", f"{network.SWITCH_ADDRESS} control"]
        lines += [f"{host.address} {host.name}" for host in self.hosts]
        lines += [f"{host.migration_address} {host.name}-migration" for host in self.hosts]
        (self.place.directory / "hosts").write_text("\n".join(lines) + "\n")
        addresses = {host.name: [host.address, host.migration_address] for host in self.hosts}
        try:
            certificates.make(self.place.directory / "certificates", addresses)
        except certificates.CertificateError as error:
            raise LabError(str(error)) from error


def _finish(tasks: list[Future]) -> None:
    for task in tasks:
        task.result()


def _remove_tree(directory: Path) -> None:
    """Remove it, even while the last child of a killed command still writes there."""
    for left in reversed(range(5)):
        try:
            shutil.rmtree(directory)
            return
        except OSError:
            if not directory.exists():
                return
            if not left:
                raise
            time.sleep(0.2)


def missing(shared: bool = False, bare: bool = False) -> str | None:
    """Why no lab can be made on this machine; None when it can. Tests skip with this text."""
    needed = [*NEEDED, *(["bindfs"] if shared else []), *([] if bare else ["epmd"])]
    for command in needed:
        if not shutil.which(command, path=PATH):
            return f"{command} is not installed (see bindep.txt)"
    if not bare and not RABBITMQ.exists():
        return "rabbitmq-server is not installed (see bindep.txt)"
    if shared and not Path("/dev/fuse").exists():
        return "this machine has no /dev/fuse, which a shared instance directory needs"
    tried = network.run("unshare", "--mount", "--net", "--uts", "true")
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else None


def all_labs() -> list[Lab]:
    """Every lab of this checkout that is up, or was left half made."""
    found = LABS.iterdir() if LABS.exists() else []
    return [Lab(path.name) for path in sorted(found) if path.is_dir()]


def sweep() -> list[str]:
    """Take away labs whose owner has ended, as after a test run that was killed; their names."""
    gone = []
    for lab in all_labs():
        # Somebody else sweeps it, or what is left of it does not end: no matter of who sweeps.
        with contextlib.suppress(LabError):
            if lab.sweep():
                gone.append(lab.place.name)
    return gone
