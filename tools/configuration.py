"""docs/configuration.md, from the records, the words and the parser of the code.

    python tools/configuration.py

What a setting means is the text below it in `core/settings.py`; of LiteLLM's words and of variables, which
are no records, it stands here. A word that nobody has described is an error.
"""

import argparse
import ast
import inspect
import re
import textwrap
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from gateway.cli import _parser as command_line
from gateway.config import keys, litellm, sections, servers
from gateway.core import settings
from gateway.embedded.servers import KEPT_VARIABLES

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"

WORDS: dict[str, dict[str, str]] = {
    "model_list[]": {
        "model_name": "the name that callers use; entries that share it form a pool",
        "litellm_params": "which server, see below",
        "model_info": "what the model is, see below",
        "discovery": "servers found by name, see below; beside `api_base` or in its place",
    },
    "model_list[].litellm_params": {
        "model": (
            "`infinity/` and the server's name of the model, sent as it is; entries of other "
            "providers are skipped with a warning"
        ),
        "api_base": (
            "the server, `http://HOST:PORT`, with any path before `/embeddings`; `INFINITY_API_BASE` "
            "when left out"
        ),
        "api_bases": "a list of servers instead",
        "api_key": "the server's own key; `INFINITY_API_KEY` when left out",
        "timeout": "seconds that it may take for a batch; that of `router_settings` when left out",
        "weight": "1; its part of the work, beside what its speed makes of it",
        "extra_body": (
            "parameters that are passed to the server, as is **any other key** beside it "
            "(`raw_scores: true`); a caller's own win"
        ),
    },
    "model_list[].model_info": {
        "mode": "`embedding`, `rerank` or `classify`; learned from the server when left out",
        "prefixes": (
            "`{query: …, document: …}`: text put before an input by its `input_type` or `task` (e5, bge)"
        ),
    },
    "model_list[].discovery": {
        "dns": "`HOST:PORT`: each address of the name is a server; they come and go as DNS says",
        "scheme": "`http` or `https`",
        "path": "any path before `/embeddings`",
        "family": "`any`, `ipv4` or `ipv6`: which addresses count",
    },
    "router_settings": {
        "routing_strategy": (
            "`least-busy`; LiteLLM's others are taken with a warning, and it is used all the same"
        ),
        "num_retries": "2; further tries of one batch, each at another server",
        "timeout": "30; seconds for a call whose caller does not say, and for a batch",
        "fallbacks": (
            "`[{reranker: [other]}]`: models to try in order when one cannot answer; between "
            "embedding models `allow_different_vectors: true` must stand beside it"
        ),
        "model_group_alias": "`{text-embedding-3-small: bge-small}`: other names of models",
    },
    "litellm_settings": {
        "num_retries": "as in `router_settings`, which win",
        "request_timeout": "as `timeout` in `router_settings`, which win",
        "fallbacks": "as in `router_settings`, which win",
    },
    "general_settings": {
        "master_key": "what callers send as bearer key; it may do all. `GATEWAY_MASTER_KEY` when left out",
    },
}
"""The words of LiteLLM that are read, by the place where they stand → what they do."""

VARIABLES = {
    "INFINITY_API_BASE": (
        "Infinity servers, comma-separated: all there are where there is no file or it has no "
        "`model_list`, and those of each entry without `api_base`"
    ),
    "INFINITY_API_KEY": "the key of servers without an `api_key` in the file",
    "GATEWAY_MASTER_KEY": "what callers send as bearer key, unless the file says",
    "LITELLM_MASTER_KEY": "the same, where that is not set",
    "INFINITY_SERVERS": "local servers: how many, 2 when left out",
    "INFINITY_EMB": (
        "local servers: the path of `infinity_emb`; else it is looked for on `PATH`, beside this "
        "Python, and in `.infinity/bin`"
    ),
    "INFINITY_MODEL_ID": (
        "local servers: a model's directory, or its name on the Hugging Face hub; else MiniLM"
    ),
    "INFINITY_SERVED_MODEL_NAME": "local servers: the name that callers use for it",
    "OTEL_*": "where traces go, see [observability](observability.md)",
}

