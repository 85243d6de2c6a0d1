"""Opening of SQLite databases: private files, WAL, pragmas, and schema migrations.

A migration is one numbered `.sql` file. It is applied together with its number (`user_version`) in one transaction, so
a crash halfway leaves the old schema. `application_id` identifies our databases.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hearthnet.constants import DATABASE, SALVAGE
from hearthnet.errors import DiskFullError, HearthNetError, NewerStoreError, StoreError, UnusableStoreError
from hearthnet.files import create_private, foreign, make_private_dir, move_aside_hint
from hearthnet.sidecars import because, parts_beside, unfinished, why_unusable

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = [
    "BUSY_TIMEOUT_S",
    "EVENTS",
    "PARTS",
    "PATIENT_S",
    "TELEMETRY",
    "WRITER_PRAGMAS",
    "CeilingError",
    "Connection",
    "Part",
    "Schema",
    "check_place",
    "connect_read_only",
    "connected_beside",
    "digest_of",
    "foreign_parts",
    "has_connections",
    "made_by",
    "migrations",
    "migrations_dir",
    "misfit",
    "open_database",
    "parts_of",
    "quoted",
    "reason_of",
    "refusing",
    "store_error",
    "words_of",
]

# Set by every writing connection: they belong to it, not to the file.
WRITER_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",  # with NORMAL a power cut cost up to 29 s of commits at home rates
    "PRAGMA secure_delete = ON",  # overwrites evicted rows, except where pages were rebalanced
)
BUSY_TIMEOUT_S: Final = 0.25  # short: the writer retries later and still has its records
PATIENT_S: Final = 2.0  # where nothing tries again soon: opening, recovering
# With less free space than this for its shared memory, SQLite reports a full disk as an I/O error.
_MIN_FREE_BYTES: Final = 128 * 1024
STEPS_BETWEEN_CHECKS: Final = 1_000  # SQLite VM steps between two checks of the clock: well below a millisecond
_MAX_DAMAGE_CHARS: Final = 200
_ASIDE: Final = "move it aside and start again"
_MIN_SQLITE: Final = (3, 37, 0)  # STRICT tables
_MAX_PATH_BYTES: Final = 504  # SQLite's 512, less the longest ending of its own, `-journal`


class Connection(sqlite3.Connection):
    """A connection that `has_connections` knows of while it is open."""

    def __init__(self, database: Any, *args: Any, **options: Any) -> None:
        super().__init__(database, *args, **options)
        _open[id(self)] = str(database)

    def close(self) -> None:
        """Closes it. Idempotent."""
        super().close()
        _open.pop(id(self), None)

    def __del__(self) -> None:
        _open.pop(id(self), None)


class _Checked(Connection):
    """One to which all damage is a `sqlite3.Error`."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Executes a statement.

        Raises:
            sqlite3.Error: raised when it fails; also where SQLite cites a damaged schema whose bytes are no text.
        """
        try:
            return super().execute(sql, parameters)
        except UnicodeDecodeError as error:
            damage = sqlite3.DatabaseError(words_of(error))
            damage.sqlite_errorcode, damage.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
            raise damage from error


_open: Final[dict[int, str]] = {}


def has_connections(path: Path) -> bool:
    """Returns whether this process has a database of that file name open.

    A child that was forked meanwhile must not open it: SQLite keeps its idea of a file's locks in memory, which is
    copied, so the child would take no real lock.
    """
    return any(path.name in target for target in list(_open.values()))


class Schema(NamedTuple):
    """A kind of database.

    Attributes:
        name: the folder of its migrations.
        application_id: the number in the file header that identifies it.
        reserve_bytes: disk space that a new database takes at once, so that it can be filled even on a full disk.
        digest: of the parts that the migrations make (`digest_of`): where a database has these alone, nothing need be
            tried on it. A new migration changes it; without it the trial runs each time.
    """

    name: str
    application_id: int
    reserve_bytes: int = 0
    digest: str = ""


# 10,000 traces of 1 KB and 10,000 log records of 0.5 KB: at home rates the ring never outgrows it.
TELEMETRY: Final = Schema("telemetry", 0x48_4E_74_6C, reserve_bytes=16_000_000, digest="a77407294af288f6")  # "HNtl"
EVENTS: Final = Schema("events", 0x48_4E_65_76)  # "HNev"


def migrations(schema: Schema) -> list[Traversable]:
    """Returns the migrations of a schema, oldest first."""
    return sorted(migrations_dir().joinpath(schema.name).iterdir(), key=lambda file: file.name)


def migrations_dir() -> Traversable:
    """Returns the migrations folder: inside the package in a wheel or a zip file, beside it in a source tree."""
    package = Path(__file__).parent
    found = [path for path in (package / "_migrations", package.parent / "migrations") if path.is_dir()]
    if found:
        return found[0]
    from importlib.resources import files  # late: slow

    if not (zipped := files("hearthnet").joinpath("_migrations")).is_dir():
        raise StoreError("the migrations are missing from this installation", hint="reinstall hearthnet")
    return zipped


def open_database(path: Path, schema: Schema, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Returns a connection with WAL, full sync and the newest schema; creates the file with mode 0600 if missing.

    Args:
        path: of the file.
        schema: of the database.
        busy_timeout_s: how long to wait for another process that writes it.

    Raises:
        UnusableStoreError: raised when the file is damaged or not ours.
        NewerStoreError: raised when it is newer than this program.
        StoreError: raised when it cannot be opened.
        DiskFullError: raised when the disk is full.
    """
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old", hint="SQLite 3.37 or newer is needed")
    check_place(path)
    try:
        _create_private(path)
        connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, factory=_Checked)
    except (OSError, sqlite3.Error) as error:
        raise store_error(path, error) from error
    try:
        prepare(connection, path, schema)
    except sqlite3.Error as error:
        connection.close()
        raise store_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def check_place(path: Path) -> None:
    """Checks that SQLite can use this path, and that there is nothing but files at the names of the database.

    Raises:
        UnusableStoreError: raised when there is something else at the name of the database itself.
        StoreError: raised when there is at another name of it, or the path is too long.
    """
    if (length := len(os.fsencode(os.path.realpath(path)))) > _MAX_PATH_BYTES:
        raise StoreError(
            f"{path} cannot be used: its path has {length} bytes, SQLite takes {_MAX_PATH_BYTES}",
            hint="set a shorter path in config.toml: [observability] data_dir, [community] state_dir",
        )
    for file in parts_beside(path):
        if (reason := why_unusable(file, path)) is not None:
            kind = UnusableStoreError if file == path else StoreError
            raise kind(f"{file} cannot be used: {reason}", hint=move_aside_hint(file))


