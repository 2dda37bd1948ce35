"""Who a record is about: under their name, under a pseudonym, or under one whose key can be destroyed.

Contract: `Named` writes names, `Keyed` what one key for all makes of them. `Vault` gives each subject a random data
key, wrapped by a master key, in a file outside of the log. From the data key come the pseudonym (stable, and the same
in every worker), the sealed name beside it, and the key of the subject's digests. `erase` destroys the data key: from
then on nobody can say who the pseudonym was, open the sealed name, or find an input by trying. A person who comes back
is a new one.

What erasure cannot reach: copies of the vault made before, for whoever holds the master key too.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.audit.files import create_private, read_private
from governance.audit.layout import Layout
from governance.audit.secrets import secret_key
from governance.errors import AuditError, AuditInputError, AuditUnavailable
from kernels.hashing import HmacSha256 as Mac

_NONCE = 12
_MOST_CACHED = 65_536
_BUSY_S = 5.0
_CREATE = "CREATE TABLE IF NOT EXISTS subject (lookup BLOB PRIMARY KEY, wrapped BLOB NOT NULL, hold TEXT) WITHOUT ROWID"


class Person(msgspec.Struct, frozen=True):
    """What stands in a record for a subject, and the key of the digests beside it."""

    subject: str | None
    sealed: str | None
    mac: Mac


class People(Protocol):
    """From subjects to what is written of them."""

    lasting: bool
    """Whether what is written of a subject never changes while this is open."""

    def of(self, subjects: Iterable[str | None]) -> dict[str | None, Person]:
        """Each subject's person, of a batch at once. Raises AuditUnavailable."""

    def at_hand(self, subject: str | None) -> Person | None:
        """One subject's person, if nothing has to be waited for. From any thread."""

    def close(self) -> None:
        """Let go of files."""


class Named:
    """Subjects by their names; one digest key for all."""

    lasting = True

    def __init__(self, digest_key: bytes) -> None:
        self._mac = Mac(digest_key)

    def of(self, subjects: Iterable[str | None]) -> dict[str | None, Person]:
        """Each under its own name."""
        return {subject: Person(subject, None, self._mac) for subject in subjects}

    def at_hand(self, subject: str | None) -> Person:
        """Under its own name."""
        return Person(subject, None, self._mac)

    def close(self) -> None:
        """Nothing is held."""


class Keyed:
    """Subjects under pseudonyms that follow from one key, with nothing kept of anybody.

    Whoever has the key can say which pseudonym a given name has; nobody can go the other way, and no one person's can
    be destroyed.
    """

    lasting = True

    def __init__(self, digest_key: bytes) -> None:
        self._mac = Mac(digest_key)
        self._names = Mac(self._mac.digest((b"pseudonym",)))
        self._cache: dict[str | None, Person] = {None: Person(None, None, self._mac)}

    def of(self, subjects: Iterable[str | None]) -> dict[str | None, Person]:
        """Each under its pseudonym."""
        return {subject: self.at_hand(subject) for subject in subjects}

    def at_hand(self, subject: str | None) -> Person:
        """Under its pseudonym."""
        person = self._cache.get(subject)
        if person is None:
            assert subject is not None
            if len(self._cache) > _MOST_CACHED:
                self._cache = {None: self._cache[None]}
            person = self._cache[subject] = Person(_pseudonym_of(self._names, subject), None, self._mac)
        return person

    def close(self) -> None:
        """Nothing is held."""


