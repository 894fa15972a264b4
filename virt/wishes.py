"""Reads what a flavor's extra specs and an image's properties ask for, and refuses by name.

A value that is not known is refused with the name that carried it and what is allowed, so that a
guest never silently gets less than was asked for.
"""

from __future__ import annotations

from typing import Any, NoReturn

from oslo_utils import strutils

from compute.errors import Failed, Refused
from compute.model.guest import Guest


def refuse(source: str, name: str, value: Any, allowed: str) -> NoReturn:
    """Raise Failed for what no host can do; ``source`` is ``flavor`` or ``image``."""
    place = "The image property" if source == "image" else "The flavor's extra spec"
    raise Failed(
        f"{place} {name}={value} cannot be used here.",
        now="The guest was not defined; nothing was changed.",
        next=f"Set it to {allowed}, or remove it.",
        code=f"{source}_unacceptable",
    )


def lacking(what: str, next: str) -> Refused:
    """What another host may be able to do: the scheduler is told and may try it there."""
    return Refused(what, now="Nothing was made on this host.", next=next, code="host_unfit")


class Wishes:
    """One guest's image properties and extra specs.

    What Nova lets both say has one name in two spellings: ``hw:locked_memory`` in a flavor,
    ``hw_locked_memory`` in an image. The methods that take no source read both; the flavor goes
    before the image, and a contradiction is refused where ``agree`` says so.
    """

    def __init__(self, guest: Guest):
        self.guest, self.specs = guest, guest.flavor.extra_specs

    # -- one of both -----------------------------------------------------------------------
    def word(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """An image property that has to be one of ``allowed``."""
        value = self.guest.prop(name)
        if value is None:
            return default
        if value not in allowed:
            refuse("image", name, value, "one of " + ", ".join(allowed))
        return value

    def spec(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """An extra spec that has to be one of ``allowed``."""
        value = self.specs.get(name)
        if value is not None and value not in allowed:
            refuse("flavor", name, value, "one of " + ", ".join(allowed))
        return value

    def switch(self, source: str, name: str) -> bool | None:
        """A yes or no, None when not said."""
        value = self.guest.prop(name) if source == "image" else self.specs.get(name)
        if value is None:
            return None
        try:
            return strutils.bool_from_string(value, strict=True)
        except ValueError:
            refuse(source, name, value, "true or false")

    def number(self, source: str, name: str) -> int | None:
        """A whole number above zero, None when not said."""
        value = self.guest.prop(name) if source == "image" else self.specs.get(name)
        if value is None:
            return None
        text = str(value).strip()
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
            refuse(source, name, value, "a whole number above 0")
        return int(text)

    # -- flavor and image ------------------------------------------------------------------
    def said(self, key: str, agree: bool = True) -> tuple[str, str, str] | None:
        """(source, name, value) of ``hw:key`` or ``hw_key``; None when neither says anything.

        :param agree: refuse an image that contradicts its flavor; else the flavor's word counts.
        """
        flavor, image = self.specs.get(f"hw:{key}"), self.guest.prop(f"hw_{key}")
        if flavor is not None:
            if agree and image is not None and str(image).lower() != str(flavor).lower():
                refuse("image", f"hw_{key}", image, f"{flavor}, as the flavor says")
            return "flavor", f"hw:{key}", str(flavor)
        return None if image is None else ("image", f"hw_{key}", str(image))

    def choice(self, key: str, allowed: tuple[str, ...], agree: bool = True) -> str | None:
        """``hw:key`` or ``hw_key``, which has to be one of ``allowed``."""
        found = self.said(key, agree)
        if found is None:
            return None
        source, name, value = found
        if value not in allowed:
            refuse(source, name, value, "one of " + ", ".join(allowed))
        return value

    def yes(self, key: str, agree: bool = True) -> bool | None:
        """``hw:key`` or ``hw_key`` as a yes or no, None when not said. An image whose word means
        the same as the flavor's contradicts nothing."""
        flavor, image = self.switch("flavor", f"hw:{key}"), self.switch("image", f"hw_{key}")
        if agree and None not in (flavor, image) and flavor != image:
            refuse("image", f"hw_{key}", self.guest.prop(f"hw_{key}"),
                   f"{str(flavor).lower()}, as the flavor says")  # fmt: skip
        return image if flavor is None else flavor
