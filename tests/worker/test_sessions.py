"""Attention caches are reused where they fit, and freed in time."""

import asyncio
from collections.abc import Sequence

import pytest

from shared.sampling import SamplingParams
from tests.waiting import until_async
from tests.worker.alphabets import byte_level
from tests.worker.scripted import ScriptedBackend, ScriptedSession
from worker.backend import MAX_POSITIONS, Draw
from worker.sessions import Sessions

pytestmark = pytest.mark.anyio
ROOM = 100


@pytest.fixture
def backend(anyio_backend: object) -> ScriptedBackend:
    return ScriptedBackend(byte_level(), "abcdef")


async def use(sessions: Sessions, name: str | None, backend: ScriptedBackend, ids: Sequence[int]) -> ScriptedSession:
    """One step of a job on this session; what it ran on."""
    with sessions.borrow(name, backend, [ids], ROOM) as cache:
        await cache.feed([ids], [Draw(SamplingParams(), ids, len(ids))])
        assert isinstance(cache.session, ScriptedSession)
        return cache.session


async def test_a_session_goes_on_with_what_it_was_fed(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    first = await use(sessions, "s", backend, [1, 2])
    assert await use(sessions, "s", backend, [1, 2, 3]) is first
    assert (first.fed, first.max_length, first.closed) == ([1, 2, 3], ROOM, False)


@pytest.mark.parametrize("ids", [[1, 3, 4], [1, 2], [1], [5, 1, 2, 3]])
async def test_what_does_not_fit_is_fed_anew(backend: ScriptedBackend, ids: list[int]) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    first = await use(sessions, "s", backend, [1, 2])
    second = await use(sessions, "s", backend, ids)
    assert second.fed == ids
    await until_async(lambda: first.closed)
    assert not second.closed


async def test_without_a_session_the_cache_is_freed(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    used = await use(sessions, None, backend, [1])
    await until_async(lambda: used.closed)


async def test_after_an_error_the_cache_is_freed(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    first = await use(sessions, "s", backend, [1])
    backend.failure = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        await use(sessions, "s", backend, [1, 2])
    await until_async(lambda: first.closed)
    backend.failure = None
    assert await use(sessions, "s", backend, [1, 2]) is not first


async def test_a_cancelled_step_frees_the_cache(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    backend.free_steps = 0
    task = asyncio.create_task(use(sessions, "s", backend, [1]))
    await until_async(lambda: backend.steps == 1)
    task.cancel()
    await until_async(lambda: backend.sessions[0].closed)


async def test_a_cache_in_use_is_nobody_else_s(backend: ScriptedBackend) -> None:
    # given a job that lost its lease and still steps, and the same job again
    sessions = Sessions(kept=2, idle_s=60)
    with sessions.borrow("s", backend, [[1]], ROOM) as old:
        new = await use(sessions, "s", backend, [1])
        assert old.session is not new
    # then of the two caches the one that came back last is kept
    await until_async(lambda: new.closed)
    assert not backend.sessions[0].closed


async def test_the_least_recently_used_goes_first(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    a = await use(sessions, "a", backend, [1])
    b = await use(sessions, "b", backend, [1])
    assert await use(sessions, "a", backend, [1, 2]) is a
    c = await use(sessions, "c", backend, [1])
    await until_async(lambda: b.closed)
    assert not a.closed
    assert not c.closed


async def test_idle_caches_are_freed(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=0.05)
    used = await use(sessions, "s", backend, [1])
    sessions.drop_idle()
    assert await use(sessions, "s", backend, [1, 2]) is used

    def freed() -> bool:
        sessions.drop_idle()
        return used.closed

    await until_async(freed)


async def test_room_is_made_of_the_model_s_own_idle_caches(backend: ScriptedBackend) -> None:
    # given idle caches of two models, and one in use
    sessions = Sessions(kept=9, idle_s=60)
    other = ScriptedBackend(byte_level(), "abcdef")
    kept = await use(sessions, "a", other, [1])
    first, second, third, newest = [await use(sessions, name, backend, [1]) for name in "bcde"]
    with sessions.borrow("f", backend, [[1]], ROOM) as cache:
        # when there must be room, then it is there at once, from what was idle for longest, and no more than that
        assert await sessions.make_room(backend, ROOM)
        assert [each.closed for each in (first, second, third, newest)] == [True, False, False, False]
        assert await sessions.make_room(backend, ROOM + 1)
        assert [each.closed for each in (second, third, newest)] == [True, True, False]
        assert await sessions.make_room(backend, 100 * ROOM)
        assert newest.closed
        assert not await sessions.make_room(backend, 1)
        assert (kept.closed, backend.sessions[-1].closed) == (False, False)
        assert cache.name == "f"


async def test_servers_that_do_not_answer_are_not_waited_for(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.sessions.CLOSE_WAIT_S", 0.01)
    sessions = Sessions(kept=2, idle_s=60)
    idle = await use(sessions, "a", backend, [1])
    with sessions.borrow("b", backend, [[1]], ROOM) as cache:
        failed, backend.pause_s = cache.session, 0.5
        assert await sessions.make_room(backend, ROOM)
        await sessions.renew(cache, frees_room=True)
        assert isinstance(failed, ScriptedSession)
        assert (idle.closed, failed.closed) == (False, False)
    await sessions.close()
    assert (idle.closed, failed.closed) == (True, True)


async def test_a_closed_session_is_freed(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    used = await use(sessions, "s", backend, [1])
    sessions.drop("s")
    sessions.drop("s")
    sessions.drop("unknown")
    await until_async(lambda: used.closed)


async def test_a_session_closed_while_its_job_runs_is_freed_after_it(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    with sessions.borrow("s", backend, [[1]], ROOM):
        sessions.drop("s")
        assert not backend.sessions[0].closed
    await until_async(lambda: backend.sessions[0].closed)


async def test_at_the_end_everything_is_freed(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    used = [await use(sessions, name, backend, [1]) for name in "ab"]
    await sessions.close()
    assert [each.closed for each in used] == [True, True]


async def test_a_new_cache_has_a_row_for_each_that_is_wanted(backend: ScriptedBackend) -> None:
    with Sessions(kept=2, idle_s=60).borrow(None, backend, [[1], [1], [1]], ROOM):
        (session,) = backend.sessions
    assert (len(session.rows), session.max_length) == (3, ROOM)


async def test_what_is_long_is_fed_in_pieces(backend: ScriptedBackend) -> None:
    # given two rows with more than two pieces each
    ids = [list(range(MAX_POSITIONS + 1)), list(range(1, MAX_POSITIONS + 2))]
    draws = [Draw(SamplingParams(), row, len(row)) for row in ids]
    with Sessions(kept=2, idle_s=60).borrow(None, backend, ids, MAX_POSITIONS + 1) as cache:
        # then tokens come with the last of them only
        assert await cache.feed(ids, draws) == []
        assert await cache.feed(ids, draws) == []
        assert [choice.id for choice in await cache.feed(ids, draws)] == backend.script[:1] * 2
        assert (cache.length, cache.fed) == (MAX_POSITIONS + 1, ids[0])
    assert backend.pieces == [MAX_POSITIONS // 2, MAX_POSITIONS // 2, 1]


async def test_a_row_may_go_on_from_another_one(backend: ScriptedBackend) -> None:
    with Sessions(kept=2, idle_s=60).borrow(None, backend, [[1], [2]], ROOM) as cache:
        first = [[1], [2]]
        await cache.feed(first, [Draw(SamplingParams(), row, 1) for row in first])
        second = [[2, 7], [2, 8]]
        await cache.feed(second, [Draw(SamplingParams(), row, 1) for row in second], [1, 1])
        assert backend.sessions[0].rows == second


async def test_what_failed_begins_again_with_nothing_fed(backend: ScriptedBackend) -> None:
    sessions = Sessions(kept=2, idle_s=60)
    ids = [[1, 2], [1, 3]]
    draws = [Draw(SamplingParams(), row, 2) for row in ids]
    with sessions.borrow(None, backend, ids, ROOM) as cache:
        await cache.feed(ids, draws)
        # when its session is given up, though rows were to change places
        await sessions.renew(cache, frees_room=False)
        assert cache.length == 0
        await cache.feed(ids, draws, [1, 0])
        # then they have already done so in what is fed
        old, new = backend.sessions
        assert (new.rows, new.max_length, new.closed) == (ids, ROOM, False)
        await until_async(lambda: old.closed)
