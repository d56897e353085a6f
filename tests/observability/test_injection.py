"""Whatever callers, servers and files say: a line of the log is one line, and drives no terminal."""

import json
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tests.api.caller import raw_exchange
from tests.api.waiting import until
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, FakeModel
from tests.gateway_process import GatewayProcess

FORGED = '{"ts":"2026-01-01T00:00:00.000Z","level":"INFO","event":"forged"}'
HOSTILE = [
    f"a\n{FORGED}",
    f"a\r\n{FORGED}\r\n",
    "a\n2026-01-01T00:00:00.000Z INFO forged",
    "a\r2026-01-01T00:00:00.000Z INFO forged",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "\x9b31mred",
    "\x00\x08\x0b\x0c\x7f\x85",
    "\u2028forged\u2029",
    "\u202egnp.exe\u2066\u200f",
    '"} {"event":"forged"}',
]
NAME = "na\nme\x1b[31m \u202e" + FORGED
"""Of a model, which servers and files may give: one that can be called."""
RAW = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) (?!forged)\S.*")
KEY = "sk-some"
FORMATS = pytest.mark.parametrize("form", ["json", "human"])


def of_json(line: str) -> bool:
    """Whether it is one that the gateway has written itself."""
    told = json.loads(line)
    return bool(told["ts"] and told["level"]) and told["event"] != "forged"


def of_words(line: str) -> bool:
    """The same."""
    return bool(LINE.fullmatch(line))


WRITTEN: dict[str, Callable[[str], bool]] = {"json": of_json, "human": of_words}


def assert_clean(gateway: GatewayProcess, form: str) -> None:
    for line in gateway.output:
        assert not RAW.search(line), ascii(line)
        assert WRITTEN[form](line), ascii(line)


def calls_in(gateway: GatewayProcess) -> list[str]:
    """The access log."""
    return [line for line in gateway.output if "POST" in line]


@asynccontextmanager
async def started(fake: FakeInfinity, folder: Path, form: str) -> AsyncIterator[GatewayProcess]:
    """One with an access log of all calls, a file of keys and a model of that name."""
    keys = folder / "keys.yaml"
    keys.write_text(yaml.safe_dump([{"name": "some", "key": KEY}]))
    file = folder / "gateway.yaml"
    file.write_text(json.dumps(content(fake, form)))
    async with GatewayProcess(config=file) as gateway:
        await gateway.wait_ready(2)
        yield gateway


def content(fake: FakeInfinity, form: str) -> dict[str, Any]:
    logging = {"format": form, "access_log": 1}
    return {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"infinity/{model}", "api_base": fake.url}}
            for name, model in (("bert", "bert"), (NAME, "bert"))
        ],
        "gateway": {
            "logging": logging,
            "keys_file": "keys.yaml",
            "open_routes": ["metrics"],
            "drain": {"grace_s": 0},
        },
    }


def request(target: bytes, body: bytes, *fields: bytes, version: bytes = b"1.1") -> bytes:
    """HTTP/1.0 is what goes through ASGI."""
    head = (
        b"POST %b HTTP/%b" % (target, version),
        b"Host: gateway",
        b"Connection: close",
        b"Authorization: Bearer " + KEY.encode(),
        b"Content-Length: %d" % len(body),
        *fields,
    )
    return b"\r\n".join((*head, b"", body))


EMBED = b"/v1/embeddings"
GOOD = json.dumps({"model": "bert", "input": "one"}).encode()
FIELDS = (b"X-Request-Id", b"User-Agent", b"X-Request-Timeout", b"X-Priority", b"traceparent", b"X-Model")