def store_error(path: Path, error: OSError | sqlite3.Error) -> HearthNetError:
    """Returns the error to report for a failure to use the database at `path`."""
    code = getattr(error, "sqlite_errorcode", None)
    number = error.errno if isinstance(error, OSError) else None
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return UnusableStoreError(f"{path} cannot be used: {error}", hint=SALVAGE if path.name == DATABASE else _ASIDE)
    is_full = code == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT)
    if is_full or (code is not None and code & 0xFF == sqlite3.SQLITE_IOERR and _free_bytes(path) < _MIN_FREE_BYTES):
        return DiskFullError(
            f"{path} cannot be written: the disk is full", hint=f"free some space: df -h {path.parent}"
        )
    for part in parts_beside(path):
        if (found := foreign(part)) is not None:
            return StoreError(f"{part} cannot be used: {found.reason}", hint=found.hint)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return unfinished(path)
    words = words_of(error) + because(path, error)
    return StoreError(f"{path} cannot be used: {words}", hint=f"check that {path.parent} is writable")


def unreadable(path: Path) -> StoreError | None:
    """Returns the error for a database with a file that we may not read, with how to take it back; None: we may."""
    for part in parts_beside(path):
        if part.exists() and not os.access(part, os.R_OK):
            return StoreError(f"{part} cannot be read by this user", hint=getattr(foreign(part), "hint", None))
    return None


