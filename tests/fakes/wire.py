"""How Infinity reads a body and words a refusal.

Exact where callers can tell: status codes, `type` and `loc` of `detail`, messages. Of a union it names
the branches that fail for texts, and only one of them for media.
"""

import base64
import binascii
import io
import json
import math
import re
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.vectors import trim

ITEMS_MAX = 2048
MEDIA_MAX = 32
CHARACTERS_MAX = 122_880
SAMPLING_RATE = 16_000


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def refusal(status: int, message: str) -> Refusal:
    """The shape that Infinity gives to its own errors."""
    return Refusal(status, {"error": {"message": message, "type": None, "param": None, "code": status}})


def unauthorized() -> Refusal:
    return Refusal(401, {"detail": "Unauthorized"}, {"WWW-Authenticate": "Bearer"})


def parsed(raw: bytes, content_type: str) -> Any:
    """The body as FastAPI hands it to pydantic."""
    if not raw:
        raise Refusal(422, {"detail": [problem("missing", ("body",), "Field required", None)]})
    if not re.match(r"application/([\w.+-]+\+)?json\b", content_type):
        return raw.decode("utf-8", "replace")
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        detail = problem("json_invalid", ("body", error.pos), "JSON decode error", {}) | {
            "ctx": {"error": error.msg}
        }
        raise Refusal(422, {"detail": [detail]}) from error
    except UnicodeDecodeError as error:
        raise Refusal(400, {"detail": "There was an error parsing the body"}) from error


Place = tuple[str | int, ...]


def problem(kind: str, loc: Place, message: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "loc": list(loc), "msg": message, "input": value}


