"""The guest's kernel: Debian's cloud kernel, downloaded once, and its modules in load order."""

import lzma
import re
import subprocess
import sys
import time
from pathlib import Path

META_PACKAGE = "linux-image-cloud-amd64"
ATTEMPTS = 3
PAUSE_SECONDS = 10  # between attempts


class KernelError(Exception):
    """The kernel or one of its modules cannot be had; the text says what to do."""


def fetch(cache: Path) -> Path:
    """Return the unpacked kernel package below `cache`, downloading it when there is none.

    Raises KernelError when the Debian archive does not give it.
    """
    unpacked = sorted(cache.glob("linux-image-*/boot/vmlinuz-*"))
    if unpacked:
        return unpacked[-1].parents[1]
    cache.mkdir(parents=True, exist_ok=True)
    package, archive = _download(cache)
    partial, tree = cache / "partial", cache / package
    run("rm", "-rf", str(partial))
    run("dpkg-deb", "-x", str(archive), str(partial))
    partial.rename(tree)
    archive.unlink()
    return tree


def _download(cache: Path) -> tuple[str, Path]:
    """The kernel's package and its archive; tried again with new package lists, since the
    archive may be away for a moment, or have a newer kernel than old lists tell."""
    for left in reversed(range(ATTEMPTS)):
        try:
            package = _concrete_package()
            run("apt-get", "-q", "download", package, cwd=cache)
            return package, next(cache.glob(f"{package}_*.deb"))
        except KernelError as error:
            if not left:
                raise
            print(f"{error}\nTrying again, {left} times at most.", file=sys.stderr, flush=True)
            time.sleep(PAUSE_SECONDS)
            subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
    raise AssertionError("not reached")


def _concrete_package() -> str:
    """The meta package's dependency: linux-image-<version>-cloud-amd64."""
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)\b", _depends())
    if not found:
        run("apt-get", "-q", "update")
        found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)\b", _depends())
    if not found:
        raise KernelError(
            f"The package lists know no {META_PACKAGE}. Nothing was built. "
            "Check /etc/apt/sources.list (Debian 12, main), then run this again."
        )
    return found[1]


def _depends() -> str:
    done = subprocess.run(
        ["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, check=False
    )
    return done.stdout


def run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(
            f"'{' '.join(command)}' failed: {done.stderr.strip()}. Nothing was built. "
            "Check that the Debian archive can be reached, then run this again."
        )


class Modules:
    """Loadable modules of an unpacked kernel tree."""

    def __init__(self, tree: Path) -> None:
        self.vmlinuz = next((tree / "boot").glob("vmlinuz-*"))
        version = self.vmlinuz.name.removeprefix("vmlinuz-")
        top = tree / "lib/modules" / version
        self._files = {_name(path): path for path in (top / "kernel").rglob("*.ko*")}
        builtin = (top / "modules.builtin").read_text().split()
        self._builtin = {_name(Path(line)) for line in builtin}

    def load_order(self, wanted: list[str]) -> list[str]:
        """Names of the wanted modules and all that they need, dependencies first.

        Modules that are built into the kernel are left out. Raises KernelError for an unknown one.
        """
        order: list[str] = []
        for name in wanted:
            self._add(name, order)
        return order

    def content(self, name: str) -> bytes:
        """The module's ELF file, decompressed."""
        path = self._files[name]
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data

    def _add(self, name: str, order: list[str]) -> None:
        if name in order or name in self._builtin:
            return
        if name not in self._files:
            raise KernelError(f"The kernel {self.vmlinuz.name} has no module {name}.")
        found = re.search(rb"\0depends=([^\0]*)\0", self.content(name))
        for needed in (found[1].decode() if found else "").split(","):
            if needed:
                self._add(needed.replace("-", "_"), order)
        order.append(name)


def _name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")
