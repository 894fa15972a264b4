"""A libvirtd of its own for each test that wants real guests.

It runs beside the machine's own daemon: in a mount namespace where libvirt's directories are
the test's, and in a network namespace, so that its bridges and firewall rules are nobody else's.
All other paths are the machine's: a disk has the same name for the test and for QEMU.
"""

import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import fixtures
import libvirt

from tests.integration.patience import SECONDS
from tools.toolbox.lab.place import mount_points, remove_mount_points
from tools.toolbox.processes import Process

HOLDER = Path(__file__).with_name("libvirt_host.sh")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# What libvirt learnt about QEMU, shared by all runs: asking QEMU takes four seconds.
CAPABILITIES = Path(__file__).resolve().parents[2] / ".cache/libvirt-tests"
# A directory of the machine that libvirt_host.sh covers; a lab would not remove it, as the others.
COVERED = Path("/run/libvirt")
LIBVIRTD_CONF = """host_uuid = "{host_uuid}"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "2:file:{base}/log/libvirtd.log"
"""
QEMU_CONF = """user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "logd"
"""


def missing() -> str | None:
    """Why a private libvirtd cannot run here; None when it can. Tests skip with this text."""
    for command in ("libvirtd", "virtlogd", "unshare", "nsenter", "ip", "qemu-system-x86_64"):
        if not shutil.which(command, path=PATH):
            return f"{command} is not installed (see bindep.txt)"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False
    )
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else None


class PrivateLibvirtd(fixtures.Fixture):
    """virtlogd and libvirtd with their own state; cleaned up with all their guests.

    `uri` is what the agent and libvirt.open() connect to; it stays the same over restarts.
    """

    ARGUMENTS: dict[str, list[str]] = {}  # further ones of the daemons, by name
    HOLD: tuple[str, ...] = ()  # further arguments of libvirt_host.sh

    def __init__(self, kvm: bool = False) -> None:
        """With kvm=False the daemon sees no /dev/kvm and starts some seconds sooner."""
        super().__init__()
        self._kvm = kvm

    def _setUp(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
        self.uri = f"qemu+unix:///system?socket={self.base}/run/libvirt-sock"
        self.daemons: dict[str, Process] = {}
        self._children: list[subprocess.Popen] = []
        self.addCleanup(shutil.rmtree, self.base, ignore_errors=True)
        self._write_files()
        self._holder = self._hold_namespaces()
        self._run_daemon("virtlogd", self.base / "run/virtlogd-sock")
        self.start()

    def start(self) -> None:
        """Start libvirtd and wait until it answers. Raises TimeoutError with its log's end."""
        self._run_daemon("libvirtd", self.base / "run/libvirt-sock")
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                libvirt.open(self.uri).close()
                return
            except libvirt.libvirtError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"libvirtd does not answer: {self.log()}") from error
                time.sleep(0.05)

    def stop(self) -> None:
        """End libvirtd in good order; guests go on."""
        if not self.daemons["libvirtd"].stop(seconds=SECONDS):
            raise TimeoutError("libvirtd survived SIGTERM and SIGKILL")

    def kill(self) -> None:
        """SIGKILL libvirtd, as a crash would; guests go on."""
        self.daemons["libvirtd"].signal(signal.SIGKILL)
        if not self.daemons["libvirtd"].wait(SECONDS):
            raise TimeoutError("libvirtd survived SIGKILL")

    def restart(self) -> None:
        """Kill libvirtd if it runs, then start it again."""
        self.kill()
        self.start()

    @property
    def holder(self) -> int:
        """The process in whose namespaces the daemons and guests are."""
        return self._holder.pid

    def enter(self, *command: str) -> None:
        """Run a command inside the namespaces. Raises subprocess.CalledProcessError."""
        subprocess.run(["nsenter", "--target", str(self._holder.pid), "--mount", "--net", *command],
                       check=True, capture_output=True, env={"PATH": PATH})

    def guest(self, name: str) -> Process:
        """The QEMU process of the running domain `name`. Raises LookupError without one."""
        pid_file = self.base / "run/qemu" / f"{name}.pid"
        found = Process.of(int(pid_file.read_text()), name) if pid_file.exists() else None
        if found is None:
            raise LookupError(f"no QEMU runs for {name}")
        return found

    def log(self) -> str:
        """The end of libvirtd's log, for messages of failed tests."""
        path = self.base / "log/libvirtd.log"
        return path.read_text()[-2000:] if path.exists() else "libvirtd wrote no log"

    def _write_files(self) -> None:
        if not self._kvm:
            CAPABILITIES.mkdir(parents=True, exist_ok=True)
            (self.base / "cache").symlink_to(CAPABILITIES)
        for name in ("run", "lib", "log", "cache", "etc"):
            (self.base / name).mkdir(exist_ok=True)
        COVERED.mkdir(exist_ok=True)
        settings = {"host_uuid": uuid.uuid4(), "base": self.base}
        (self.base / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF.format(**settings))
        (self.base / "etc/qemu.conf").write_text(QEMU_CONF)
        (self.base / "no-kvm").touch()
        (self.base / "etc/virtlogd.conf").write_text("")

    def _hold_namespaces(self) -> subprocess.Popen:
        self.addCleanup(remove_mount_points)
        with mount_points():
            return self._start_holder()

    def _start_holder(self) -> subprocess.Popen:
        holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private"]
            + ["sh", str(HOLDER), str(self.base), "kvm" if self._kvm else "no-kvm", *self.HOLD],
            env={"PATH": PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(self._remove, holder)
        answer = holder.stdout.readline()
        if answer != "ready\n":
            raise OSError(f"the namespaces of a private libvirtd were refused: {answer}")
        return holder

    def _run_daemon(self, name: str, socket: Path) -> None:
        """Start a daemon inside the namespaces; returns when its socket exists."""
        socket.unlink(missing_ok=True)
        pid_file = self.base / "run" / f"{name}.pid"
        with (self.base / "log" / f"{name}.out").open("ab") as out:
            child = subprocess.Popen(
                ["nsenter", "--target", str(self._holder.pid), "--mount", "--net"]
                + [name, "--config", f"/etc/libvirt/{name}.conf"]
                + ["--pid-file", str(pid_file)]
                + self.ARGUMENTS.get(name, []),
                env={"PATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._children.append(child)
        found = Process.of(child.pid, name)
        if found is None:
            raise OSError(f"{name} ended at once with status {child.wait()}")
        self.daemons[name] = found
        deadline = time.monotonic() + SECONDS
        while not socket.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                said = (self.base / "log" / f"{name}.out").read_text()
                raise TimeoutError(f"{name} did not start: {said} {self.log()}")
            time.sleep(0.02)

    def _remove(self, holder: subprocess.Popen) -> None:
        """End the holder, which first ends the daemons, their guests and dnsmasq."""
        holder.stdin.close()
        holder.wait(SECONDS)
        holder.stdout.close()
        for child in self._children:
            child.wait(SECONDS)
