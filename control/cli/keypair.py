"""Commands about key pairs."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Lister, ShowOne, file_text, shown, table
from control.cli.named import DeleteNamed, ShowNamed
from control.cli.server import PUBLIC_KEY_LIMIT

COLUMNS = (("Name", "name"), ("Fingerprint", "fingerprint"), ("Type", "type"))


class Create(ShowOne):
    """Store a public key under a name"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The private key is never asked for."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "--public-key", required=True, metavar="FILE", help="The public key, as in id_*.pub."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Store it."""
        key = file_text(parsed_args.public_key, PUBLIC_KEY_LIMIT).strip()
        return shown(self.client.call("keypair.create", name=parsed_args.name, public_key=key))


class List(Lister):
    """List key pairs"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All key pairs."""
        return table(self.client.call("keypair.list"), COLUMNS)


class Show(ShowNamed):
    """Show a key pair's public half"""

    noun = "keypair"


class Delete(DeleteNamed):
    """Delete key pairs; servers keep the keys that they were given"""

    noun = "keypair"
