"""What all dialects read alike: JSON with errors that name the mend, texts, and fields passed on."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from gateway.messages import Scalar

_PARAMS_MAX = 16
_PARAM_CHARS_MAX = 256
_NAME_CHARS_MAX = 256

# Unicode's White_Space, which Infinity strips and counts without. Python's own strip takes \x1c-\x1f too.
WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

_ROLES = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
}

_PYTHONS = {"True": "true", "False": "false", "None": "null"}

_REFUSED = frozenset({
    "api_base", "api_bases", "base_url", "api_key", "api_version", "organization", "user_config",
    "model_list", "litellm_params", "router_settings", "config", "extra_headers", "headers", "proxy",
    "ssl_verify",
})  # fmt: skip


_FREE_BYTES = 1024 * 1024
_NO_PARTS = bytes(byte for byte in range(256) if byte not in b'",[{')


def parse_json(body: bytes | bytearray, limits: LimitsSettings) -> dict[str, Any]:
    """The body as an object. Raises BadRequest that says where it breaks and how to mend it."""
    check_parts(body, limits.json_parts_max)
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(_explain(body, error)) from None
    if type(fields) is not dict:
        raise BadRequest(f"the body must be a JSON object, not {_kind(fields)}")
    check_depth(fields, body, limits.json_depth_max)
    return fields


def check_parts(body: bytes | bytearray, most: int) -> None:
    """Raise BadRequest if a large body has more strings, commas and opening brackets than that. What is as
    short as `[],` takes thirty times its bytes when it is read, a text twice its own.
    """
    if len(body) <= _FREE_BYTES or len(body.translate(None, _NO_PARTS)) <= most:
        return
    # Not all of those are parts: some stand in texts, which quotes tell from what is around them.
    without_escapes = body.replace(rb"\\", b"").replace(rb"\"", b"")
    around_and_in_texts = without_escapes.translate(None, _NO_PARTS).split(b'"', 2 * most)
    if len(around_and_in_texts) // 2 + sum(map(len, around_and_in_texts[::2])) > most:
        message = (
            f"the body has more than {most} strings, commas and brackets, the most that are taken above "
            f"{_FREE_BYTES} bytes; send texts, not token ids or vectors"
        )
        raise BadRequest(message, detail=message)


def check_depth(value: Any, body: bytes | bytearray, most: int) -> None:
    """Raise BadRequest if `value`, which `body` was read as, is nested deeper than that."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    level = [value]
    for _ in range(most):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    message = f"the body is nested too deeply; {most} levels are taken"
    raise BadRequest(message, detail=message)


