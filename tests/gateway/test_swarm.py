"""What /api/v1/status tells of gateways, workers, queues and blocks, over a real broker."""

import asyncio
import time

import pytest

from shared.broker import Broker
from shared.errors import BrokerUnavailable
from shared.heart import Heart
from shared.reports import Coverage, Report
from tests.gateway.conftest import MODEL, TIMING, Serve, Served
from tests.gateway.player import Player
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

OTHER = "corolla/adapter"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is a new one."""
    monkeypatch.setattr("gateway.swarm.FRESH_S", 0.0)


async def test_nothing_but_a_gateway(serve: Serve) -> None:
    async with serve(gateway_name="one") as gateway:
        await own_name(gateway)
        answer = await gateway.client.get("/api/v1/status")
    assert answer.status_code == 200
    idle = {"live_workers": 0, "waiting": 0, "blocks": [], "blocks_age_s": 0.0}
    assert answer.json() == {
        "ok": True,
        "waiting": 0,
        "tokens_per_s": 0,
        "gateways": [{"name": "one"}],
        "workers": [],
        "models": [{"key": MODEL, "name": "Demo", **idle}, {"key": OTHER, "name": "Secret", **idle}],
    }


async def test_workers_and_their_newest_view_of_the_swarm(gateway: Served, player: Player, valkey: Valkey) -> None:
    # given two workers, of whom one has looked lately
    other = Player(player._broker, (MODEL,), "another")
    reports = {
        player: Report(1.5, {MODEL: Coverage((3, 3, 3), 40.0)}),
        other: Report(0.25, {MODEL: Coverage((2, 1, 0), 7.5)}),
    }
    for each, report in reports.items():
        heart = Heart(valkey.url, each.who, TIMING)
        heart.beat([], 30, report)
        heart.close()
    # then
    found = (await gateway.client.get("/api/v1/status")).json()
    assert found["tokens_per_s"] == 1.75
    assert found["workers"] == [
        {"name": "another", "models": [MODEL], "slots": 32, "running": 2, "waiting": 0, "tokens_per_s": 0.25},
        {"name": "player", "models": [MODEL, OTHER], "slots": 32, "running": 2, "waiting": 0, "tokens_per_s": 1.5},
    ]
    demo, secret = found["models"]
    assert (demo["live_workers"], demo["blocks"], demo["blocks_age_s"]) == (2, [2, 1, 0], 7.5)
    assert (secret["live_workers"], secret["blocks"]) == (1, [])


async def test_what_waits(gateway: Served, player: Player) -> None:
    # given three jobs, of which the worker has taken one
    await player.enter()
    params = {"model": MODEL, "inputs": "hi", "max_new_tokens": "1"}
    asked = [gateway.client.post("/api/v1/generate", data=params) for _ in range(3)]
    answers = [asyncio.create_task(each) for each in asked]
    first = await player.take()

    async def waiting() -> tuple[int, int]:
        found = (await gateway.client.get("/api/v1/status")).json()
        return found["waiting"], found["models"][0]["waiting"]

    # then
    while await waiting() != (2, 2):
        pass
    # when
    await first.finish("a")
    for _ in range(2):
        await (await player.take()).finish("a")
    # then
    assert [(await answer).status_code for answer in answers] == [200] * 3
    assert await waiting() == (0, 0)


async def test_gateways_that_are_silent_are_forgotten(gateway: Served, broker: Broker, valkey: Valkey) -> None:
    # given
    own = await own_name(gateway)
    await broker.announce("lost")
    assert set(await names(gateway)) == {own, "lost"}
    # when its time is over
    valkey.client.zadd("{p}:gateways", {"lost": time.time() * 1000 - 1})
    # then
    assert await names(gateway) == [own]


async def own_name(gateway: Served) -> str:
    """The gateway's name, once it has announced itself."""
    while not (found := await names(gateway)):
        pass
    return found[0]


async def names(gateway: Served) -> list[str]:
    return [each["name"] for each in (await gateway.client.get("/api/v1/status")).json()["gateways"]]


async def test_without_the_broker(serve: Serve) -> None:
    async with serve(redis_url="redis://127.0.0.1:1/0") as gateway:
        answer = await gateway.client.get("/api/v1/status")
    assert (answer.status_code, answer.json()) == (503, {"ok": False, "missing": ["broker"]})


async def test_a_broker_that_is_away_is_not_waited_for_by_every_reader(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def overview(self: Broker, models: object) -> None:
        asked.append(models)
        raise BrokerUnavailable

    monkeypatch.setattr(Broker, "overview", overview)
    monkeypatch.setattr("gateway.swarm.FRESH_S", 60.0)
    async with serve() as gateway:
        answers = [await gateway.client.get("/api/v1/status") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert len(asked) == 1


async def test_many_readers_ask_the_broker_once(
    gateway: Served, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.FRESH_S", 60.0)
    first = (await gateway.client.get("/api/v1/status")).json()
    valkey.client.delete("{p}:gateways")
    assert (await gateway.client.get("/api/v1/status")).json() == first
