"""Servers of volumes in user space: qemu-nbd and tgt's iSCSI target, in a libvirtd's network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import fixtures

from tests.integration.libvirtd import PATH, PrivateLibvirtd
from tests.integration.patience import SECONDS, until

IQN = "iqn.2026-11.org.example:magnetar"
BLOCK_ISCSI = "block-iscsi.so"


def missing() -> str | None:
    """Why these servers cannot run here; None when they can. Tests skip with this text."""
    for command, package in (("tgtd", "tgt"), ("tgtadm", "tgt"), ("qemu-nbd", "qemu-utils")):
        if not shutil.which(command, path=PATH):
            return f"{command} is not installed (package {package})"
    if not list(Path("/usr/lib").glob(f"*/qemu/{BLOCK_ISCSI}")):
        return f"QEMU has no {BLOCK_ISCSI} (package qemu-block-extra)"
    return None


class Targets(fixtures.Fixture):
    """Files below ``base``, served on the loopback address that the daemon's guests see."""

    def __init__(self, daemon: PrivateLibvirtd, base: str):
        super().__init__()
        self._daemon, self._base = daemon, base
        self._socket = os.path.join(base, "tgt")

    def file(self, name: str, size: int = 16 << 20) -> str:
        """An empty file of so many bytes."""
        path = os.path.join(self._base, name)
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def nbd(self, path: str, port: int = 10809, export: str = "volume") -> None:
        """Serve a file by NBD; whoever may connect comes and goes."""
        self._run("qemu-nbd", "--persistent", "--shared=8", "--format=raw", "--bind=127.0.0.1",
                  f"--port={port}", f"--export-name={export}", path)  # fmt: skip
        self._wait_for("qemu-nbd", "--list", "--bind=127.0.0.1", f"--port={port}")

    def iscsi(self, path: str, user: str, password: str, lun: int = 1) -> None:
        """Serve a file by iSCSI to whoever knows the password."""
        self._run("tgtd", "--foreground", "--iscsi", "portal=127.0.0.1:3260")
        self._wait_for("tgtadm", "--lld", "iscsi", "--mode", "system", "--op", "show")
        for argv in (
            ("target", "new", "--targetname", IQN),
            ("logicalunit", "new", "--lun", str(lun), "--backing-store", path),
            ("target", "bind", "--initiator-address", "ALL"),
        ):
            self._tgtadm(*argv, "--tid", "1")
        self._tgtadm("account", "new", "--user", user, "--password", password)
        self._tgtadm("account", "bind", "--user", user, "--tid", "1")

    def sessions(self) -> int:
        """How many initiators are logged in at the iSCSI target."""
        return self._tgtadm("target", "show").count("I_T nexus:")

    def _tgtadm(self, mode: str, op: str, *rest: str) -> str:
        return subprocess.run(
            self._inside("tgtadm", "--lld", "iscsi", "--mode", mode, "--op", op, *rest),
            env=self._env(), check=True, capture_output=True, text=True, timeout=SECONDS,
        ).stdout  # fmt: skip

    def _wait_for(self, *argv: str) -> None:
        def answers() -> bool:
            return not subprocess.run(self._inside(*argv), env=self._env(), check=False,
                                      capture_output=True, timeout=SECONDS).returncode  # fmt: skip
        if not until(answers):
            raise TimeoutError(f"{argv[0]} does not answer")

    def _run(self, *argv: str) -> None:
        with open(os.path.join(self._base, f"{argv[0]}.log"), "ab") as log:
            child = subprocess.Popen(self._inside(*argv), env=self._env(),
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        self.addCleanup(child.wait, SECONDS)
        self.addCleanup(child.kill)

    def _inside(self, *argv: str) -> list[str]:
        return ["nsenter", "--target", str(self._daemon.holder), "--net", *argv]

    def _env(self) -> dict[str, str]:
        return {"PATH": PATH, "TGT_IPC_SOCKET": self._socket}
