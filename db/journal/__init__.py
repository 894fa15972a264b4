"""The journal of one host: what was accepted, begun, done, undone, and what is claimed."""

from db.journal.journal import Journal
from db.journal.rows import Claim, OperationRow, StepRow

__all__ = ["Claim", "Journal", "OperationRow", "StepRow"]
