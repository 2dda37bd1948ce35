"""The order of a stream's answers: a line of turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from gateway.stream_order import Line, Turn


def saying(said: list[object], word: object, *, slow: bool = False) -> Callable[[], Awaitable[None]]:
    async def say() -> None:
        if slow:
            await asyncio.sleep(0)
        said.append(word)

    return say


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=8), st.randoms())
def test_turns_in_order_free_ones_as_they_come(calls, random):
    """Each turn says so many words; ordinary ones come out turn by turn, and every word of each, in its order."""

    async def run() -> None:
        line, said = Line(), []
        turns = [(line.turn(), number, words, free) for number, (words, free, _) in enumerate(calls)]
        for turn, _, _, free in turns:
            if free:
                await line.set_free(turn)
        todo = [(turn, number, words) for turn, number, words, _ in turns]
        left: dict[int, int] = {number: 0 for _, number, _ in todo}
        tasks = []
        while todo:
            turn, number, words = random.choice(todo)
            word = left[number]
            left[number] += 1
            say = saying(said, (number, word), slow=calls[number][2])
            tasks.append(asyncio.ensure_future(line.say(turn, say, last=word + 1 == words)))
            if random.random() < 0.5:
                await asyncio.sleep(0)
            if left[number] == words:
                todo.remove((turn, number, words))
        await asyncio.gather(*tasks)
        assert not line
        ordered = [(number, word) for number, word in said if not calls[number][1]]
        assert ordered == sorted(ordered)
        assert sorted(said) == [(n, word) for n, (words, _, _) in enumerate(calls) for word in range(words)]

    asyncio.run(run())


async def _say(line: Line, turn: Turn, said: list[object], word: str, *, last: bool = True) -> None:
    await line.say(turn, saying(said, word), last=last)


def test_setting_the_first_free_lets_the_others_out():
    async def run() -> None:
        line, said = Line(), []
        first, second = line.turn(), line.turn()
        await _say(line, second, said, "second")
        assert said == []
        await line.set_free(first)
        assert said == ["second"]
        await _say(line, first, said, "first", last=False)
        assert said == ["second", "first"]
        assert not line

    asyncio.run(run())


def test_nothing_is_said_after_clear():
    async def run() -> None:
        line, said = Line(), []
        first, second = line.turn(), line.turn()

        async def leaves() -> None:
            line.clear()

        await _say(line, second, said, "kept")
        await line.say(first, leaves, last=True)
        assert said == []
        assert not line

    asyncio.run(run())