_PLACES: dict[str, tuple[Collection[str], Mapping[str, str]]] = {
    "model_list[]": (litellm.ENTRY, litellm.ENTRY_IDLE),
    "model_list[].litellm_params": (litellm.PARAMS, litellm.PARAMS_IDLE),
    "model_list[].model_info": (("mode", "prefixes"), {}),
    "model_list[].discovery": (servers.NAME, {}),
    "router_settings": (litellm.ROUTER, litellm.ROUTER_IDLE),
    "litellm_settings": (litellm.LITELLM, litellm.LITELLM_IDLE),
    "general_settings": (litellm.GENERAL, litellm.GENERAL_IDLE),
    "the top": ((), litellm.TOP_IDLE),
}
_KEYS = {
    "name": "text",
    "key": "text",
    "sha256": "64 hexadecimal digits",
    "models": "list",
    "requests_per_minute": "whole number",
    "items_per_minute": "whole number",
    "concurrency": "whole number",
    "priority": "`interactive` or `bulk`",
}
"""Each word of an entry of `keys` → its type."""
_OF_A_KEY = {
    "name": "One of its own; callers get equal parts by name.",
    "key": "The key itself, best as `os.environ/NAME`.",
    "sha256": "The SHA-256 of the key, in place of it.",
    "requests_per_minute": "Calls; what was saved up of a minute may come at once.",
    "items_per_minute": "The same in items.",
    "priority": "`bulk`: its calls may wait behind interactive ones, whatever they ask for.",
}
"""What it does, where the record calls it otherwise or says nothing."""
_RECORDS = (sections.Config, settings.EngineSettings, settings.LimitsSettings, settings.RouterSettings)
"""Where a word of `gateway` that is no section may stand, the first that has it."""
_UNITS = (
    (r"bytes_per_s(_|$)", "bytes a second"),
    (r"per_s(_|$)", "a second"),
    (r"(^|_)ms(_|$)", "milliseconds"),
    (r"(^|_)s(_|$)", "seconds"),
    (r"(^|_)bytes(_|$)", "bytes"),
)


class Setting(NamedTuple):
    """A line of a table."""

    name: str
    """Below `gateway`, with its section: `batching.items_max`."""
    default: str
    """As it is written in YAML; empty where there is none."""
    kind: str
    """Its type and unit."""
    text: str


def gateway_settings() -> Iterator[Setting]:
    """All that stands below `gateway`, in the order of the code."""
    for name in sections._GATEWAY:
        record = _home(name)
        inner = _record_in(get_type_hints(record)[name])
        if name == "keys":
            yield from _key_settings(inner)
        elif inner is not None:
            yield from _of_record(name, inner)
        else:
            [found] = [item for item in fields(record) if item.name == name]
            yield _setting(name, record, found)


def section_text(name: str) -> str:
    """What a section is about; empty for a word that stands alone."""
    inner = _record_in(get_type_hints(_home(name))[name])
    return _said((inner.__doc__ or "").partition("\n\n")[0], "left out") if inner else ""


def _home(name: str) -> type[Any]:
    for record in _RECORDS:
        if name in (item.name for item in fields(record)):
            return record
    raise KeyError(f"no record has gateway.{name}")


