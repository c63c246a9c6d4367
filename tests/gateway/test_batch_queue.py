"""What a gateway leaves at the broker for RQ."""

import json
import zlib
from typing import Any

import pytest

from gateway.batch_queue import BatchQueue
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio


async def test_what_waits_in_line_is_json(valkey: Valkey) -> None:
    await BatchQueue(valkey.url).add("batch-1", 60)
    stored: dict[Any, Any] = valkey.client.hgetall("rq:job:batch-1")
    assert json.loads(zlib.decompress(stored[b"data"])) == ["gateway.batch_run.run", None, ["batch-1"], {}]
    # the other fields are text as it is
    del stored[b"data"]
    assert all(value.decode("ascii").isprintable() for value in stored.values())


async def test_a_batch_stands_in_line_once(valkey: Valkey) -> None:
    queue = BatchQueue(valkey.url)
    await queue.add("batch-1", 60)
    await queue.add("batch-1", 60)
    assert valkey.client.lrange("rq:queue:batches", 0, -1) == [b"batch-1"]
