"""The agent that a guest may run, Debian's qemu-guest-agent, with the libraries that it needs."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import kernel

PACKAGES = ["qemu-guest-agent", "libc6", "libglib2.0-0", "libnuma1", "libpcre2-8-0", "libudev1",
            "liburing2"]  # fmt: skip
LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = ["libc.so.6", "libm.so.6", "libglib-2.0.so.0", "libgmodule-2.0.so.0", "libnuma.so.1",
             "libpcre2-8.so.0", "libudev.so.1", "liburing.so.2"]  # fmt: skip
DIRECTORIES = ["lib64", "lib/x86_64-linux-gnu"]
PROGRAM = "usr/sbin/qemu-ga"


def fetch(cache: Path) -> Path:
    """Return the unpacked packages below `cache`, downloading them when there are none.

    Raises KernelError when the Debian archive does not give them.
    """
    tree = cache / "tree"
    if (tree / PROGRAM).exists():
        return tree
    partial = cache / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for left in reversed(range(kernel.ATTEMPTS)):
        try:
            kernel.run("apt-get", "-q", "download", *PACKAGES, cwd=partial)
            break
        except kernel.KernelError:
            if not left:
                raise
            time.sleep(kernel.PAUSE_SECONDS)
            subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
    for archive in partial.glob("*.deb"):
        kernel.run("dpkg-deb", "-x", str(archive), str(partial / "tree"))
    shutil.rmtree(tree, ignore_errors=True)
    (partial / "tree").rename(tree)
    shutil.rmtree(partial)
    return tree


def files(tree: Path) -> Iterator[tuple[str, bytes]]:
    """Where everything goes in the guest, and what it is."""
    yield "bin/qemu-ga", (tree / PROGRAM).read_bytes()
    for name in LIBRARIES:
        yield f"lib/x86_64-linux-gnu/{name}", _found(tree, name).read_bytes()
    yield LOADER, _found(tree, Path(LOADER).name).read_bytes()


def _found(tree: Path, name: str) -> Path:
    """A library below lib or usr/lib; links between the two are not unpacked as such."""
    for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        if (tree / folder / name).exists():
            return tree / folder / name
    raise kernel.KernelError(f"Debian's packages {' '.join(PACKAGES)} hold no {name}.")