def _record_in(hint: Any) -> type[Any] | None:
    """The record that a type is, or holds."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next(filter(None, map(_record_in, get_args(hint))), None)


def _of_record(section: str, record: type[Any]) -> Iterator[Setting]:
    for item in fields(record):
        if item.default != ():  # Such stand elsewhere: see sections._read_record.
            yield _setting(f"{section}.{sections.name_in_file(item.name)}", record, item)


def _key_settings(record: type[Any] | None) -> Iterator[Setting]:
    assert record
    if unknown := {*keys._FIELDS} ^ {*_KEYS}:
        raise KeyError(f"of keys: {', '.join(sorted(unknown))}")
    texts = texts_of(record)
    for word in keys._FIELDS:
        text = _OF_A_KEY.get(word) or _said(texts[word], "left out")
        yield Setting(f"keys[].{word}", "", _KEYS[word], text)


def _setting(name: str, record: type[Any], item: "Field[Any]") -> Setting:
    text = texts_of(record).get(item.name)
    if not text:
        raise KeyError(f"{record.__name__}.{item.name} has no text")
    hint = get_type_hints(record)[item.name]
    numeric = {int, float} & {hint, *get_args(hint)}
    default = _default(item)
    if default is None:
        shown = "auto" if numeric else ""
    elif item.name == "wait_s_max":
        shown = _yaml(default * 1000)
    else:
        shown = _yaml(default)
    return Setting(name, shown, _kind(name, hint), _said(text, shown or "left out"))


def _default(item: "Field[Any]") -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def texts_of(record: type[Any]) -> dict[str, str]:
    """A field → the text below it."""
    [defined] = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(defined, ast.ClassDef)
    found: dict[str, str] = {}
    for above, below in zip(defined.body, defined.body[1:], strict=False):
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(text))):
                    found[above.target.id] = text
    return found


def _said(text: str, none: str) -> str:
    """As a line of a table, where `None` is called what the file has for it."""
    text = " ".join(text.split()).replace("|", "\\|")
    instead = f"`{none}`" if none == "auto" else none
    return re.sub(r"\bNone(:| where)", rf"{instead}\1", text)


def _kind(name: str, hint: Any) -> str:
    if get_origin(hint) in (typing.Union, type(int | None)):
        [hint] = [each for each in get_args(hint) if each is not type(None)]
    if get_origin(hint) is Literal:
        *most, last = _coded(get_args(hint))
        return f"{', '.join(most)} or {last}"
    if get_origin(hint) in (tuple, frozenset):
        inner = get_args(hint)[0]
        words = get_args(inner) if get_origin(inner) is Literal else ()
        return f"list of {_list(words)}" if words else "list"
    if get_origin(hint) is not None:
        return "mapping"
    plain = {bool: "`true` or `false`", int: "whole number", float: "number", Path: "path", str: "text"}[hint]
    for pattern, unit in _UNITS:
        if hint in (int, float) and re.search(pattern, name.rpartition(".")[2]):
            return unit
    return plain


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | frozenset):
        return f"[{', '.join(sorted(value))}]"
    if isinstance(value, Mapping):
        return "{}"
    return f"{value:.12g}" if isinstance(value, int | float) else str(value)


def page() -> str:
    """All of docs/configuration.md."""
    parts = [_HEAD, *_commands(), "## Environment\n", _table(("variable", "what"), _variables())]
    parts += [
        _wrapped(_KEPT.format(names=_list(sorted(KEPT_VARIABLES)))),
        _FILE,
        *_words(),
        *_gateway(),
        *_idle(),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def _commands() -> Iterator[str]:
    parser = command_line()
    yield "## Commands\n"
    yield "`python -m gateway` is the same as `infinity-gateway`.\n"
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for helped in commands._choices_actions:
        command = commands.choices[helped.dest]
        said = _percent(command.description or helped.help or "", command, None)
        yield f"### infinity-gateway {helped.dest}\n"
        yield _wrapped(f"{said[:1].upper()}{said[1:].rstrip('.')}.")
        actions = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
        yield _table(("option", "what"), (_option(action, command) for action in actions))


def _option(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[str, str]:
    named = action.metavar or action.dest.upper()
    value = (named if isinstance(named, str) else " ".join(named)).replace("|", "\\|")
    flags = " ".join((action.option_strings or [""])[-1:])
    name = f"{flags} {value}".strip() if action.nargs != 0 else flags
    return f"`{name}`", _percent(action.help or "", parser, action)


def _percent(text: str, parser: argparse.ArgumentParser, action: argparse.Action | None) -> str:
    facts = {**vars(action), "prog": parser.prog} if action else {"prog": parser.prog}
    return " ".join((text % facts).split()).replace("|", "\\|")


def _variables() -> Iterator[tuple[str, str]]:
    return ((f"`{name}`", text) for name, text in VARIABLES.items())


def _words() -> Iterator[str]:
    for place, (used, _) in _PLACES.items():
        if used:
            texts = WORDS[place]
            if unknown := {*used} ^ {*texts}:
                raise KeyError(f"of {place}: {', '.join(sorted(unknown))}")
            yield f"### {place}\n"
            yield _table(("key", "what"), ((f"`{word}`", texts[word]) for word in used))


def _gateway() -> Iterator[str]:
    yield _GATEWAY_HEAD
    by_section: dict[str, list[Setting]] = {}
    for setting in gateway_settings():
        section, dot, _ = setting.name.partition(".")
        by_section.setdefault(section.removesuffix("[]") if dot else "", []).append(setting)
    alone = by_section.pop("")
    yield _table(_COLUMNS, map(_row, alone))
    for section, rows in by_section.items():
        yield f"### {section}\n"
        yield _wrapped(f"{section_text(section)} {_BESIDE.get(section, '')}")
        yield _table(_COLUMNS, map(_row, rows))


_BESIDE = {
    "discovery": (
        "The words of `model_list[].discovery` may stand here too, where there is no `model_list`: the "
        "models of those servers are learned."
    ),
}
"""What is no field of a section's record."""
_COLUMNS = ("key", "default", "type", "what")


