"""Flavors, key pairs and server groups."""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid as uuidlib
from typing import Any

from sqlalchemy.exc import IntegrityError

from compute.errors import Refused
from control import common, views
from control.common import NOTHING
from db.control import catalog
from db.control.store import Store

Row = dict[str, Any]
KEY_TYPES = ("ssh-rsa", "ssh-ed25519", "ssh-dss", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384",
             "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com",
             "sk-ecdsa-sha2-nistp256@openssh.com")
POLICIES = ("affinity", "anti-affinity")


class Catalog:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store

    # -- flavors -------------------------------------------------------------------------------

    def flavor_create(
        self,
        name: str,
        vcpus: int,
        ram: int,
        disk: int = 0,
        ephemeral: int = 0,
        swap: int = 0,
        id: str | None = None,  # noqa: A002 - openstackclient's word
        properties: dict[str, str] | None = None,
    ) -> Row:
        """Create a flavor. ``ram`` and ``swap`` in MiB, ``disk`` and ``ephemeral`` in GiB; a disk
        of 0 is as large as the image.

        :raises Refused: a size is absurd, or id or name are taken.
        """
        name = common.checked_name("flavor", name)
        values = {
            "name": name,
            "flavorid": common.checked_name("flavor", id) if id else str(uuidlib.uuid4()),
            "vcpus": common.checked_number("The number of vCPUs", vcpus, 1),
            "memory_mb": common.checked_number("The memory", ram, 1),
            "root_gb": common.checked_number("The disk", disk, 0),
            "ephemeral_gb": common.checked_number("The ephemeral disk", ephemeral, 0),
            "swap": common.checked_number("The swap", swap, 0),
            "extra_specs": common.checked_properties("extra spec", properties),
        }
        try:
            with self.store.begin() as connection:
                return views.flavor(catalog.create_flavor(connection, values))
        except IntegrityError as error:
            raise common.taken("flavor", name) from error

    def flavor_list(self) -> list[Row]:
        """All flavors, the smallest first."""
        with self.store.begin() as connection:
            return [views.flavor(row) for row in catalog.list_flavors(connection)]

    def flavor_show(self, flavor: str) -> Row:
        """One flavor by id or name."""
        return views.flavor(self._flavor(flavor))

    def flavor_delete(self, flavor: str) -> None:
        """Delete a flavor; servers keep their own copy of it."""
        row = self._flavor(flavor)
        with self.store.begin() as connection:
            catalog.delete_flavor(connection, row["id"])

    def _flavor(self, key: str) -> Row:
        with self.store.begin() as connection:
            rows = catalog.find_flavors(connection, key)
        return common.one("flavor", key, rows, ("flavorid",))

    # -- key pairs -----------------------------------------------------------------------------

    def keypair_create(self, name: str, public_key: str) -> Row:
        """Store a public key under a name.

        :raises Refused: it is no OpenSSH public key, or the name is taken.
        """
        name = common.checked_name("keypair", name)
        fingerprint = key_fingerprint(public_key)
        values = {"name": name, "public_key": public_key.strip(), "type": "ssh",
                  "fingerprint": fingerprint}
        try:
            with self.store.begin() as connection:
                return views.keypair(catalog.create_keypair(connection, values))
        except IntegrityError as error:
            raise common.taken("keypair", name) from error

    def keypair_list(self) -> list[Row]:
        """All key pairs in order of name."""
        with self.store.begin() as connection:
            return [views.keypair(row) for row in catalog.list_keypairs(connection)]

    def keypair_show(self, keypair: str) -> Row:
        """One key pair."""
        return views.keypair(self._keypair(keypair))

    def keypair_delete(self, keypair: str) -> None:
        """Delete a key pair; servers keep the key."""
        self._keypair(keypair)
        with self.store.begin() as connection:
            catalog.delete_keypair(connection, keypair)

    def _keypair(self, name: str) -> Row:
        with self.store.begin() as connection:
            return common.one("keypair", name, catalog.list_keypairs(connection, name), ("name",))

    def _public_key(self, key_name: str | None, public_key: str | None) -> str | None:
        """The key that a new server gets, given as such or by name."""
        if public_key:
            key_fingerprint(public_key)
            return public_key.strip()
        return self._keypair(key_name)["public_key"] if key_name else None

    # -- server groups -------------------------------------------------------------------------

    def group_create(self, name: str, policy: str = "anti-affinity",
                     max_server_per_host: int | None = None) -> Row:
        """Create a server group: ``affinity`` (all on one host) or ``anti-affinity`` (each on
        another one, or up to ``max_server_per_host`` on one)."""
        name = common.checked_name("server group", name)
        if policy not in POLICIES:
            raise Refused(f"The policy {policy!r} is not known.", now=NOTHING, code="bad_value",
                          next=f"Use {' or '.join(POLICIES)}.")
        if max_server_per_host is not None:
            common.checked_number("The number of servers on one host", max_server_per_host, 1)
        values = {"name": name, "policy": policy, "max_server_per_host": max_server_per_host}
        try:
            with self.store.begin() as connection:
                return views.group(catalog.create_group(connection, values))
        except IntegrityError as error:
            raise common.taken("server group", name) from error

    def group_list(self) -> list[Row]:
        """All server groups in order of name."""
        with self.store.begin() as connection:
            return [views.group(row, catalog.group_members(connection, row["uuid"]))
                    for row in catalog.list_groups(connection)]

    def group_show(self, group: str) -> Row:
        """One server group by id or name, with its members."""
        with self.store.begin() as connection:
            row = common.one("server group", group, catalog.find_groups(connection, group))
            return views.group(row, catalog.group_members(connection, row["uuid"]))

    def group_delete(self, group: str) -> None:
        """Delete a server group; its servers stay where they are."""
        with self.store.begin() as connection:
            row = common.one("server group", group, catalog.find_groups(connection, group))
            catalog.delete_group(connection, row["uuid"])


def key_fingerprint(public_key: str) -> str:
    """The MD5 fingerprint of an OpenSSH public key, as Nova shows it.

    :raises Refused: code ``bad_key``.
    """
    parts = public_key.split()
    try:
        if len(public_key.strip().splitlines()) != 1 or parts[0] not in KEY_TYPES:
            raise ValueError("its first word is no known type of key")
        data = base64.b64decode(parts[1], validate=True)
    except (IndexError, ValueError, binascii.Error) as error:
        raise Refused(
            f"This is no OpenSSH public key: {error}.", now=NOTHING, code="bad_key",
            next="Give the contents of a file such as id_ed25519.pub.",
        ) from error
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