class HeldError(AuditError):
    """The subject is under a legal hold, so that nothing of it may be destroyed."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject}: under a legal hold ({reason}): release it first")
        self.reason = reason


class Vault:
    """Subjects under pseudonyms. For one thread, but for `at_hand`; several processes may have it open."""

    lasting = False

    def __init__(self, path: Path, master_key: bytes, digest_key: bytes) -> None:
        """Open the vault, or make it.

        Raises:
            AuditInputError: it is no vault, or others may read it.
        """
        create_private(path, b"") if not path.exists() else read_private(path)
        self._path = path
        master = Mac(master_key)
        self._lookup = Mac(master.digest((b"lookup",)))
        self._wrap = AESGCM(master.digest((b"wrap",)))
        self._nobody = Person(None, None, Mac(digest_key))
        self._cache: dict[str | None, Person] = {}
        self._version = -1
        self._changes = b""
        # Open until the connection is closed: whoever closes a file gives up its process's locks on it (fcntl(2)).
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            # A deleted key is overwritten in the file, and a commit is on the disk before anyone relies on it.
            for pragma in ("secure_delete = ON", "synchronous = EXTRA", "journal_mode = DELETE"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._db.execute(_CREATE)
        except sqlite3.DatabaseError as error:
            self.close()
            raise AuditInputError(f"{path}: not a vault ({error}); restore it from a copy") from None

    def of(self, subjects: Iterable[str | None]) -> dict[str | None, Person]:
        """Each subject's person; keys of new ones are on the disk when it returns. Raises AuditUnavailable."""
        wanted = set(subjects)
        try:
            # Another process may have erased somebody: what is remembered then no longer holds.
            before = self._change_counter()
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version or len(self._cache) > _MOST_CACHED:
                self._changes = b""  # first: whoever looks meanwhile finds nobody at hand
                self._cache = {None: self._nobody}
                self._version = version
            # Whoever was writing has either not begun or ended, if the counter stood still.
            self._changes = before if before == self._change_counter() else b""
            missing = [subject for subject in wanted if subject not in self._cache]
            if missing:
                self._fill(missing)
        except sqlite3.Error as error:
            raise AuditUnavailable(f"{self._path}: {error}") from error
        return {subject: self._cache[subject] for subject in wanted}

    def at_hand(self, subject: str | None) -> Person | None:
        """One subject's person, if it is remembered and nothing was written to the file since."""
        person = self._cache.get(subject)
        return person if person is not None and self._change_counter() == self._changes else None

    def _change_counter(self) -> bytes:
        """What each commit changes, before it is one (SQLite's file format, 1.3.7; not in WAL mode). 1 us."""
        return os.pread(self._file, 4, 24)

    def _fill(self, subjects: list[str | None]) -> None:
        lookups = {self._lookup_of(subject): subject for subject in subjects if subject is not None}
        found = {lookup: self._wrapped(lookup) for lookup in lookups}
        new = [lookup for lookup, wrapped in found.items() if wrapped is None]
        if new:
            with self._transaction():
                for lookup in new:
                    nonce = os.urandom(_NONCE)
                    wrapped = nonce + self._wrap.encrypt(nonce, os.urandom(32), lookup)
                    self._db.execute("INSERT OR IGNORE INTO subject VALUES (?, ?, NULL)", (lookup, wrapped))
            # Another worker may have been first.
            found.update((lookup, self._wrapped(lookup)) for lookup in new)
        for lookup, subject in lookups.items():
            key = found[lookup]
            if key is None:
                raise AuditUnavailable(f"{self._path}: a subject was erased this very moment")
            self._cache[subject] = self._person(subject, lookup, key)

    def _lookup_of(self, subject: str) -> bytes:
        return self._lookup.digest((subject.encode("utf-8", "surrogatepass"),))

    def _wrapped(self, lookup: bytes) -> bytes | None:
        row = self._db.execute("SELECT wrapped FROM subject WHERE lookup = ?", (lookup,)).fetchone()
        return None if row is None else bytes(row[0])

    def _key(self, lookup: bytes, wrapped: bytes) -> Mac:
        try:
            return Mac(self._wrap.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], lookup))
        except InvalidTag:
            raise AuditInputError(f"{self._path}: a key in it was not wrapped by this master key") from None

    def _person(self, subject: str, lookup: bytes, wrapped: bytes) -> Person:
        key = self._key(lookup, wrapped)
        pseudonym = _pseudonym(key)
        nonce = os.urandom(_NONCE)
        name = subject.encode("utf-8", "surrogatepass")
        sealed = nonce + AESGCM(key.digest((b"seal",))).encrypt(nonce, name, pseudonym.encode())
        return Person(pseudonym, base64.b64encode(sealed).decode(), Mac(key.digest((b"digest",))))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def pseudonym(self, subject: str) -> str | None:
        """The subject's pseudonym; None: it has no key. Raises AuditInputError."""
        lookup = self._lookup_of(subject)
        wrapped = self._wrapped(lookup)
        return None if wrapped is None else _pseudonym(self._key(lookup, wrapped))

    def erase(self, subject: str) -> str | None:
        """Destroy the subject's key; the pseudonym that it had, None when there was no key.

        Raises:
            HeldError: a legal hold is on it.
            AuditUnavailable: the file cannot be written; nothing was destroyed.
        """
        lookup = self._lookup_of(subject)
        try:
            with self._transaction():
                row = self._db.execute("SELECT wrapped, hold FROM subject WHERE lookup = ?", (lookup,)).fetchone()
                if row is None:
                    return None
                if row[1] is not None:
                    raise HeldError(subject, str(row[1]))
                pseudonym = _pseudonym(self._key(lookup, bytes(row[0])))
                self._db.execute("DELETE FROM subject WHERE lookup = ?", (lookup,))
        except sqlite3.Error as error:
            raise AuditUnavailable(f"{self._path}: {error}") from error
        self._cache.pop(subject, None)
        return pseudonym

    def held(self, subject: str) -> str | None:
        """Why a subject is under a legal hold; None: it is not."""
        row = self._db.execute("SELECT hold FROM subject WHERE lookup = ?", (self._lookup_of(subject),)).fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def hold(self, subject: str, reason: str | None) -> None:
        """Put a legal hold on a subject, or take it off (None). Raises AuditUnavailable."""
        try:
            with self._transaction():
                self._db.execute("UPDATE subject SET hold = ? WHERE lookup = ?", (reason, self._lookup_of(subject)))
        except sqlite3.Error as error:
            raise AuditUnavailable(f"{self._path}: {error}") from error

    def holds(self) -> dict[str, str]:
        """Everyone who is under a legal hold, by pseudonym, and why. Raises AuditUnavailable, AuditInputError."""
        try:
            rows = self._db.execute("SELECT lookup, wrapped, hold FROM subject WHERE hold IS NOT NULL").fetchall()
        except sqlite3.Error as error:
            raise AuditUnavailable(f"{self._path}: {error}") from error
        return {_pseudonym(self._key(bytes(lookup), bytes(wrapped))): str(hold) for lookup, wrapped, hold in rows}

    def held_of(self, pseudonyms: Collection[str]) -> dict[str, str | None]:
        """Those of these pseudonyms that have a key here, each with its legal hold. Raises AuditUnavailable."""
        return {pseudonym: hold for pseudonym, (_, hold) in self._rows_of(pseudonyms).items()}

    def hold_people(self, pseudonyms: Collection[str], reason: str) -> set[str]:
        """Put a legal hold on people whose names nobody has to know; a hold that is there stays as it is.

        Returns:
            Those that are held now. The others have no key: never here, or erased, even a moment ago.

        Raises:
            AuditUnavailable: the file cannot be written; nothing was changed.
        """
        rows, held = self._rows_of(pseudonyms), set()
        update = "UPDATE subject SET hold = coalesce(hold, ?) WHERE lookup = ?"
        try:
            with self._transaction():
                for pseudonym, (lookup, _) in rows.items():
                    if self._db.execute(update, (reason, lookup)).rowcount:
                        held.add(pseudonym)
        except sqlite3.Error as error:
            raise AuditUnavailable(f"{self._path}: {error}") from error
        return held

    def _rows_of(self, pseudonyms: Collection[str]) -> dict[str, tuple[bytes, str | None]]:
        """Lookup and hold by pseudonym: every key has to be unwrapped, since nothing else leads back to it."""
        found = {}
        try:
            for lookup, wrapped, hold in self._db.execute("SELECT lookup, wrapped, hold FROM subject"):
                pseudonym = _pseudonym(self._key(bytes(lookup), bytes(wrapped)))
                if pseudonym in pseudonyms:
                    found[pseudonym] = (bytes(lookup), None if hold is None else str(hold))
        except sqlite3.Error as error:
            raise AuditUnavailable(f"{self._path}: {error}") from error
        return found

    def unseal(self, subject: str, sealed: str) -> str:
        """The name in a sealed field of the subject's own records: shows that it is theirs.

        Raises:
            AuditInputError: the subject has no key, or not this one.
        """
        lookup = self._lookup_of(subject)
        wrapped = self._wrapped(lookup)
        if wrapped is None:
            raise AuditInputError(f"{subject}: no key: never seen, or erased")
        name = _unsealed(self._key(lookup, wrapped), sealed)
        if name is None:
            raise AuditInputError(f"{subject}: sealed under another key")
        return name

    def reveal(self) -> Callable[[str, str], str | None]:
        """From a pseudonym and the name sealed beside it to the name, for everyone who has a key now.

        The function says None of all others. Raises AuditInputError.
        """
        keys = {}
        for lookup, wrapped in self._db.execute("SELECT lookup, wrapped FROM subject"):
            key = self._key(bytes(lookup), bytes(wrapped))
            keys[_pseudonym(key)] = key

        def name_of(pseudonym: str, sealed: str) -> str | None:
            key = keys.get(pseudonym)
            return None if key is None else _unsealed(key, sealed)

        return name_of

    def close(self) -> None:
        """Close the file. Nobody is at hand any more."""
        self._cache = {}
        self._db.close()
        os.close(self._file)


