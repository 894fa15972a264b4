"""Several hypervisor hosts as a fixture, on tools/toolbox/lab.

    lab = self.useFixture(LabFixture(hosts=2)).lab
    with contextlib.closing(lab.host("host1").libvirt()) as connection: ...

``lab`` is a :class:`tools.toolbox.lab.Lab`. A test case calls ``self.skipTest(missing(...))``
when ``missing()`` gives a reason.
"""

from __future__ import annotations

import os
import subprocess
import uuid

import fixtures
from testtools.content import Content
from testtools.content_type import UTF8_TEXT

from tools.toolbox.lab import Lab, LabError, LabHost
from tools.toolbox.lab.lab import missing, sweep
from tools.toolbox.lab.place import TOP
from tools.toolbox.lab.settings import Options
from tools.toolbox.processes import Process

IMAGE = TOP / ".cache/guest.qcow2"
__all__ = ["IMAGE", "Lab", "LabError", "LabFixture", "LabHost", "build_image", "missing"]


class LabFixture(fixtures.Fixture):
    """A lab of its own for a test; it goes with the test, and by sweep() when the test is killed.

    :param hosts: how many.
    :param shared: the instance directory is one on all hosts.
    :param bare: libvirt only, which takes one second instead of some.
    :param options: of agents and control plane, {group: {option: value}}.
    """

    def __init__(
        self, hosts: int = 2, shared: bool = False, bare: bool = False,
        options: Options | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.hosts, self.shared, self.bare, self.options = hosts, shared, bare, options

    def _setUp(self) -> None:
        sweep()
        self.lab = Lab(f"test-{os.getpid()}-{uuid.uuid4().hex[:6]}")
        self.addCleanup(self.lab.down)
        self.addDetail("logs", Content(UTF8_TEXT, lambda: [self.logs().encode()]))
        self.lab.up(
            self.hosts, self.shared, self.bare, self.options,
            owner=Process.of(os.getpid(), "tests"),
        )  # fmt: skip

    def logs(self) -> str:
        """The ends of all logs, for messages of failed tests."""
        files = sorted(self.lab.place.directory.glob("**/log/*.log"))
        texts = {path: path.read_text(errors="replace")[-2000:] for path in files}
        return "\n".join(f"== {path}\n{text}" for path, text in texts.items() if text)


def build_image() -> None:
    """Make IMAGE, the guest of tools/build-guest, unless it is there."""
    subprocess.run(
        [str(TOP / "tools/build-guest"), str(IMAGE)], check=True, capture_output=True
    )
