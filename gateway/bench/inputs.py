"""What is asked: texts from a file or made up, a call of them at each place."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from gateway.bench import texts
from gateway.errors import StartError

MADE_UP: dict[str, tuple[Callable[[int], Iterator[str]], str]] = {
    "short": (texts.short_questions, "made-up questions of 5 to 14 words"),
    "mixed": (texts.mixed_lengths, "made-up texts of 4 to 220 words, 27 on average"),
}
_DOCUMENTS = 20

Asked = dict[str, Any]
"""`input`, or `query` and `documents`."""


class Inputs(ABC):
    """Calls by their place, 0, 1, …: at the same place stands always the same."""

    path: str
    """The route, below the base URL."""
    capability: str
    """What a model must be able to do, as /models says it."""
    words: str
    """What they are, to people."""

    def __init__(self, reranks: bool) -> None:
        self.path, self.capability = ("/rerank", "rerank") if reranks else ("/embeddings", "embed")

    @abstractmethod
    def asked(self, place: int) -> Asked: ...

    @abstractmethod
    def repeated(self, places: int) -> str:
        """What to know when so many places were used; empty if each was something new."""

    @abstractmethod
    def ready(self, places: int) -> None:
        """Make what takes time to make before it is needed."""

    def bodies(self, model: str, start: int) -> Iterator[bytes]:
        """Calls from a place on, without end."""
        fixed = (
            {"model": model} if self.capability == "rerank" else {"model": model, "encoding_format": "base64"}
        )
        return (orjson.dumps({**fixed, **self.asked(place)}) for place in itertools.count(start))


class MadeUp(Inputs):
    """`kind` is a key of MADE_UP; `items` texts or documents a call, by default 1 or 20."""

    def __init__(self, kind: str, reranks: bool, items: int | None, seed: int) -> None:
        super().__init__(reranks)
        self._items = items or (_DOCUMENTS if reranks else 1)
        make, words = MADE_UP[kind]
        self._texts = make(seed)
        self._queries = texts.short_questions(seed + 1)
        self._made: list[Asked] = []
        what = f"{self._items} {'documents' if reranks else 'texts'}" if self._items > 1 else "one"
        self.words = f"{words}, {what} a call"

    def asked(self, place: int) -> Asked:
        self.ready(place + 1)
        return self._made[place]

    def repeated(self, _places: int) -> str:
        return ""

    def ready(self, places: int) -> None:
        while len(self._made) < places:
            drawn = list(itertools.islice(self._texts, self._items))
            if self.capability == "rerank":
                self._made.append({"query": next(self._queries), "documents": drawn})
            else:
                self._made.append({"input": drawn if self._items > 1 else drawn[0]})


class FromFile(Inputs):
    """The lines of a file again and again; from the second time on with a number at the end of each text or
    query, so that neither a cache nor a call under way has the answer, unless `repeats`."""

    def __init__(self, path: Path, calls: Sequence[Asked], repeats: bool) -> None:
        super().__init__("query" in calls[0])
        self._calls = calls
        self._repeats = repeats
        self.words = f"{len(calls):,} calls from {path.name}"

    def asked(self, place: int) -> Asked:
        turn, at = divmod(place, len(self._calls))
        asked = self._calls[at]
        if not turn or self._repeats:
            return asked
        if "query" in asked:
            return {**asked, "query": f"{asked['query']} {turn}"}
        given = asked["input"]
        return {
            "input": f"{given} {turn}" if isinstance(given, str) else [f"{text} {turn}" for text in given]
        }

    def ready(self, _places: int) -> None:
        """All is there."""

    def repeated(self, places: int) -> str:
        if places <= len(self._calls):
            return ""
        used = f"the {len(self._calls):,} calls of the file were used {places / len(self._calls):.1f} times"
        if self._repeats:
            return f"{used}, as they are: what caches or joins equal texts looks better than it is"
        return f"{used}; from the second time on a number stands after each text, so that none was sent twice"


def read(path: Path, reranks: bool, items: int | None, repeats: bool) -> FromFile:
    """One text a line, `items` (1) of them a call; or, where the name ends with .jsonl, a call a line.

    That is an object with `input` (a text or a list), or with `query` and `documents`.

    Raises StartError with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path}: cannot be read: {error}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise StartError(f"{path}: has no texts")
    if path.suffix != ".jsonl":
        if reranks:
            raise StartError(f"{path}: --rerank needs a .jsonl file, each line with query and documents")
        each = [line.strip() for _, line in numbered]
        size = items or 1
        parts = [each[at : at + size] for at in range(0, len(each), size)]
        return FromFile(path, [{"input": part if size > 1 else part[0]} for part in parts], repeats)
    if items:
        raise StartError(f"{path}: how many texts a call has is what its line says; leave out --items")
    calls = [_call(f"{path}:{number}", line) for number, line in numbered]
    kinds = {"query" in call for call in calls}
    if len(kinds) > 1 or (reranks and kinds == {False}):
        raise StartError(f"{path}: each line must have query and documents{'' if reranks else ', or none'}")
    return FromFile(path, calls, repeats)


def _call(place: str, line: str) -> Asked:
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise StartError(f"{place}: is no JSON: {error}") from None
    match said:
        case {"query": str(query), "documents": [*documents]} if documents and _are_texts(documents):
            return {"query": query, "documents": documents}
        case {"input": str(text)}:
            return {"input": text}
        case {"input": [*given]} if given and _are_texts(given):
            return {"input": given}
    raise StartError(
        f'{place}: expected {{"input": "a text"}}, {{"input": ["texts"]}} or '
        '{"query": "a text", "documents": ["texts"]}'
    )


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
