"""Read who may call: keys in the configuration, and in a file of their own.

Of a key only its SHA-256 is kept, and no message quotes what may be one.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import yaml

from gateway.config.document import read_document
from gateway.config.reader import Notes, Value
from gateway.core.settings import KeySettings, Secret
from gateway.errors import ConfigError

_FIELDS = (
    *("name", "key", "sha256", "models"),
    *("requests_per_minute", "items_per_minute", "concurrency", "priority"),
)
_PRIORITIES: tuple[Literal["interactive"], Literal["bulk"]] = ("interactive", "bulk")
_NAME = re.compile(r"[\w.@/+-][\w.@/+ -]{0,63}")
_MASTER = "general_settings.master_key"


class Keys:
    """Reads keys each of which differs from all before it, the master key included."""

    def __init__(self, master_key: Secret | None, known: Iterable[KeySettings] = ()) -> None:
        self._places = {_digest(master_key): _MASTER} if master_key else {}
        self._names: dict[str, str] = {}
        for key in known:
            self._places[key.digest] = self._names[key.name] = "gateway.keys"

    def read(self, value: Value) -> tuple[KeySettings, ...]:
        return tuple(key for item in value.items() if (key := self._read(item)))

    def _read(self, value: Value) -> KeySettings | None:
        value.only(_FIELDS)
        if not isinstance(value.raw, dict):
            return None
        name, digest = self._name(value["name"]), self._digest(value)
        limits = [value[field].number(whole=True) for field in _FIELDS[4:7]]
        requests, items, calls = (None if limit is None else int(limit) for limit in limits)
        models = self._models(value["models"])
        bulk = value["priority"].choice(_PRIORITIES) == "bulk"
        if name is None or digest is None:
            return None
        return KeySettings(name, digest, models, requests, items, calls, bulk=bulk)

    def _name(self, value: Value) -> str | None:
        name = value.text("a name")
        if name is None:
            return None
        if not _NAME.fullmatch(name):
            value.problem("expected up to 64 letters, digits, spaces and ._@/+-")  # it may be a key
            return None
        taken = self._names.setdefault(name, value.path)
        if taken != value.path:
            value.problem(f"expected a name of its own, got that of {taken}")
        return name

    def _digest(self, value: Value) -> bytes | None:
        key, digest = value["key"], value["sha256"]
        if key.given == digest.given:
            value.problem(f"expected either key or sha256, got {'both' if key.given else 'none of them'}")
            return None
        given = key if key.given else digest
        secret = given.secret()
        if secret is None:
            return None
        if key.given:
            if not secret.reveal():
                key.problem("expected a key, got blank text")
                return None
            found = _digest(secret)
        elif re.fullmatch("[0-9a-fA-F]{64}", secret.reveal()):
            found = bytes.fromhex(secret.reveal())
        else:
            digest.problem("expected the SHA-256 of a key: 64 hexadecimal digits")
            return None
        taken = self._places.setdefault(found, given.path)
        if taken != given.path:
            given.problem(f"expected a key of its own, got the same as {taken}")
        return found

    @staticmethod
    def _models(value: Value) -> tuple[str, ...]:
        if not value.given:
            return ()
        names = tuple(name for item in value.items() if (name := item.text("the name of a model")))
        if value.raw == []:
            value.problem("expected names of models; leave it out for all")
        return names


class KeysFile:
    """A list of keys in a file of their own, which may change."""

    def __init__(self, path: Path, master_key: Secret | None, known: Iterable[KeySettings]) -> None:
        self._path = path
        self._master_key = master_key
        self._known = tuple(known)
        self._seen = b""

    def read(self) -> tuple[KeySettings, ...]:
        """All keys in it; ConfigError when it cannot be used."""
        keys = self.read_if_changed()
        assert keys is not None
        return keys

    def read_if_changed(self) -> tuple[KeySettings, ...] | None:
        """The same; None when it is as it was at the last reading, which may have failed."""
        seen, self._seen = self._seen, b""
        try:
            content = self._path.read_bytes()
            self._seen = hashlib.sha256(content).digest()
            return None if self._seen == seen else self._parse(content.decode("utf-8-sig"))
        except OSError as error:
            raise ConfigError([f"{self._path}: cannot be read: {error.strerror}"]) from error
        except UnicodeDecodeError:
            raise ConfigError([f"{self._path}: expected text in UTF-8, got another"]) from None
        except ConfigError as error:
            raise ConfigError([f"{self._path}: {problem}" for problem in error.problems]) from None

    def _parse(self, text: str) -> tuple[KeySettings, ...]:
        notes = Notes({})
        document = read_document(text, notes, yaml.SequenceNode)
        if document is None:
            # So is a file that is just being written.
            notes.problems.append("expected a list of keys, got nothing; [] is a list of none")
        keys = Keys(self._master_key, self._known).read(Value("", document, notes))
        notes.raise_problems()
        return keys


def _digest(key: Secret) -> bytes:
    return hashlib.sha256(key.reveal().encode()).digest()