class CeilingError(sqlite3.OperationalError):
    """Raised when the database may not grow, and tables that are not ours hold the space that our rows would need."""


def reason_of(error: BaseException) -> str:
    """Returns why a database cannot be written, as one word for logs and metric labels.

    One of `locked`, `disk_full`, `ceiling`, `read_only`, `io`, `corrupt`, `other`.
    """
    if isinstance(error, CeilingError):
        return "ceiling"
    if isinstance(error, UnicodeDecodeError):  # SQLite cites a schema that is no text
        return "corrupt"
    code = getattr(error, "sqlite_errorcode", None)
    return _REASONS.get(code & 0xFF, "other") if code is not None else "other"


def words_of(error: BaseException) -> str:
    """Returns what SQLite said, also where it cites a damaged schema whose bytes are no text."""
    return error.object.decode("utf-8", "backslashreplace") if isinstance(error, UnicodeDecodeError) else str(error)


_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_CANTOPEN: "io",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}


def _free_bytes(path: Path) -> int:
    import shutil  # late: imports every compression module

    return shutil.disk_usage(path.parent).free if path.parent.is_dir() else _MIN_FREE_BYTES


def _create_private(path: Path) -> None:
    """Creates the file with mode 0600 before SQLite opens it: -wal and -shm inherit the mode."""
    make_private_dir(path.parent)
    # Never open an existing file here: closing it would release the locks that SQLite holds on it.
    whole = Path(os.path.realpath(path))  # of a link: its missing target
    try:
        os.close(create_private(whole, os.O_WRONLY))
    except FileExistsError:
        if not whole.stat().st_size:  # made by hand, say: nothing is in it yet
            with suppress(OSError):
                whole.chmod(0o600)


def prepare(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Checks that the database is ours, sets the connection's pragmas, and migrates the schema.

    Raises:
        UnusableStoreError: raised when the file is not ours.
        NewerStoreError: raised when it is newer than this program.
        StoreError: raised when its file system does not support WAL.
    """
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if identity != schema.application_id and (tables or identity or version):
        raise UnusableStoreError(f"{path} is not a {schema.name} database of HearthNet", hint=_ASIDE)
    if schema.reserve_bytes and not (tables or identity or version):
        _reserve(connection, schema.reserve_bytes)
    # Must run outside a transaction: inside one, SQLite returns "delete" and changes nothing.
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreError(f"{path} does not support WAL", hint="put it on a local file system")
    for pragma in WRITER_PRAGMAS:
        connection.execute(pragma)
    migrate(connection, path, schema)


def _reserve(connection: sqlite3.Connection, size: int) -> None:
    """Grows an empty database to `size` bytes of free pages, in one transaction. Best effort.

    Runs before WAL is switched on, so that the space is taken only once. On a disk with less space the database grows
    as needed.
    """
    if connection.execute("PRAGMA page_count").fetchone()[0] > 1:  # reserved by a run killed before its first migration
        return
    try:
        add_free_pages(connection, size)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise


def add_free_pages(connection: sqlite3.Connection, size: int) -> None:
    """Grows a database by `size` bytes of free pages, in one transaction.

    Raises:
        sqlite3.Error: raised when there is not enough space; the database is then unchanged.
    """
    connection.execute("PRAGMA secure_delete = OFF")  # the space holds nothing
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE reserve (space)")
        connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (size,))
        connection.execute("DROP TABLE reserve")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.rollback()
        raise


def quick_check(connection: sqlite3.Connection, within_s: float) -> str | None:
    """Returns `ok` or the first damage found; None if the check did not finish within `within_s` seconds.

    Raises:
        sqlite3.Error: raised when the database cannot be read.
    """
    ends_at = monotonic() + within_s
    connection.set_progress_handler(lambda: monotonic() > ends_at, STEPS_BETWEEN_CHECKS)
    try:
        result = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return None
    finally:
        connection.set_progress_handler(None, 0)
    return " ".join(result.split())[:_MAX_DAMAGE_CHARS]


# Fails (abs() overflows) if another process has applied the migration meanwhile: one that only recreates views would
# succeed again and set an older version.
_FAIL_IF_APPLIED: Final = "SELECT abs(-9223372036854775807 - (user_version >= {})) FROM pragma_user_version"


def migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Applies the missing migrations, each in one transaction with its number; to a new database, all in one.

    Raises:
        NewerStoreError: raised when the database is newer than the newest migration.
        sqlite3.Error: raised when a migration fails; the schema is then as it was before that migration.
    """
    files = migrations(schema)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = int(files[-1].name[:4])
    if version > newest:
        raise NewerStoreError(
            f"{path} has schema version {version}, this program knows {newest}",
            hint="install the newer hearthnet again",
        )
    missing = [file for file in files if int(file.name[:4]) > version]
    # A commit waits for the disk several times, and of a new database there is nothing to keep half-way.
    for step in [[file] for file in missing] if version else [missing]:
        script = "\n;".join(file.read_text("utf-8") for file in step)
        _apply(connection, script, int(step[-1].name[:4]), schema)


def _apply(connection: sqlite3.Connection, script: str, number: int, schema: Schema) -> None:
    try:
        # One script, because executescript commits any transaction begun before it.
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{_FAIL_IF_APPLIED.format(number)};\n{script}\n;"
            f"PRAGMA application_id = {schema.application_id:d}; PRAGMA user_version = {number:d}; COMMIT;"
        )
    except sqlite3.Error:
        if connection.in_transaction:
            connection.rollback()
        # Another process may have applied it after we read the version.
        if connection.execute("PRAGMA user_version").fetchone()[0] < number:
            raise


