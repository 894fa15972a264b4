"""What the tests of storage share: a store on a temporary directory, and images for it."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fixtures
import testtools
from oslo_config import cfg

from compute import concurrency
from compute.conf import agent, disk, volumes
from compute.errors import Refused
from compute.model.guest import Flavor, Guest, Image
from tests.waiting import PATIENCE
from virt.storage import (
    aside,
    cache,
    copying,
    dirs,
    files,
    growing,
    incoming,
    making,
    shared,
    source,
    store,
)

GIB = 1024**3
MODULES = (
    aside, cache, copying, dirs, files, growing, incoming, making, shared, source, store,
)  # fmt: skip


def nothing(*_args: Any) -> None:
    """As progress or cancel."""


def qemu_img(*argv: str) -> str:
    """Run qemu-img without limits, as whoever makes an image does."""
    return subprocess.run(
        ["qemu-img", *argv], check=True, capture_output=True, text=True, timeout=PATIENCE
    ).stdout


def make_conf(**overrides: Any) -> cfg.ConfigOpts:
    """Configuration of the agent and of disks; ``overrides`` are options of [disk]."""
    conf = cfg.ConfigOpts()
    conf.register_opts(agent.OPTS)
    conf.register_opts(disk.OPTS, group=disk.GROUP)
    conf.register_opts(volumes.OPTS, group=volumes.GROUP)
    conf([], project="storage-test", default_config_files=[], default_config_dirs=[])
    for name, value in overrides.items():
        conf.set_override(name, value, group="disk" if name in conf.disk else "libvirt")
    return conf


def make_guest(image: Image | None = None, **fields: Any) -> Guest:
    """A guest with a root disk of one GiB."""
    values: dict[str, Any] = {
        "uuid": str(uuid.uuid4()),
        "name": "instance-00000001",
        "display_name": "web 1",
        "hostname": "web-1",
        "flavor": Flavor("small", 1, 128, root_gb=1),
        "image": image,
    }
    return Guest(**values | fields)


class Source:
    """Images that are files; counts the downloads."""

    def __init__(self) -> None:
        self.images: dict[str, tuple[Image, str]] = {}
        self.downloads: list[str] = []
        self.before: Callable[[str], None] = nothing

    def add(self, path: str, **fields: Any) -> Image:
        values: dict[str, Any] = {"id": str(uuid.uuid4()), "disk_format": "qcow2"}
        image = Image(**values | {"size": os.stat(path).st_size} | fields)
        self.images[image.id] = (image, path)
        return replace(image)

    def show(self, image_id: str) -> Image:
        if image_id not in self.images:
            raise Refused("There is no such image.", code="image_not_found")
        return self.images[image_id][0]

    def download(
        self, image_id: str, path: str, progress: Callable, cancel: Callable
    ) -> None:
        self.downloads.append(image_id)
        with open(self.images[image_id][1], "rb") as reading, open(path, "wb") as writing:
            data = reading.read()
            writing.write(data[:1000])
            writing.flush()
            self.before(path)
            cancel()
            writing.write(data[1000:])
            progress(len(data), len(data))


class StorageTest(testtools.TestCase):
    """A store, a source of images, and a directory for both."""

    def setUp(self) -> None:
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir()).path
        self.path = os.path.join(self.dir, "instances")
        self.source = Source()
        self.store = self.make_store()

    def make_store(self, **overrides: Any) -> store.Store:
        return store.Store(make_conf(**{"instances_path": self.path} | overrides))

    def file(self, name: str, data: bytes = b"") -> str:
        path = os.path.join(self.dir, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def qcow2(self, name: str = "image.qcow2", size: str = "64M", *options: str) -> str:
        path = os.path.join(self.dir, name)
        qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
        qemu_io(path, "write -P 7 1M 64k")
        return path

    def raw(self, name: str = "image.raw", size: int = 1024 * 1024) -> str:
        path = self.file(name, b"\x07" * 4096)
        os.truncate(path, size)
        return path

    def fetch(self, image: Image):
        return self.store.fetch_image(image, self.source, nothing, nothing)

    def names(self, folder: str) -> list[str]:
        path = os.path.join(self.path, folder)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def in_child(self, function: Callable[[], Any]) -> int:
        """Run a function that uses the store in a forked process; returns its exit code."""
        if concurrency.mode() == "eventlet":
            self.skipTest("a forked process has no native threads for the store under eventlet")
        return os.waitstatus_to_exitcode(in_child(function))

    def leftovers(self) -> list[str]:
        """Half-made files anywhere below the instances' path."""
        return [
            os.path.join(folder, name)
            for folder, folders, names in os.walk(self.path)
            for name in [*folders, *names]
            if ".part." in name
        ]

    def assertFails(self, kind: type[Exception], code: str, function: Callable, *args: Any):
        """The call raises this kind with this code, and all three sentences."""
        error = self.assertRaises(kind, function, *args)
        self.assertEqual(code, error.code, str(error))
        self.assertTrue(error.what and error.now and error.next, error.to_dict())
        return error


def qemu_io(path: str, command: str, format: str = "qcow2") -> str:
    """Read or write a disk as a guest would."""
    return subprocess.run(
        ["qemu-io", "-f", format, "-c", command, path],
        check=True, capture_output=True, text=True, timeout=PATIENCE,
    ).stdout


def in_child(function: Callable[[], Any]) -> int:
    """Run a function in a forked process; returns its wait status (0: it returned)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)  # no clean-up of the parent's things
    return os.waitpid(pid, 0)[1]


def kill_self(*_args: Any) -> None:
    """Die as by kill -9: no clean-up at all."""
    os.kill(os.getpid(), signal.SIGKILL)


CALLS = (
    "replace", "fsync", "chmod", "utime", "rename", "unlink", "mkdir", "rmdir", "ftruncate", "link",
)


class Deadly:
    """Stands for the os module in the storage modules: one of its calls is the last."""

    def __init__(self, last: int, after: bool):
        self.last, self.after, self.count = last, after, 0

    def __getattr__(self, name):
        function = getattr(os, name)
        if name not in CALLS:
            return function

        def call(*args, **kwargs):
            self.count += 1
            if self.count == self.last and not self.after:
                kill_self()
            try:
                return function(*args, **kwargs)
            finally:
                if self.count == self.last:
                    kill_self()

        return call


class KillTest(StorageTest):
    """Kills a process that uses the store, at each call that changes the disk."""

    def use_os(self, module):
        for user in MODULES:
            user.os = module

    def killed_at_every_call(self, work, check):
        """Run ``work`` in processes that die at the first, second, … call; ``check`` after each.

        Returns how many points there were.
        """
        for last in range(1, 500):
            for after in (False, True):

                def child(last=last, after=after):
                    self.use_os(Deadly(last, after))
                    work()

                status = self.in_child(child)
                check()
                if status == 0:
                    return last - 1
                self.assertEqual(-9, status)
        raise AssertionError("the work has no end")
