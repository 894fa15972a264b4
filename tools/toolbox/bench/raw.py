"""What bare libvirt-python needs for the same guests: define and start, nothing else."""

from __future__ import annotations

import concurrent.futures
import pathlib
import re
import subprocess
import time
import uuid
from dataclasses import dataclass

import libvirt


@dataclass(frozen=True)
class Twin:
    """A copy of a guest's definition under another name, with disks of its own."""

    name: str
    xml: str


class Raw:
    """Defines and starts copies of a guest that Magnetar made.

    :param uri: libvirt's URI.
    :param home: where the copies' disks go.
    """

    def __init__(self, uri: str, home: pathlib.Path):
        self.connection = libvirt.open(uri)
        self.home = home

    def twin(self, name: str, of: str) -> Twin:
        """Prepare a copy of domain ``of``; disks and log files are made here, outside of what is
        timed."""
        xml = self.connection.lookupByName(of).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        directory = self.home / name
        directory.mkdir(parents=True)
        for path in sorted(set(re.findall(r"(?:file|path)='(/[^']*/instances/[^']*)'", xml))):
            if "/_base/" in path:
                continue
            copy = directory / pathlib.Path(path).name
            xml = xml.replace(path, str(copy))
            if pathlib.Path(path).name == "console.log":
                copy.touch()
            else:
                subprocess.run(["cp", path, str(copy)], check=True)
        xml = re.sub(r"<name>[^<]*</name>", f"<name>{name}</name>", xml)
        xml = re.sub(r"<uuid>[^<]*</uuid>", f"<uuid>{uuid.uuid4()}</uuid>", xml)
        xml = re.sub(r"<entry name='(serial|uuid)'>[^<]*</entry>", "", xml)
        xml = re.sub(r"<mac address='[^']*'/>", "", xml)
        xml = re.sub(r"<metadata>.*?</metadata>", "", xml, flags=re.DOTALL)
        return Twin(name, xml)

    def boot(self, twin: Twin) -> float:
        """Define and start one copy; returns seconds."""
        began = time.monotonic()
        self.connection.defineXML(twin.xml).create()
        return time.monotonic() - began

    def boot_together(self, twins: list[Twin]) -> float:
        """Define and start copies at once; returns seconds until all run."""
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(twins)) as pool:
            list(pool.map(self.boot, twins))
        return time.monotonic() - began

    def remove(self, twins: list[Twin]) -> float:
        """Stop and undefine copies one by one; returns seconds for each."""
        began = time.monotonic()
        for twin in twins:
            domain = self.connection.lookupByName(twin.name)
            domain.destroy()
            domain.undefine()
        return (time.monotonic() - began) / len(twins)