@dataclass(slots=True)
class Fields:
    """Reads a body field by field with pydantic's conversions, and gathers what is wrong."""

    body: Any
    place: Place = ("body",)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not isinstance(self.body, dict):
            message = "Input should be a valid dictionary or object to extract fields from"
            raise Refusal(422, {"detail": [problem("model_attributes_type", self.place, message, self.body)]})

    def finish(self) -> None:
        if self.problems:
            raise Refusal(422, {"detail": self.problems})

    def read(self, name: str, read: Callable[[Any, Place], Any], default: Any = ...) -> Any:
        if name in self.body:
            return read(self.body[name], (*self.place, name))
        if default is ...:
            self.refuse("missing", (*self.place, name), "Field required", self.body)
        return default

    def refuse(self, kind: str, loc: Place, message: str, value: Any) -> None:
        self.problems.append(problem(kind, loc, message, value))

    def string(self, value: Any, loc: Place) -> str:
        if not isinstance(value, str):
            self.refuse("string_type", loc, "Input should be a valid string", value)
        elif any("\ud800" <= character <= "\udfff" for character in value):
            message = "Input should be a valid string, unable to parse raw data as a unicode string"
            self.refuse("string_unicode", loc, message, value)
        elif len(trim(value)) > CHARACTERS_MAX:
            self.refuse(
                "string_too_long", loc, f"String should have at most {CHARACTERS_MAX} characters", value
            )
        else:
            return trim(value)
        return ""

    def name(self, value: Any, loc: Place) -> str:
        if isinstance(value, str):
            return value
        self.refuse("string_type", loc, "Input should be a valid string", value)
        return ""

    def optional_name(self, value: Any, loc: Place) -> str | None:
        return None if value is None else self.name(value, loc)

    def strings(self, value: Any, loc: Place, count_max: int = ITEMS_MAX) -> list[str]:
        return self.items(value, loc, count_max, self.string)

    def items(self, value: Any, loc: Place, count_max: int, read: Callable[[Any, Place], Any]) -> list[Any]:
        if not isinstance(value, list):
            self.refuse("list_type", loc, "Input should be a valid list", value)
        elif not value:
            message = "List should have at least 1 item after validation, not 0"
            self.refuse("too_short", loc, message, value)
        elif len(value) > count_max:
            message = f"List should have at most {count_max} items after validation, not {len(value)}"
            self.refuse("too_long", loc, message, value)
        else:
            return [read(item, (*loc, i)) for i, item in enumerate(value)]
        return []

    def strings_or_string(self, value: Any, loc: Place) -> list[str]:
        if isinstance(value, str):
            return [self.string(value, (*loc, "constrained-str"))]
        found = len(self.problems)
        texts = self.strings(value, (*loc, "list[constrained-str]"))
        if len(self.problems) > found:  # The other branch of the union complains as well.
            self.refuse("string_type", (*loc, "constrained-str"), "Input should be a valid string", value)
        return texts

    def media(self, value: Any, loc: Place) -> list[bytes | str]:
        if isinstance(value, list):
            return self.items(value, loc, MEDIA_MAX, self.medium)
        return [self.medium(value, loc)]

    def medium(self, value: Any, loc: Place) -> bytes | str:
        if isinstance(value, str) and re.match(r"https?://.", value):
            return value
        uri = (
            re.match(r"data:[\w/+.-]*(;base64)?,(.*)$", value, re.DOTALL) if isinstance(value, str) else None
        )
        try:
            if uri:
                return base64.b64decode(uri[2]) if uri[1] else uri[2].encode()
        except binascii.Error:
            pass
        self.refuse("value_error", loc, "Value error, Not a valid data URI", value)
        return b""

    def integer(self, value: Any, loc: Place) -> int:
        if isinstance(value, float) and not value.is_integer():
            kind = "int_from_float" if math.isfinite(value) else "finite_number"
            message = "Input should be a valid integer, got a number with a fractional part"
            self.refuse(kind, loc, message, value)
        elif isinstance(value, int | float):
            return int(value)
        elif isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+(\.0*)?\s*", value):
            return int(float(value))
        elif isinstance(value, str):
            message = "Input should be a valid integer, unable to parse string as an integer"
            self.refuse("int_parsing", loc, message, value)
        else:
            self.refuse("int_type", loc, "Input should be a valid integer", value)
        return 0

    def top_n(self, value: Any, loc: Place) -> int | None:
        if value is None:
            return None
        found = len(self.problems)
        count = self.integer(value, loc)
        if count <= 0 and len(self.problems) == found:
            self.refuse("greater_than", loc, "Input should be greater than 0", value)
        return count

    def flag(self, value: Any, loc: Place) -> bool:
        word = value.lower() if isinstance(value, str) else value
        if isinstance(word, int | float | str):
            if word in (1, "1", "on", "t", "true", "y", "yes"):
                return True
            if word in (0, "0", "off", "f", "false", "n", "no"):
                return False
            message = "Input should be a valid boolean, unable to interpret input"
            self.refuse("bool_parsing", loc, message, value)
        else:
            self.refuse("bool_type", loc, "Input should be a valid boolean", value)
        return False

    def encoding(self, value: Any, loc: Place) -> str:
        if value in ("float", "base64"):
            return str(value)
        self.refuse("enum", loc, "Input should be 'float' or 'base64'", value)
        return "float"


def image_characters(image: bytes | str) -> int:
    """What an image counts in `usage`: by its height. PNG only."""
    fault = "<class 'infinity_emb.primitives.ImageCorruption'> -> "
    if isinstance(image, str):
        raise refusal(400, f"{fault}error opening an image in your request image from url: no network here")
    if image[:8] != b"\x89PNG\r\n\x1a\n" or len(image) < 24:
        raise refusal(400, f"{fault}error decoding data URI: cannot identify image file")
    width, height = int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")
    if min(width, height) < 3:
        small = f"An image in your request is too small for processing {(width, height)}."
        raise refusal(400, f"{fault}error decoding data URI: {small} Minimum required size is 3x3.")
    return len("an image is worth a repeated ") + len("token") * height


def audio_characters(audio: bytes | str) -> int:
    """What a recording counts in `usage`: by its samples. WAV only."""
    fault = "<class 'infinity_emb.primitives.AudioCorruption'> -> "
    if isinstance(audio, str):
        raise refusal(400, f"{fault}Error downloading audio from {audio}. no network here")
    try:
        with wave.open(io.BytesIO(audio)) as opened:
            rate, samples = opened.getframerate(), opened.getnframes()
    except (wave.Error, EOFError) as error:
        raise refusal(400, f"{fault}Error opening audio: Format not recognised.") from error
    if rate != SAMPLING_RATE:
        raise refusal(400, f"{fault}Audio sample rate is not {SAMPLING_RATE}Hz, it is {rate}Hz.")
    return len("an audio is worth a repeated ") + len("token") * int(samples)
