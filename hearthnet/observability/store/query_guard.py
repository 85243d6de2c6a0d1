"""Says of each thing that a stranger's SQL would do whether it may: it may read, and nothing else.

SQLite asks this while it compiles a statement. It is the second of two locks: the connection itself is opened read-only
(`mode=ro`, `query_only`). This one also keeps it from other files, from locks that outlive the statement, and from
settings of the connection.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["Guard"]

_READS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
# Pragmas that tell something; those of the second set take a name, never a value to set.
_TELLING: Final = frozenset(
    {
        "application_id", "collation_list", "compile_options", "database_list", "encoding", "freelist_count",
        "function_list", "journal_mode", "module_list", "page_count", "page_size", "pragma_list", "schema_version",
        "table_list", "user_version",
    }
)  # fmt: skip
_TELLING_OF: Final = frozenset(
    {"foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"}
)
# Python's SQLite has none of them but the first; another build of it may.
_FUNCTIONS_REFUSED: Final = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})
_WORDS: Final = {
    sqlite3.SQLITE_ATTACH: "ATTACH and VACUUM are",
    sqlite3.SQLITE_DETACH: "DETACH is",
    sqlite3.SQLITE_TRANSACTION: "a transaction is",
    sqlite3.SQLITE_SAVEPOINT: "a savepoint is",
    sqlite3.SQLITE_INSERT: "writing is",
    sqlite3.SQLITE_UPDATE: "writing is",
    sqlite3.SQLITE_DELETE: "writing is",
}


class Guard:
    """An authorizer for `Connection.set_authorizer`.

    Attributes:
        refused: what the last statement wanted and may not do, in words; None: nothing.
    """

    def __init__(self) -> None:
        self.refused: str | None = None

    def __call__(self, action: int, first: str | None, second: str | None, _: str | None, __: str | None) -> int:
        """Returns SQLITE_OK or SQLITE_DENY."""
        refused = self._refusal(action, first, second)
        if refused is None:
            return sqlite3.SQLITE_OK
        self.refused = self.refused or f"{refused} not allowed here"
        return sqlite3.SQLITE_DENY

    def _refusal(self, action: int, first: str | None, second: str | None) -> str | None:
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS_REFUSED:
            return f"the function {second} is"
        if action == sqlite3.SQLITE_PRAGMA:
            name = (first or "").lower()
            is_telling = name in _TELLING if second is None else name in _TELLING_OF
            return None if is_telling else f"PRAGMA {name}{'' if second is None else ' with a value'} is"
        # Not a write: so a table-valued function, json_each say, tells its columns. The real one SQLite refuses itself.
        if action in _READS or (action == sqlite3.SQLITE_UPDATE and first == "sqlite_master"):
            return None
        return _WORDS.get(action, "changing the schema is")