_NONE_YET: Final = "start the node once: hearthnet run; of a program, name the folder that it records in"


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Returns a read-only connection, usable from any thread but only one at a time.

    On a read-only file system SQLite cannot make the `-shm` that it needs, unless nothing writes to the file. That is
    taken for granted where there are neither `-shm` nor rows in the WAL, as after a clean stop.

    Raises:
        StoreError: raised when the database does not exist or cannot be opened.
    """
    try:
        if not path.exists():
            raise StoreError(f"{path} does not exist", hint=_NONE_YET)
    except OSError as error:  # in a folder that may not be entered, say
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    check_place(path)
    if not path.stat().st_size:  # as a start on a full disk leaves it
        raise StoreError(f"{path} cannot be read: it is empty", hint=f"the next start fills it: df -h {path.parent}")
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if _is_on_read_only_disk(path) else ''}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False, factory=_Checked
        )
        connection.execute("PRAGMA query_only = ON")
        if parts_beside(path)[-1].exists():
            connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_ROLLBACK:
            raise unfinished(path) from error
        raise unreadable(path) or StoreError(f"{path} cannot be read: {error}") from error
    return connection


@contextmanager
def connected_beside(path: Path) -> Iterator[None]:
    """Holds a database open that cannot write it: a connection that is closed meanwhile is not the last one."""
    with suppress(StoreError, sqlite3.Error), closing(connect_read_only(path)) as connection:
        with suppress(sqlite3.Error):
            connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # has the lock from here on, even if it fails
        yield
        return
    yield


# --- the schema: ours, and what others have added to it


class Part(NamedTuple):
    """One object of a database's schema.

    Attributes:
        kind: `table`, `index`, `trigger` or `view`.
        name: of it.
        table: that it belongs to.
        sql: the statement that made it.
    """

    kind: str
    name: str
    table: str
    sql: str


# Without SQLite's own: the indexes of constraints, the tables of ANALYZE and AUTOINCREMENT.
_CONSTRAINT: Final = re.compile(r"\b(CHECK|UNIQUE|REFERENCES|GENERATED)\b", re.IGNORECASE)
PARTS: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql NOT NULL AND substr(name, 1, 7) <> 'sqlite_'"
)


def parts_of(connection: sqlite3.Connection) -> list[Part]:
    """Returns the parts of a database's schema.

    Raises:
        sqlite3.Error: raised when it cannot be read.
    """
    return [Part(*row) for row in connection.execute(PARTS)]


@cache
def made_by(schema: Schema) -> dict[tuple[str, str], tuple[str, ...]]:
    """Returns the columns of each table and view that the migrations make, by kind and name. 20 ms, once."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        migrate(memory, Path(":memory:"), schema)
        names = [(part.kind, part.name) for part in parts_of(memory)]
        columns = "SELECT name FROM pragma_table_info(?)"
        return {(kind, name): tuple(row[0] for row in memory.execute(columns, (name,))) for kind, name in names}


