"""What oslo.messaging does with our entities and contexts: entities pass, contexts become dicts.

Versioned objects are plain dicts already (:mod:`compute.rpc.primitives`), so there is nothing to
serialise. A context keeps every key it came with; what Nova added to its own is sent on unchanged.
"""

from __future__ import annotations

from typing import Any

import oslo_messaging
from oslo_context import context as oslo_context


class Context(oslo_context.RequestContext):
    """Who asks, and the id of the request (``req-…``).

    ``extra`` holds the keys of Nova's context that oslo.context has no place for
    (``read_deleted``, ``service_catalog``, ``timestamp`` and so on).
    """

    def __init__(self, *args: Any, extra: dict[str, Any] | None = None, **kwargs: Any):
        kwargs.setdefault("overwrite", False)
        super().__init__(*args, **kwargs)
        self.extra = dict(extra or {})

    def to_dict(self) -> dict[str, Any]:
        """The context as on the wire, without the ``_context_`` prefix."""
        values = {**self.extra, **super().to_dict()}
        values.setdefault("read_deleted", "no")
        values.update(user_id=self.user_id, project_id=self.project_id, is_admin=self.is_admin)
        values.update(user_name=self.user_name, project_name=self.project_name)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], **kwargs: Any) -> Context:
        """Build a context from what came over the wire; unknown keys are kept in ``extra``."""
        kwargs.setdefault("user_id", values.get("user_id") or values.get("user"))
        kwargs.setdefault("project_id", values.get("project_id") or values.get("project"))
        return super().from_dict(values, extra=values, **kwargs)


def admin_context(request_id: str | None = None, **kwargs: Any) -> Context:
    """A context of the service's own; a new request id unless one is given."""
    return Context(is_admin=True, request_id=request_id, **kwargs)


class ContextSerializer(oslo_messaging.Serializer):
    """Entities untouched; contexts as dicts with ``request_id`` and all keys of Nova's."""

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """The entity itself."""
        return entity

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """The entity itself."""
        return entity

    def serialize_context(self, ctxt: Any) -> dict[str, Any]:
        """A context, or a mapping that is to be one, as a dict."""
        return dict(ctxt) if isinstance(ctxt, dict) else ctxt.to_dict()

    def deserialize_context(self, ctxt: dict[str, Any]) -> Context:
        """A Context of what came."""
        return Context.from_dict(ctxt)