def _unsealed(key: Mac, sealed: str) -> str | None:
    """The name, or None when it was sealed under another key."""
    try:
        data = base64.b64decode(sealed)
        name = AESGCM(key.digest((b"seal",))).decrypt(data[:_NONCE], data[_NONCE:], _pseudonym(key).encode())
    except (InvalidTag, ValueError):
        return None
    return name.decode("utf-8", "surrogatepass")


def _pseudonym(key: Mac) -> str:
    return "person:" + key.digest((b"pseudonym",)).hex()[:32]


def _pseudonym_of(names: Mac, subject: str) -> str:
    return "person:" + names.digest((subject.encode("utf-8", "surrogatepass"),)).hex()[:32]


def open_people(layout: Layout, *, erasure: bool, pseudonyms: bool) -> People:
    """Subjects as the settings of a log have them. Blocks.

    Args:
        layout: of the log.
        erasure: under keys of their own, which can be destroyed.
        pseudonyms: under pseudonyms; with `erasure` they are in any case.

    Raises:
        AuditInputError: a key file or the vault cannot be used.
        OSError: a key cannot be made.
    """
    digest_key = secret_key(layout.digest_key)
    if erasure:
        return Vault(layout.vault, secret_key(layout.master_key), digest_key)
    return Keyed(digest_key) if pseudonyms else Named(digest_key)