def _explain(body: bytes | bytearray, error: orjson.JSONDecodeError) -> str:
    if not body.strip():
        return "the body is empty; a JSON object was expected"
    try:
        text = body.decode()
    except UnicodeDecodeError as fault:
        before = body[: fault.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"the body is not JSON: not UTF-8 at line {line}, column {column}; send the text as UTF-8"
    where = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    mend = _mend(text[: error.pos].rstrip(), text[error.pos :].lstrip(), error.msg)
    return f"{where}; {mend}" if mend else where


def _mend(before: str, rest: str, fault: str) -> str:
    """What must change, for the slips that people make; empty when nobody can tell."""
    for wrong, right in _PYTHONS.items():
        if rest.startswith(wrong):
            return f"JSON writes {right}, not Python's {wrong}"
    if rest.startswith(("NaN", "Infinity", "-Infinity")):
        return "JSON has no NaN and no Infinity"
    if rest.startswith(("#", "//", "/*")):
        return "JSON has no comments"
    if rest.startswith("'"):
        return "JSON strings stand in double quotes"
    if "trailing comma" in fault or (before.endswith(",") and rest[:1] in ("]", "}")):
        return "the comma after the last element must go"
    return ""


def model_of(fields: Mapping[str, Any]) -> str | None:
    model = fields.get("model")
    if model is None or type(model) is str:
        return model or None
    raise BadRequest(f"model must be a string, not {_kind(model)}", param="model")


def flag_of(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is None:
        return False
    if type(value) is bool:
        return value
    raise BadRequest(f"{name} must be true or false, not {_kind(value)}", param=name)


def count_of(fields: Mapping[str, Any], name: str) -> int | None:
    """A positive number; None when it is missing or null."""
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is int and value > 0:
        return value
    shown = value if type(value) is int else _kind(value)
    raise BadRequest(f"{name} must be a whole number from 1, not {shown}", param=name)


def text_of(fields: Mapping[str, Any], name: str, limits: LimitsSettings) -> str:
    if name not in fields:
        raise BadRequest(f"{name} is missing", param=name)
    value = fields[name]
    if type(value) is not str:
        raise BadRequest(f"{name} must be a string, not {_kind(value)}", param=name)
    return stripped(value, name, limits)


def texts_of(value: Any, name: str, limits: LimitsSettings) -> list[str]:
    """A list of strings, stripped as Infinity strips them, each within the limit."""
    if type(value) is not list:
        raise BadRequest(f"{name} must be a list of strings, not {_kind(value)}", param=name)
    check_count(value, name, limits.items_max)
    for position, text in enumerate(value):
        if type(text) is not str:
            raise BadRequest(f"{name}[{position}] must be a string, not {_kind(text)}", param=name)
    return [stripped(text, name, limits) for text in value]


def check_count(value: Sequence[Any], name: str, most: int) -> None:
    if not value:
        raise BadRequest(f"{name} is empty; at least one item was expected", param=name)
    if len(value) > most:
        raise BadRequest(f"{name} has {len(value)} items; at most {most} fit in one call", param=name)


def stripped(text: str, name: str, limits: LimitsSettings) -> str:
    """A text as Infinity would strip it, within the limit."""
    text = text.strip(WHITE_SPACE)
    if len(text) > limits.text_chars_max:
        raise BadRequest(
            f"{name} has a text of {len(text)} characters; at most {limits.text_chars_max} are taken",
            param=name,
        )
    return text


def dimensions_of(fields: Mapping[str, Any]) -> int | None:
    """How many numbers of each vector are wanted; None for all of them."""
    for name in ("dimensions", "output_dimension"):
        # Infinity's clients send 0 for "all of them".
        if fields.get(name) is not None and not (type(fields[name]) is int and fields[name] == 0):
            return count_of(fields, name)
    return None


_WEB_ADDRESS = re.compile(r"https?://([a-z0-9.-]+)(?::([0-9]{1,5}))?(?:[/?#][!-\[\]-~]*)?", re.IGNORECASE)
"""All that can be read in two ways is left out: users, backslashes, white space, other scripts, IPv6."""


def is_medium(address: str, limits: LimitsSettings) -> bool:
    """Whether a server may be given this for an image or a sound: a data URI, or an address at one of the
    configured hosts, at the usual port unless they are configured with another.
    """
    if address.startswith("data:"):
        return True
    found = _WEB_ADDRESS.fullmatch(address) if limits.media_hosts else None
    if not found:
        return False
    host, port = found[1].lower(), found[2]
    place = host if port in (None, "80" if address[4] == ":" else "443") else f"{host}:{port}"
    return any(
        place.endswith(known[1:]) if known.startswith("*.") else place == known
        for known in limits.media_hosts
    )


def refuse_tokens(value: Any, name: str) -> None:
    if type(value) is not list or not value:
        return
    first = value[0]
    if type(first) is int or (type(first) is list and all(type(token) is int for token in first)):
        raise BadRequest(
            f"{name} holds token ids; Infinity takes text. LangChain's OpenAIEmbeddings sends text with "
            "check_embedding_ctx_length=False; with the OpenAI client pass strings",
            param=name,
        )


def role_of(fields: Mapping[str, Any], *names: str) -> str | None:
    """What the texts are for, `query` or `document`, by the first of the named fields that says anything."""
    said = next((fields[name] for name in names if fields.get(name)), None)
    return _ROLES.get(said) if isinstance(said, str) else None


def params_of(fields: Mapping[str, Any], known: frozenset[str]) -> dict[str, Scalar]:
    """The fields that are none of ours: passed on to the server.

    Raises BadRequest for those that would choose a destination, a key or a configuration, and for anything
    but a few short scalars: they are part of what tells batches apart.
    """
    params: dict[str, Scalar] = {}
    if fields.keys() <= known:
        return params
    for name, value in fields.items():
        if name in known or value is None:
            continue
        if len(name) > _NAME_CHARS_MAX:
            raise BadRequest(
                f"a field's name has {len(name)} characters; at most {_NAME_CHARS_MAX} are taken"
            )
        if name in _REFUSED:
            raise BadRequest(
                f"{name} is decided by the gateway's configuration and not by a call", param=name
            )
        if name == "modality" and value != "text":
            raise BadRequest("modality must be text here; images and sounds go to /v1/embeddings", param=name)
        if isinstance(value, dict | list):
            raise BadRequest(
                f"{name} is no field of this call, and what is passed on to the server must be a string, "
                f"a number, true or false, not {_kind(value)}",
                param=name,
            )
        if isinstance(value, str) and len(value) > _PARAM_CHARS_MAX:
            raise BadRequest(f"{name} is not a field of this call and too long to be passed on", param=name)
        params[name] = value
    if len(params) > _PARAMS_MAX:
        raise BadRequest(f"{len(params)} unknown fields; at most {_PARAMS_MAX} are passed on to the server")
    return params


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
