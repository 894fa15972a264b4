"""password, freeze, thaw: what only the agent inside a guest can do."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, MagnetarError
from compute.model import states
from compute.rpc.primitives import data as fields_of
from compute.steps.domain import power
from compute.steps.record import publish

LOG = logging.getLogger(__name__)
FROZEN = "frozen"  # kind of the claim on a guest whose file systems stand still by our hand
CHUNKS, CHUNK = 4, 255  # how Nova keeps an encrypted password in system_metadata


def need_running(run: Run) -> None:
    """Raise Failed(code='not_running') unless the guest, and so its agent, can do something."""
    if power(run) != states.RUNNING:
        raise Failed(f"Guest {run.row.guest} does not run, so its agent cannot be asked.",
                     now="Nothing was changed.", next="Ask again when it runs.",
                     code="not_running")


# -- passwords ------------------------------------------------------------------------------------
class Password(Step):
    """Set the administrator's password; it may be set twice."""

    name = "password"
    attempts = 2  # somebody waits for the answer

    def do(self, run: Run) -> dict[str, str]:
        need_running(run)
        run.world.driver.set_password(run.row.guest, user(run), word(run))
        return {"user": user(run)}


def word(run: Run) -> str:
    """The password. Raises Failed(code='request_lost')."""
    found = run.world.secrets.load(run.row.id, "guest").get("admin_pass")
    if not found:
        raise Failed(f"There is no password for guest {run.row.guest}: it was empty, or lost with "
                     "the message.", now="Nothing was changed.", next="Ask again.",
                     code="request_lost")
    return str(found)


def user(run: Run) -> str:
    """Whose password it is: the image's os_admin_user, else what the system calls it."""
    named = run.guest.prop("os_admin_user")
    windows = (run.guest.os_type or run.guest.prop("os_type")) == "windows"
    return named or ("Administrator" if windows else "root")


class PasswordSet(Step):
    """No task any more; the password is kept, encrypted, where the guest has an RSA key."""

    name = "record"
    attempts = 1_000_000

    def do(self, run: Run) -> dict[str, bool]:
        changes: dict[str, Any] = {"task_state": None}
        fields = fields_of(run.instance)
        sealed = encrypted(fields.get("key_data"), word(run))
        if sealed:
            changes["system_metadata"] = {**(fields.get("system_metadata") or {}), **chunks(sealed)}
        return {"published": publish(run, changes, [states.UPDATING_PASSWORD])}


def encrypted(key: str | None, password: str) -> str | None:
    """A password for the owner of an ssh-rsa public key, as base64 text; None without such a key,
    or with one that is too small for it."""
    if not key or not key.startswith("ssh-rsa"):
        return None
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        public = load_ssh_public_key(key.encode())
        if not isinstance(public, rsa.RSAPublicKey):
            return None
        sealed = public.encrypt(password.encode(), padding.PKCS1v15())
    except Exception as error:  # noqa: BLE001 - no copy then; the password is set all the same
        LOG.info("The password is not kept, since the key cannot take it: %s", error)
        return None
    return base64.b64encode(sealed).decode()


def chunks(text: str) -> dict[str, str]:
    """A long text as Nova keeps it: password_0 to password_3."""
    return {f"password_{number}": text[number * CHUNK:(number + 1) * CHUNK]
            for number in range(CHUNKS)}


# -- file systems ---------------------------------------------------------------------------------
class Freeze(Step):
    """The guest's file systems stand still, with all that was written on their disks. The claim
    tells that they do, until they are let go."""

    name = "freeze"
    attempts = 1  # somebody waits for the answer, and would not hear a later one

    def claims(self, run: Run) -> list:
        return [(FROZEN, run.row.guest, {})]

    def probe(self, run: Run) -> Probe:
        raise Failed(f"Whether the file systems of guest {run.row.guest} were frozen is not known.",
                     now="They are let go, since nobody waits for it any more.",
                     next="Ask again.", code="freeze_unknown")

    def do(self, run: Run) -> None:
        try:
            need_running(run)
            run.world.driver.freeze(run.row.guest)
        except Failed as error:
            if error.code in ("not_running", "agent_missing"):
                run.world.journal.release(guest=run.row.guest, kind=FROZEN)
            raise

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        """An agent that does not answer keeps nobody from the guest: the claim stays, and it is
        asked again from time to time."""
        if run.world.journal.claims(kind=FROZEN, guest=run.row.guest):
            try:
                let_go(run)
            except MagnetarError as error:
                LOG.warning("The file systems of guest %s may stand still: %s", run.row.guest,
                            error)


class Thaw(Step):
    """The guest's file systems go on."""

    name = "thaw"
    attempts = 2

    def do(self, run: Run) -> None:
        let_go(run)


def let_go(run: Run) -> None:
    """Let file systems go on; a guest that does not run has none that stand still."""
    if power(run) == states.RUNNING:
        run.world.driver.thaw(run.row.guest)
    run.world.journal.release(guest=run.row.guest, kind=FROZEN)
