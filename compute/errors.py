"""The five kinds of error, and the one way in which Magnetar tells a person what went wrong.

Every error carries three sentences: what happened, what is true now, what to do next. ``code`` is
a stable word for machines; :mod:`compute.rpc.exceptions` maps it to the exception class that
Nova's callers expect.
"""


class MagnetarError(Exception):
    """Base of the five kinds.

    :param what: what happened, one sentence.
    :param now: what is true now.
    :param next: what happens next, or what the reader should do.
    :param code: stable word for machines, for example ``no_room`` or ``busy``.
    """

    kind = "error"

    def __init__(self, what: str, *, now: str = "", next: str = "", code: str = ""):
        self.what, self.now, self.next = what, now, next
        self.code = code or self.kind
        super().__init__(" ".join(part for part in (what, now, next) if part))

    def to_dict(self) -> dict[str, str]:
        """The error as plain data: kind, code, what, now, next."""
        return {
            "kind": self.kind,
            "code": self.code,
            "what": self.what,
            "now": self.now,
            "next": self.next,
        }


class Refused(MagnetarError):
    """The request was not accepted; nothing was done."""

    kind = "refused"


class Retryable(MagnetarError):
    """It did not work now; nothing changed, and the same attempt may work later."""

    kind = "retryable"


class Failed(MagnetarError):
    """It cannot work; what was begun has to be undone."""

    kind = "failed"


class Unknown(MagnetarError):
    """It may or may not have happened (a timeout, a lost connection): observe before acting."""

    kind = "unknown"


class NeedsOperator(MagnetarError):
    """A person has to decide; ``next`` holds the exact command."""

    kind = "needs_operator"


class Aborted(Failed):
    """The operation was told to stop (by a delete, or by an operator); undo it."""

    def __init__(self, what: str, *, now: str = "", next: str = "", code: str = "aborted"):
        super().__init__(what, now=now, next=next, code=code)


class Parked(Exception):
    """The agent is stopping: the operation rests at a step border and continues at next start.

    Not one of the five kinds, since nothing went wrong.
    """


class Turned(Exception):
    """While an operation is undone, what it was to bring about has happened after all: it goes
    forward again. Raised by a step's undo, before it took anything away.

    Not one of the five kinds, since nothing went wrong.
    """


KINDS = {cls.kind: cls for cls in (Refused, Retryable, Failed, Unknown, NeedsOperator)}


def from_dict(data: dict) -> MagnetarError:
    """Build the error that :meth:`MagnetarError.to_dict` described."""
    cls = KINDS.get(data.get("kind", ""), Failed)
    return cls(
        data.get("what", "an error without a description"),
        now=data.get("now", ""),
        next=data.get("next", ""),
        code=data.get("code", ""),
    )
