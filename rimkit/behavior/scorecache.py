"""What a judge has been paid for: scores on disk, found again by content. It holds hashes and numbers, never a text."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from rimkit.errors import UserError

FILE = "judge-scores.sqlite"


def content_key(*parts: Any) -> str:
    """A hash of everything that a score depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def default_folder() -> Path:
    """``RIMKIT_CACHE``, or the place where this system keeps a user's caches."""
    if os.environ.get("RIMKIT_CACHE"):
        return Path(os.environ["RIMKIT_CACHE"]).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("rimkit")


class ScoreCache:
    """Scores by `content_key`: ``(score, times asked)``, the score None where no answer held one.

    ``folder``: see `default_folder` for None. Every score is on disk as soon as it is put. Raises `UserError` for
    a place that cannot be written.
    """

    def __init__(self, folder: str | Path | None = None):
        self.path = (default_folder() if folder is None else Path(folder).expanduser()) / FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._run("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score INTEGER, asked INTEGER)")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"the cache of scores cannot be written ({error}): set RIMKIT_CACHE to a folder") from None

    def known(self, keys: Iterable[str]) -> dict[str, tuple[int | None, int]]:
        """What is known of these keys; those without an entry are left out."""
        find = "SELECT score, asked FROM scores WHERE key = ?"
        with closing(sqlite3.connect(self.path, timeout=30)) as database:
            found = {key: database.execute(find, (key,)).fetchone() for key in set(keys)}
        return {key: row for key, row in found.items() if row}

    def put(self, key: str, score: int | None, asked: int) -> None:
        self._run("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", key, score, asked)

    def _run(self, statement: str, *values) -> None:
        with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            database.execute(statement, values)
