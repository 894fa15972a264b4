"""What quickstart made, in a file, so that --down takes away that and nothing else."""

import json
import os
from pathlib import Path
from typing import Any


class Ledger:
    """A JSON object on disk; each change is written before the call returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value kept for `key`, else `default`."""
        return self._items.get(key, default)

    def put(self, key: str, value: Any) -> None:
        """Keep `value` (anything that JSON can hold) for `key`."""
        self._items[key] = value
        self._write()

    def forget(self, key: str) -> None:
        """Drop `key`; no error when it is not there."""
        if self._items.pop(key, None) is not None:
            self._write()

    def add(self, key: str, value: Any) -> None:
        """Append `value` to the list kept for `key`, once."""
        values = self.get(key, [])
        if value not in values:
            self.put(key, [*values, value])

    def drop(self, key: str, value: Any) -> None:
        """Take `value` out of the list kept for `key`."""
        self.put(key, [kept for kept in self.get(key, []) if kept != value])

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        with partial.open("w") as handle:
            json.dump(self._items, handle, indent=2)
            handle.flush()
            os.fsync(handle.fileno())
        partial.rename(self._path)
