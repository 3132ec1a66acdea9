"""Running the Lua scripts: one atomic step each, sent by hash, safe to send again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.exceptions import NoScriptError

from umbel_batching.record import lua_layout

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One run of a script: its keys and arguments, and how to read its reply.

    ``calls.py`` makes them, a runner runs them; so sync and async code share every detail.
    """

    script: str
    keys: Sequence[str]
    args: Sequence[Any]
    parse: Callable[[Any], T]


@dataclass(frozen=True, slots=True)
class Source:
    """A script as it is sent.

    Attributes:
        text: its text behind the prelude.
        sha: SHA-1 of the text.
        keys: names of its keys, fields of ``LaneKeys`` and ``SharedKeys``; empty where they vary.
    """

    text: str
    sha: str
    keys: tuple[str, ...]


#: Files of what scripts share, each using only what stands before it.
_PRELUDE = ("_prelude.lua", "_outbox.lua", "_ending.lua", "_lengths.lua")
_KEYS_LINE = re.compile(r"^-- KEYS: (\w+(?:, \w+)*)$", re.MULTILINE)


@cache
def source(name: str) -> Source:
    """The script ``lua/<name>.lua``, behind the layout of records, its keys and the prelude.

    The keys that its KEYS line names are local variables of these names, in that order.
    """
    folder = resources.files("umbel_batching") / "lua"
    body = (folder / f"{name}.lua").read_text("utf-8")
    named = _KEYS_LINE.search(body)
    keys = tuple(named[1].split(", ")) if named else ()
    bound = [f"local {key} = KEYS[{place}]\n" for place, key in enumerate(keys, start=1)]
    text = lua_layout() + "".join(bound) + _prelude_for(body) + body
    return Source(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), keys)


_DEFINED = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)


@cache
def _paragraphs() -> tuple[tuple[str, frozenset[str]], ...]:
    """The paragraphs of the prelude, and the names that each defines."""
    folder = resources.files("umbel_batching") / "lua"
    prelude = "\n".join((folder / name).read_text("utf-8") for name in _PRELUDE)
    return tuple(
        (part, frozenset(name for names in _DEFINED.findall(part) for name in names.split(", ")))
        for part in re.split(r"\n\n+", prelude)
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", re.sub(r"--.*", "", text)))


def _prelude_for(body: str) -> str:
    """The paragraphs of the prelude that a script needs, in their order.

    Redis makes every function of a script anew for each call, so those it does not use cost time.
    """
    used, needed = _words(body), list[str]()
    for part, names in reversed(_paragraphs()):  # what a paragraph uses stands above it
        if names & used:
            used |= _words(part)
            needed.append(part)
    return "".join(part + "\n" for part in reversed(needed))


class Runner:
    """Runs calls over a blocking Redis client.

    Args:
        client: from ``umbel_config.connect``; its replies must be bytes.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._known: set[str] = set()  # scripts that the server has, as far as was seen

    def run(self, call: Call[T]) -> T:
        """Runs one call and returns its parsed reply."""
        return call.parse(self._reply(call))

    def run_together(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Runs several calls in order, in one round trip; each is atomic by itself."""
        pipe = self.client.pipeline(transaction=False)
        for call in calls:
            pipe.execute_command(*self.command(call))  # type: ignore[no-untyped-call]
        return self.parsed(calls, pipe.execute(raise_on_error=False))

    def command(self, call: Call[Any]) -> tuple[Any, ...]:
        """The command that runs a call among others.

        The first of a script brings its text: one that Redis does not know would run behind those
        that follow it, and a claim might overtake the settling before it.
        """
        script = source(call.script)
        how = ("EVALSHA", script.sha) if call.script in self._known else ("EVAL", script.text)
        self._known.add(call.script)
        return (*how, len(call.keys), *call.keys, *call.args)

    def parsed(self, calls: Sequence[Call[Any]], replies: Sequence[Any]) -> list[Any]:
        """Reads the replies to several commands; a script that Redis did not know is run now.

        Args:
            calls: the calls, in order.
            replies: the reply to each, or the error that it raised.
        """
        return [
            call.parse(self._settle(call, reply))
            for call, reply in zip(calls, replies, strict=True)
        ]

    def _settle(self, call: Call[Any], reply: Any) -> Any:
        if isinstance(reply, NoScriptError):  # the server was started anew: it has lost them all
            self._known.clear()
            return self._reply(call)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _reply(self, call: Call[Any]) -> Any:
        script = source(call.script)
        try:
            return self.client.evalsha(script.sha, len(call.keys), *call.keys, *call.args)
        except NoScriptError:
            return self.client.eval(script.text, len(call.keys), *call.keys, *call.args)


class AsyncRunner:
    """Runs calls over an asyncio Redis client.

    Args:
        client: from ``umbel_config.connect``; its replies must be bytes.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client

    async def run(self, call: Call[T]) -> T:
        """Runs one call and returns its parsed reply."""
        return call.parse(await self._reply(call))

    async def run_together(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Runs several calls in order, in one round trip; each is atomic by itself."""
        pipe = self.client.pipeline(transaction=False)
        for call in calls:
            pipe.evalsha(source(call.script).sha, len(call.keys), *call.keys, *call.args)
        replies = await pipe.execute(raise_on_error=False)
        results = []
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, NoScriptError):
                results.append(call.parse(await self._reply(call)))
            elif isinstance(reply, Exception):
                raise reply
            else:
                results.append(call.parse(reply))
        return results

    async def _reply(self, call: Call[Any]) -> Any:
        script = source(call.script)
        arguments = (len(call.keys), *call.keys, *call.args)
        try:
            return await self.client.evalsha(script.sha, *arguments)
        except NoScriptError:
            return await self.client.eval(script.text, *arguments)
