"""The command, in front of stand-ins and of what is no server."""

import asyncio
import resource
import signal
import sys

import pytest

from gateway.errors import StartError
from tests.bench.running import run
from tests.fakes.faults import Fault, posted, to
from tests.fakes.infinity import FakeInfinity, FakeModel

SHORT = ("--rate", "100", "--duration", "0.4", "--warm-up", "0.1")


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_rate_is_sent_and_told(prefix: str) -> None:
    async with FakeInfinity([FakeModel("m"), FakeModel("cross", ("rerank",))], url_prefix=prefix) as fake:
        ended = await run(f"{fake.url}/", *SHORT, "--json")
    assert ended.code == 0
    (row,) = ended.json["rows"]
    assert row["rate"] == 100
    assert 40 < row["answered"] < 180
    assert 0 < row["p50_ms"] <= row["p99.9_ms"] <= row["max_ms"]
    assert (row["errors"], row["rejected"]) == (0, 0)
    assert ended.json["model"] == "m"
    assert ended.json["url"] == f"{fake.url}/embeddings"
    assert len({batch[0] for batch in fake.batches}) == len(fake.batches) > 25
    assert "p99.9 ms" in ended.err


async def test_what_goes_wrong_is_counted_by_what_it_is() -> None:
    async with FakeInfinity([FakeModel("m")]) as fake:
        fake.faults += [Fault(status=429, times=10, when=posted), Fault(status=503, times=10, when=posted)]
        fake.faults.append(Fault(drop="before", times=5, when=posted))
        ended = await run(fake.url, "--rate", "200", "--duration", "1", "--warm-up", "0", "--json")
    (row,) = ended.json["rows"]
    assert row["statuses"] == {"429": 10, "503": 10, "connection lost": 5}
    assert (row["rejected"], row["errors"]) == (10, 15)
    assert row["remarks"][0] == "errors: 10 × 503, 5 × connection lost"
    assert ended.code == 0


async def test_when_everything_fails_so_does_the_command() -> None:
    async with FakeInfinity([FakeModel("m")]) as fake:
        fake.faults.append(Fault(status=500, when=posted))
        ended = await run(fake.url, *SHORT)
    assert ended.code == 1


async def test_the_limit_of_connections_is_kept_and_said() -> None:
    async with FakeInfinity([FakeModel("m")]) as fake:
        fake.faults.append(Fault(delay=0.03, when=posted))
        ended = await run(fake.url, *SHORT, "--connections", "2", "--json")
    assert fake.in_flight_max == 2
    (row,) = ended.json["rows"]
    assert row["waited"] > 5
    assert "one of 2 connections" in row["remarks"][0]


async def test_a_hung_call_does_not_hang_the_command() -> None:
    async with FakeInfinity([FakeModel("m")]) as fake:
        fake.faults.append(Fault(hang=True, times=1, when=posted))
        ended = await run(fake.url, *SHORT, "--warm-up", "0", "--timeout", "0.5", "--json")
    assert ended.json["rows"][0]["statuses"] == {"no answer within 0.5 s": 1}


async def test_keys_are_sent_and_never_shown() -> None:
    async with FakeInfinity([FakeModel("m")], api_key="sk-secret") as fake:
        for options, environ in (
            (("--key", "sk-secret"), {}),
            (("--key", "os.environ/MINE"), {"MINE": "sk-secret"}),
            ((), {"GATEWAY_MASTER_KEY": "sk-secret"}),
        ):
            ended = await run(fake.url, *SHORT, *options, "--json", environ=environ)
            assert ended.json["rows"][0]["errors"] == 0
            assert "sk-secret" not in ended.out + ended.err
        with pytest.raises(StartError, match="asks for another key: see --key") as failed:
            await run(fake.url, *SHORT, "--key", "sk-wrong")
        assert "sk-wrong" not in str(failed.value)
    with pytest.raises(StartError, match="no variable NONE"):
        await run(fake.url, *SHORT, "--key", "os.environ/NONE")


async def test_a_server_gets_its_own_key_in_a_comparison() -> None:
    model = FakeModel("m")
    async with FakeInfinity([model], api_key="a") as direct, FakeInfinity([model], api_key="b") as gateway:
        ended = await run(
            *(
                "--compare",
                direct.url,
                gateway.url,
                "--connections",
                "1",
                "--rounds",
                "1",
                "--duration",
                "0.1",
            ),
            *("--warm-up", "0.1", "--key", "b"),
            environ={"INFINITY_API_KEY": "a"},
        )
    assert ended.code == 0


async def test_where_several_models_can_one_is_named() -> None:
    async with FakeInfinity([FakeModel("a"), FakeModel("b"), FakeModel("cross", ("rerank",))]) as fake:
        with pytest.raises(StartError, match="several models can embed; say --model, one of a, b"):
            await run(fake.url, *SHORT)
        assert (await run(fake.url, *SHORT, "--model", "b", "--json")).json["model"] == "b"
        assert (await run(fake.url, *SHORT, "--rerank", "--json")).json["model"] == "cross"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected a URL, or --compare"),
        (("http://a", "--compare", "http://b", "http://c"), "expected a URL, or --compare"),
        (("ftp://a",), "is no http:// or https:// address"),
        (("http://127.0.0.1:1",), "http://127.0.0.1:1/models: no answer"),
        (("http://127.0.0.1:1", "--connections", "1,2", "--model", "m"), "--connections has several numbers"),
        (("http://u:sk-pw@127.0.0.1:1",), "no answer"),
        (("http://a..b",), "http://a..b/models: no answer"),
    ],
)
async def test_what_cannot_be_measured_is_said(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(StartError) as failed:
        await run(*arguments)
    assert said in str(failed.value)
    assert "sk-pw" not in str(failed.value)


async def test_more_connections_than_the_system_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(StartError, match="only 1024 files may be open here"):
        await run("http://127.0.0.1:1", "--model", "m", "--connections", "2000")


async def test_an_address_that_is_something_else_is_said() -> None:
    async with FakeInfinity([FakeModel("m")]) as fake:
        fake.faults.append(Fault(raw=b"<html>", when=to("/models")))
        with pytest.raises(StartError, match="answered 200 and no list of models"):
            await run(fake.url, *SHORT)
        fake.faults.clear()
        with pytest.raises(StartError, match="no model there can rerank"):
            await run(fake.url, *SHORT, "--rerank")


@pytest.mark.parametrize(
    "wrong", ["--rate=0", "--rate=a", "--rate=5,nan", "--connections=0", "--duration=-1"]
)
async def test_numbers_that_mean_nothing_are_refused(wrong: str) -> None:
    with pytest.raises(SystemExit):
        await run("http://127.0.0.1:1", wrong)


async def test_ctrl_c_prints_what_there_is() -> None:
    """As a process: the signal ends the first of two rates, and the second is not begun."""
    async with FakeInfinity([FakeModel("m")]) as fake:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "bench", fake.url, "--rate", "50,60", "--duration", "1000"),
            *("--warm-up", "0.1"),
            stdout=asyncio.subprocess.PIPE,
            # A job in the background ignores it, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        await fake.received(30)
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    lines = output.decode().splitlines()
    assert process.returncode == 0
    assert [line.split()[0] for line in lines if line.strip().startswith(("50", "60"))] == ["50.0"]
    assert lines[-1] == "interrupted: only what came before counts"
