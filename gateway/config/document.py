"""Read YAML text as plain mappings, lists and scalars; what is not YAML is told with its line and column."""

import re
from typing import Any

import yaml

from gateway.config.reader import Notes, join
from gateway.errors import ConfigError

_MERGED_MAX = 10_000
"""Most keys of a mapping, with those that `<<` brings along."""


def read_document(text: str, notes: Notes, kind: type[yaml.CollectionNode] = yaml.MappingNode) -> object:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if not isinstance(node, kind):
            expected = "a mapping" if kind is yaml.MappingNode else "a list"
            raise ConfigError([f"{_at(node.start_mark)}: expected {expected}, got another kind of value"])
        _note_keys_given_twice(node, notes)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        # PyYAML quotes lines and names, which may be secrets. Only signs and `<block end>` are let through.
        safe = re.match(r"""([^'"]|'[^\w'"]{1,2}'|'<[\w ]+>')*""", error.problem or "")
        problem = safe[0].strip() if safe else ""
        raise ConfigError([f"{_at(error.problem_mark)}: not valid YAML: {problem}"]) from None
    except yaml.reader.ReaderError as error:
        line, start = text.count("\n", 0, error.position) + 1, text.rfind("\n", 0, error.position)
        problem = "a character that YAML does not allow"
        raise ConfigError([f"line {line}, column {error.position - start}: {problem}"]) from error
    except RecursionError as error:
        raise ConfigError(["line 1, column 1: not valid YAML: nested too deeply"]) from error


class _Loader(yaml.SafeLoader):
    """Dates stay the text they were written as (`api_version: 2024-02-01`)."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it.
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MERGED_MAX:  # each `<<: [*a, *a]` doubles what is in `a`
            problem = "too many keys are merged"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, OverflowError, ValueError) as error:
            # What PyYAML lets through for `!!bool maybe`, `0b_` and the like.
            problem = "a value that is not what its tag says"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _at(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1, column 1"


def _note_keys_given_twice(top: yaml.Node, notes: Notes) -> None:
    """YAML forbids them and PyYAML takes the last. Asked of the nodes, before `<<` has merged any."""
    rest, seen = [("", top)], set[int]()
    while rest:
        path, node = rest.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            rest += [(f"{path}[{i}]", item) for i, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                place = join(path, key.value if isinstance(key, yaml.ScalarNode) else f"line {line}")
                rest.append((place, value))
                if place in lines:
                    notes.problems.append(f"{place}: given twice, on lines {lines[place]} and {line}")
                lines[place] = line