def digest_of(parts: Sequence[Part]) -> str:
    """Returns a digest of a schema: the same for the same statements, in whatever order they were executed."""
    from hashlib import sha256  # late: a command that only reads has no need of it

    return sha256(repr(sorted(parts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def foreign_parts(parts: Sequence[Part], schema: Schema) -> list[Part]:
    """Returns those of `parts` that no migration has made."""
    if digest_of(parts) == schema.digest:
        return []
    return [part for part in parts if (part.kind, part.name) not in made_by(schema)]


def misfit(parts: Sequence[Part], schema: Schema, trial: Callable[[sqlite3.Connection], None]) -> str | None:
    """Returns why our tables and views are not those that this program writes and reads, in SQLite's words, or None.

    Where there is any difference, a copy of them in memory is put to the test, so one that does no harm is none: a
    column more, another type. A constraint is one, because it may depend on the values: ours have none.

    Args:
        parts: of the database.
        schema: of the database.
        trial: writes whatever the program writes.
    """
    if digest_of(parts) == schema.digest:
        return None
    ours = [part for part in parts if (part.kind, part.name) in made_by(schema)]
    for part in ours:
        if part.kind == "table" and (found := _CONSTRAINT.search(part.sql)):
            return f"{part.name} has a constraint of another: {found[0]}"
    return _refusal(ours, schema, trial)


def refusing(
    parts: Sequence[Part], schema: Schema, trial: Callable[[sqlite3.Connection], None]
) -> list[tuple[Part, str]]:
    """Returns the triggers and indexes that are not ours and refuse what the program writes, with SQLite's words.

    Args:
        parts: as of `misfit`.
        schema: as of `misfit`.
        trial: as of `misfit`.
    """
    tables = [part for part in parts if part.kind in ("table", "view")]
    suspects = [part for part in foreign_parts(parts, schema) if part.kind in ("trigger", "index")]
    found = [(part, _refusal([*tables, part], schema, trial)) for part in suspects]
    return [(part, words) for part, words in found if words is not None]


def _refusal(parts: Sequence[Part], schema: Schema, trial: Callable[[sqlite3.Connection], None]) -> str | None:
    made = made_by(schema)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        for part in parts:
            with suppress(sqlite3.Error):  # a virtual table of a module that only its owner has; ours is missed below
                memory.execute(part.sql)
        try:
            for (_, name), columns in made.items():
                memory.execute(f"SELECT {', '.join(columns)} FROM {name} LIMIT 0")  # noqa: S608  # our own names
            trial(memory)
        except sqlite3.Error as error:
            return str(error)
    return None


def quoted(name: str) -> str:
    """Returns a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _is_on_read_only_disk(path: Path) -> bool:
    """Returns whether a database is on a read-only file system, and has no `-shm`.

    Raises:
        StoreError: raised when it has rows in its WAL besides: nothing but a copy can be read.
    """
    whole = path.resolve()
    try:
        is_read_only = bool(os.statvfs(whole).f_flag & os.ST_RDONLY)
    except OSError:  # moved aside since: SQLite says so
        return False
    if not is_read_only or whole.with_name(f"{whole.name}-shm").exists():
        return False
    wal = whole.with_name(f"{whole.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise StoreError(
            f"{path} cannot be read: its newest rows are in its -wal, which SQLite cannot read on a read-only disk",
            hint=f"copy both files to another disk: cp {whole} {wal} FOLDER",
        )
    return True