def _row(setting: Setting) -> tuple[str, ...]:
    name = setting.name.rpartition(".")[2]
    shown = f"`{setting.default}`" if setting.default else ""
    return f"`{name}`", shown + _mebibytes(setting), setting.kind, setting.text


def _mebibytes(setting: Setting) -> str:
    whole = int(setting.default) if setting.default.isdigit() else 0
    return f" ({whole >> 20} MiB)" if setting.kind == "bytes" and whole >= 1 << 20 else ""


def _idle() -> Iterator[str]:
    yield _IDLE_HEAD
    for place, (_, idle) in _PLACES.items():
        by_reason: dict[str, list[str]] = {}
        for word, reason in idle.items():
            by_reason.setdefault(reason, []).append(word)
        if by_reason:
            yield f"### Of {place}\n"
            yield _table(("keys", "why"), ((_list(words), why) for why, words in by_reason.items()))


def _list(words: Iterable[str]) -> str:
    return ", ".join(_coded(words))


def _coded(words: Iterable[str]) -> Iterator[str]:
    return (f"`{word}`" for word in words)


_HEAD = """\
# Configuration

Every option, variable and setting. This page is made from the code (`make docs`). Most gateways need no more
than the addresses of their servers: see the [README](../README.md#configure) for a file to start with, and
[tuning](tuning.md) for what is worth setting. `infinity-gateway check FILE` reads a file as `serve` does and
names every problem with its place.
"""
_KEPT = """\
Local servers are those that the gateway starts where neither a file nor `INFINITY_API_BASE` names any. They
are given the gateway's environment without its `INFINITY_*`, `GATEWAY_*` and `LITELLM_*`, but for {names}.
"""
_FILE = """\
## The file

YAML in LiteLLM's words: `model_list`, `router_settings`, `litellm_settings`, `general_settings` and
`environment_variables` (a mapping; they win over those of the process), and `gateway` for what LiteLLM has
no words for. `os.environ/NAME` stands for a variable in every string; one that is not set is an error. A key
that nobody knows is an error, and so is `include`.
"""
_GATEWAY_HEAD = """\
## gateway

Times are in the unit of their name (`_s`, `_ms`). A deployment is one server serving one model; an item is a
text, or a query with one document. `auto` can be written, and means the same as leaving it out.
"""
_IDLE_HEAD = """\
## LiteLLM's words without effect

They are known, do nothing here, and are named once as warnings. `*` is any text.
"""


if __name__ == "__main__":
    FILE.write_text(page())
