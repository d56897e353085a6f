"""Read values that know where they stand, and note all that is wrong with them.

What does not fit is noted and reads as None or as empty, so that reading goes on. `os.environ/NAME` is looked
up where a string is used, so what is ignored may name a variable that is not set.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from gateway.core.settings import Secret
from gateway.errors import ConfigError
from gateway.messages import Scalar

VARIABLE = "os.environ/"
_NUMBER_MAX = 10**12  # More is a slip, in bytes as in seconds.

_Text = TypeVar("_Text", bound=str)


class Notes:
    """What was found so far, and the variables that strings in the file may name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        self.problems: list[str] = []
        self._warnings: list[str] = []
        self._idle: dict[str, tuple[str, list[str]]] = {}

    def warn(self, path: str, text: str) -> None:
        self._warnings.append(f"{path}: {text}")

    def idle(self, path: str, why: str) -> None:
        """A key without effect, to be reported once however many entries of a list have it."""
        self._idle.setdefault(re.sub(r"\[\d+\]", "[]", path), (why, []))[1].append(path)

    def variable(self, name: str) -> "Value":
        """An environment variable with a meaning of its own."""
        return Value(name, VARIABLE + name if name in self.environ else None, self)

    def warnings(self) -> tuple[str, ...]:
        found = list(self._warnings)
        for why, (first, *others) in self._idle.values():
            more = f" (and {len(others)} more like it)" if others else ""
            found.append(f"{first}: has no effect here, since {why}{more}")
        return tuple(found)

    def raise_problems(self) -> None:
        if self.problems:
            # A variable may be read for several entries.
            raise ConfigError(list(dict.fromkeys(self.problems)))