def attacks(hostile: str) -> list[bytes]:
    """Calls that carry it wherever a caller may write something."""
    raw, coded = hostile.encode(), quote(hostile, safe="").encode()
    named = json.dumps({"model": hostile, "input": hostile, hostile: hostile}).encode()
    sent: list[bytes] = []
    for version in (b"1.1", b"1.0"):
        for field in FIELDS:
            sent += [
                request(EMBED, GOOD, b"%b: %b" % (field, each), version=version) for each in (raw, coded)
            ]
        for path in (b"/openai/deployments/%b/embeddings", b"/engines/%b/embeddings", b"/%b", b"/v1/%b?a=%b"):
            for each in (raw, coded):
                sent.append(request(path.replace(b"%b", each), GOOD, version=version))
        sent.append(request(EMBED, named, version=version))
        sent.append(request(EMBED, named, b"Authorization: Bearer " + raw, version=version))
        sent.append(request(EMBED, b'{"model": "' + raw, version=version))
    return sent


@pytest.mark.proves(
    "line ends, control characters and terminal sequences in x-request-id, a model's name, the path, a key "
    "or a body, to forge lines of the log or to drive a terminal",
    caller="an answer as to any other call; in both formats each line is one of the gateway's own",
    kind="attack",
)
@FORMATS
async def test_no_caller_writes_lines_of_the_log(tmp_path: Path, form: str) -> None:
    """Both ways. What comes raw is no HTTP or is replaced, what comes coded is escaped."""
    async with FakeInfinity([FakeModel("bert")]) as fake, started(fake, tmp_path, form) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for hostile in HOSTILE:
            for sent in attacks(hostile):
                answer = await raw_exchange(port, sent)
                assert re.match(rb"HTTP/1\.[01] [2-4]\d\d ", answer), (sent, answer)
                assert b"\x1b" not in answer.partition(b"\r\n\r\n")[0]
        body = json.dumps({"model": NAME, "input": "one"}).encode()
        for version in (b"1.1", b"1.0"):
            sent = request(EMBED, body, b"x-request-id: known", version=version)
            assert b" 200 OK" in await raw_exchange(port, sent)

    assert_clean(gateway, form)
    assert len(calls_in(gateway)) > 100
    # It is there, and was made harmless.
    known = [line for line in calls_in(gateway) if "known" in line]
    if form == "json":
        assert [json.loads(line)["model"] for line in known] == [NAME] * 2
    else:
        assert all("model=na?me?[31m ?" in line for line in known)


@pytest.mark.proves(
    "the same in what a server answers, in a key's name and in a changed configuration",
    caller="the same; the configuration and the keys of before stay",
    kind="attack",
)
@FORMATS
async def test_no_server_and_no_file_writes_lines_of_the_log(tmp_path: Path, form: str) -> None:
    """A name of a key is refused for it, and is not quoted, as it may be a key."""
    keys, file = tmp_path / "keys.yaml", tmp_path / "gateway.yaml"
    async with FakeInfinity([FakeModel("bert")]) as fake, started(fake, tmp_path, form) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for number, hostile in enumerate(HOSTILE):
            said = json.dumps({"error": {"message": hostile}}).encode()
            for status in (200, 400, 500):
                for raw in (said, hostile.encode()):
                    fake.faults[:] = [Fault(status=status, raw=raw, when=contains("poison"), times=1)]
                    text = f"poison {number} {status} {len(raw)}"
                    await raw_exchange(
                        port, request(EMBED, json.dumps({"model": "bert", "input": text}).encode())
                    )
        named = [{"name": hostile, "key": f"sk-{number}"} for number, hostile in enumerate(HOSTILE)]
        keys.write_text(json.dumps(named))
        unknown = dict.fromkeys(HOSTILE, "any")
        for wrong in (
            json.dumps({**content(fake, form), **unknown, "gateway": {**unknown, "keys": named}}),
            "".join(HOSTILE),
        ):
            file.write_text(wrong)
            told = refusals(gateway, "configuration")
            gateway.signal(signal.SIGHUP)
            await until(lambda told=told: refusals(gateway, "configuration") > told)
        await until(lambda: refusals(gateway, "file of keys") > 0)

    assert_clean(gateway, form)


def refusals(gateway: GatewayProcess, what: str) -> int:
    """Lines that say so of a file."""
    return sum(f"the {what} cannot be used" in line for line in gateway.output)
