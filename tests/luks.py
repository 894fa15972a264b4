"""Encrypted disks for tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.waiting import PATIENCE

TRIES = 50
# QEMU 7.2 times how fast the machine derives keys, and gives up when the kernel's clock of CPU time
# did not tick meanwhile.
UNTIMED = "Unable to get accurate CPU usage"


def make(path: str, passphrase: str, size: str) -> None:
    """Make a LUKS disk of a size such as ``8M``; the passphrase lies in a file beside it meanwhile.

    :raises OSError: with what qemu-img says.
    """
    key = Path(f"{path}.key")
    key.write_text(passphrase)
    for _ in range(TRIES):
        done = subprocess.run(
            ["qemu-img", "create", "-q", "--object", f"secret,id=it,file={key}", "-f", "luks",
             "-o", "key-secret=it,iter-time=10", path, size],
            capture_output=True, text=True, check=False, timeout=PATIENCE)  # fmt: skip
        if not done.returncode:
            break
        if UNTIMED not in done.stderr:
            raise OSError(done.stderr)
    else:
        raise OSError(f"{TRIES} times: {done.stderr}")
    os.unlink(key)