@dataclass(frozen=True, slots=True)
class Value:
    """What stands at one place, and what it reads as."""

    path: str
    raw: object
    notes: Notes

    def __getitem__(self, key: str) -> "Value":
        raw = self.raw.get(key) if isinstance(self.raw, dict) else None
        return Value(join(self.path, key), raw, self.notes)

    @property
    def given(self) -> bool:
        return self.raw is not None

    @property
    def variable(self) -> str | None:
        """The name in `os.environ/NAME`."""
        named = isinstance(self.raw, str) and self.raw.startswith(VARIABLE)
        return str(self.raw).removeprefix(VARIABLE) if named else None

    def otherwise(self, other: "Value") -> "Value":
        return self if self.given else other

    def problem(self, text: str) -> None:
        self.notes.problems.append(f"{self.path or 'the file'}: {text}")

    def wrong(self, expected: str) -> None:
        self.problem(f"expected {expected}, got {self.shown()}")

    def unlike(self, expected: str) -> None:
        """Wrong, without a quotation: where a space is forgotten, `master_key:sk-1` is text."""
        self.problem(f"expected {expected}, got {'text' if isinstance(self.raw, str) else shown(self.raw)}")

    def shown(self) -> str:
        return shown(self.raw) if self.variable is None else f"what {self.variable} holds"

    def text(self, expected: str = "text", *, blank: bool = False) -> str | None:
        value = self._resolved()
        if isinstance(value, str) and _encodable(value) and (blank or value.strip()):
            return value
        if value is not None or not self.given:
            self.wrong(expected)
        return None

    def choice(self, options: Collection[_Text]) -> _Text | None:
        expected = f"one of {', '.join(options)}"
        text = self.text(expected) if self.given else None
        for option in options:
            if option == text:
                return option
        if text is not None:
            self.wrong(expected)
        return None

    def number(self, *, whole: bool = False, zero: bool = False) -> float | None:
        value = self._parsed()
        # Not isinstance, by which true is an int.
        if type(value) is int or (type(value) is float and not whole):
            if value <= _NUMBER_MAX and (value >= 0 if zero else value > 0):
                return value if whole else float(value)
        elif value is None:
            return None
        bounds = "from 0 to" if zero else "above 0 and up to"
        self.wrong(f"a {'whole ' if whole else ''}number {bounds} 10^12")
        return None

    def flag(self) -> bool:
        value = self._parsed()
        if value is not None and not isinstance(value, bool):
            self.wrong("true or false")
        return value is True

    def scalar(self) -> Scalar:
        """What a request's JSON can carry."""
        value = self._resolved()
        match value:
            case None | bool():
                return value
            case str() if _encodable(value):
                return value
            case int() | float() if math.isfinite(value) and abs(value) < 2**63:
                return value
        self.wrong("text, a number, true, false or null")
        return None

    def secret(self) -> Secret | None:
        """A key without the line end that files put after it. No message shows what came."""
        value = self._resolved()
        if isinstance(value, str) and not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value.strip()):
            return Secret(value.strip())
        if value is not None:
            self.problem("expected a key: text on one line, in quotes if it has only digits")
        return None

    def mapping(self) -> dict[str, "Value"]:
        if not isinstance(self.raw, dict):
            if self.given:
                self.unlike("a mapping")
            return {}
        for key in self.raw:
            if not isinstance(key, str) or not _encodable(key):
                self.problem(f"expected keys of text, got {shown(key)}; quotes make it text")
        return {key: self[key] for key in self.raw if isinstance(key, str)}

    def items(self) -> list["Value"]:
        if not isinstance(self.raw, list):
            if self.given:
                self.unlike("a list")
            return []
        return [Value(f"{self.path}[{i}]", item, self.notes) for i, item in enumerate(self.raw)]

    def only(self, used: Collection[str], idle: Mapping[str, str] | None = None) -> "Value":
        """Itself, once its keys are checked: `idle` ones are warnings, those in neither are problems."""
        idle = idle or {}
        for key, value in self.mapping().items():
            if key in used:
                continue
            if why := matching(key, idle):
                self.notes.idle(value.path, why)
            else:
                hint = nearest(key, (*used, *idle)) or f"expected one of {', '.join(used)}"
                value.problem(f"unknown key; {hint}")
        return self

    def _resolved(self) -> object:
        name = self.variable
        if name is None:
            return self.raw
        if name not in self.notes.environ:
            self.problem(f"the environment variable {name} is not set")
        return self.notes.environ.get(name)

    def _parsed(self) -> object:
        """For numbers and flags: the environment holds nothing but text."""
        value = self._resolved()
        if isinstance(value, str) and self.variable is not None:
            try:
                return json.loads(value.lower())
            except ValueError:
                pass
        return value


def join(path: str, key: str) -> str:
    if re.fullmatch(r"[\w-]+", key):
        return f"{path}.{key}" if path else key
    # With a space forgotten, `{api_key:sk-1}` is a key.
    return f"{path}[{re.sub('(api_key|master_key|key:|sha256).*', '...', key, flags=re.DOTALL)!r}]"


def shown(value: object) -> str:
    """A value in a message: on one line, and short."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(key: str, names: Iterable[str], cutoff: float = 0.7) -> str | None:
    """A hint for a slip of the hand, or of the order: `max_items` is near `items_max`."""
    ordered = {_ordered(name): name for name in names if "*" not in name}
    same = get_close_matches(_ordered(key), ordered, n=1, cutoff=0.9)
    near = [ordered[same[0]]] if same else get_close_matches(key, ordered.values(), n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else None


def _ordered(name: str) -> str:
    return "_".join(sorted(name.split("_")))


def matching(key: str, patterns: Mapping[str, str]) -> str | None:
    """What the first pattern that fits stands for."""
    return next((meaning for pattern, meaning in patterns.items() if fnmatchcase(key, pattern)), None)


def _encodable(text: str) -> bool:
    """Not so with half of a surrogate pair, which escapes in YAML and odd environments can bring."""
    return not re.search("[\ud800-\udfff]", text)
