"""Reads fields as Infinity does, conversions and all, and words what is wrong as it does.

A problem is `{type, loc, msg, input, ctx?}`; `loc` is the way to the value at fault, and of a union it names
each branch. A reader gives the value, or reports problems and gives whatever is at hand.
"""

import binascii
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gateway.api.parsing import WHITE_SPACE
from gateway.errors import BadRequest

_T = TypeVar("_T")

Place = tuple[str | int, ...]
Problem = dict[str, Any]

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})
_INTEGER = re.compile(r"[+-]?[0-9]+(_[0-9]+)*(\.0+)?")
_DIGITS_MAX = 4300
_INT_MAX = 2**63
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_DATA_URI = re.compile(
    r"data:(?:\w+/[\w\-+.]+)?(?:;name=[\w.\-%!*'~()]+)?(?:;charset=[\w\-+.]+)?(;base64)?,(.*)", re.DOTALL
)
_ABSOLUTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_URI = "function-after[validate(), str]"
_URL = "function-wrap[wrap_val()]"


def invalid(problems: list[Problem]) -> BadRequest:
    """A body whose fields are not what they must be: why, in `detail`."""
    return BadRequest(problems[0]["msg"], detail=problems)


class Fields:
    """The fields of an object at `place`, and what is wrong with them. Raises BadRequest if it is none."""

    def __init__(self, body: Any, place: Place, text_chars_max: int) -> None:
        self.problems: list[Problem] = []
        self._place = place
        self._chars_max = text_chars_max
        if type(body) is not dict:
            message = "Input should be a valid dictionary or object to extract fields from"
            raise invalid([problem("model_attributes_type", place, message, body)])
        self._fields: Mapping[str, Any] = body

    def finish(self) -> None:
        """Raise BadRequest if anything was wrong."""
        if self.problems:
            raise invalid(self.problems)

    def required(self, name: str, read: Callable[[Any, Place], _T], instead: _T) -> _T:
        if name in self._fields:
            return read(self._fields[name], (*self._place, name))
        self.report("missing", (*self._place, name), "Field required", self._fields)
        return instead

    def optional(self, name: str, read: Callable[[Any, Place], _T], default: _T) -> _T:
        return read(self._fields[name], (*self._place, name)) if name in self._fields else default

    def report(self, kind: str, place: Place, message: str, value: Any, **context: Any) -> None:
        self.problems.append(problem(kind, place, message, value, **context))

    # What a field may hold

    def name(self, value: Any, place: Place) -> str:
        if type(value) is not str:
            self.report("string_type", place, "Input should be a valid string", value)
        elif not value.isascii() and _SURROGATE.search(value):
            message = "Input should be a valid string, unable to parse raw data as a unicode string"
            self.report("string_unicode", place, message, value)
        else:
            return value
        return ""

    def name_or_null(self, value: Any, place: Place) -> str | None:
        return None if value is None else self.name(value, place)

    def text(self, value: Any, place: Place) -> str:
        text = self.name(value, place).strip(WHITE_SPACE)
        if len(text) > self._chars_max:
            message = f"String should have at most {self._chars_max} characters"
            self.report("string_too_long", place, message, value, max_length=self._chars_max)
        return text

    def texts(self, most: int) -> Callable[[Any, Place], list[str]]:
        return self._list(self.text, most)

    def text_or_texts(self, most: int) -> Callable[[Any, Place], list[str]]:
        def read(value: Any, place: Place) -> list[str]:
            found = len(self.problems)
            texts, lone = [], ""
            if type(value) is not str:
                texts = self.texts(most)(value, (*place, "list[constrained-str]"))
                if len(self.problems) == found:
                    return texts
            else:
                lone = self.text(value, (*place, "constrained-str"))
                if len(self.problems) == found:
                    return [lone]
            # No branch fits, and each says why.
            del self.problems[found:]
            self.texts(most)(value, (*place, "list[constrained-str]"))
            self.text(value, (*place, "constrained-str"))
            return []

        return read

    def media(self, most: int) -> Callable[[Any, Place], list[str]]:
        """A data URI or a URL, or a list of them."""

        def read(value: Any, place: Place) -> list[str]:
            found = len(self.problems)
            if type(value) is str and self._medium(value, place):
                return [value]
            del self.problems[found:]
            items = self._list(self._medium, most)(value, (*place, f"list[union[{_URI},{_URL}]]"))
            if type(value) is not list or len(self.problems) > found:
                self._medium(value, place)
            return items

        return read

    def _medium(self, value: Any, place: Place) -> str:
        uri, url = (*place, _URI), (*place, _URL)
        if type(value) is not str:
            self.report("string_type", uri, "Input should be a valid string", value)
            self.report("url_type", url, "URL input should be a string or URL", value)
            return ""
        fault = _fault_of_uri(value)
        if not fault or _is_web_address(value):
            return value
        self.report("value_error", uri, f"Value error, {fault}", value, error={})
        if _ABSOLUTE.match(value) and not value.lower().startswith(("http:", "https:")):
            schemes = "'http' or 'https'"
            self.report("url_scheme", url, f"URL scheme should be {schemes}", value, expected_schemes=schemes)
        else:
            why = "empty host" if _ABSOLUTE.match(value) else "relative URL without a base"
            why = why if value else "input is empty"
            self.report("url_parsing", url, f"Input should be a valid URL, {why}", value, error=why)
        return ""

    def _list(self, read: Callable[[Any, Place], str], most: int) -> Callable[[Any, Place], list[str]]:
        def of(value: Any, place: Place) -> list[str]:
            if type(value) is not list:
                self.report("list_type", place, "Input should be a valid list", value)
                return []
            count = len(value)
            if not 1 <= count <= most:
                kind, bound = (
                    ("too_long", ("max_length", most)) if count else ("too_short", ("min_length", 1))
                )
                limit = f"at most {most} item{'s' * (most != 1)}" if count else "at least 1 item"
                message = f"List should have {limit} after validation, not {count}"
                context = {"field_type": "List", bound[0]: bound[1], "actual_length": count}
                self.report(kind, place, message, value, **context)
                return []
            return [read(item, (*place, position)) for position, item in enumerate(value)]

        return of

    def flag(self, value: Any, place: Place) -> bool:
        word = value.lower() if type(value) is str else value
        if type(word) is str and (word in _TRUE or word in _FALSE):
            return word in _TRUE
        if type(word) in (bool, int, float) and word in (0, 1):
            return bool(word)
        if type(word) in (str, int) or (type(word) is float and word.is_integer() and abs(word) < _INT_MAX):
            message = "Input should be a valid boolean, unable to interpret input"
            self.report("bool_parsing", place, message, value)
        else:
            self.report("bool_type", place, "Input should be a valid boolean", value)
        return False

    def integer(self, value: Any, place: Place) -> int:
        if type(value) in (bool, int):
            return int(value)
        if type(value) is float:
            if not math.isfinite(value):
                self.report("finite_number", place, "Input should be a finite number", value)
            elif not value.is_integer():
                message = "Input should be a valid integer, got a number with a fractional part"
                self.report("int_from_float", place, message, value)
            elif abs(value) >= _INT_MAX:
                self._too_large(value, place)
            else:
                return int(value)
        elif type(value) is str:
            word = value.strip()
            if len(word) > _DIGITS_MAX:
                self._too_large(value, place)
            elif _INTEGER.fullmatch(word):
                return int(word.partition(".")[0])
            else:
                message = "Input should be a valid integer, unable to parse string as an integer"
                self.report("int_parsing", place, message, value)
        else:
            self.report("int_type", place, "Input should be a valid integer", value)
        return 0

    def _too_large(self, value: Any, place: Place) -> None:
        message = "Unable to parse input string as an integer, exceeded maximum size"
        self.report("int_parsing_size", place, message, value)

    def count_or_null(self, value: Any, place: Place) -> int | None:
        if value is None:
            return None
        found = len(self.problems)
        count = self.integer(value, place)
        if count <= 0 and len(self.problems) == found:
            self.report("greater_than", place, "Input should be greater than 0", value, gt=0)
        return count

    def encoding(self, value: Any, place: Place) -> str:
        if type(value) is str and value in ("float", "base64"):
            return value
        words = "'float' or 'base64'"
        self.report("enum", place, f"Input should be {words}", value, expected=words)
        return "float"


def problem(kind: str, place: Place, message: str, value: Any, **context: Any) -> Problem:
    found = {"type": kind, "loc": place, "msg": message, "input": value}
    return found | {"ctx": context} if context else found


def _fault_of_uri(value: str) -> str:
    """What is wrong with a data URI; empty when nothing is."""
    uri = _DATA_URI.fullmatch(value)
    if not uri:
        return f"Not a valid data URI: DataURI({value if len(value) <= 80 else value[:79] + '…'})"
    if uri[1]:
        try:
            binascii.a2b_base64(uri[2].encode())
        except binascii.Error as error:
            return str(error)
    return ""


def _is_web_address(value: str) -> bool:
    return re.match(r"https?://[^/?#\s]", value, re.IGNORECASE) is not None
