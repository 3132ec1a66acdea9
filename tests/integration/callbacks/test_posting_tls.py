"""One attempt over TLS: to who can prove the name that was asked for, and to nobody else."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from umbel_callbacks.guard import Guard
from umbel_callbacks.names import NameServers
from umbel_callbacks.posting import Poster
from umbel_callbacks.retries import Answer
from umbel_config.settings import load_settings

if TYPE_CHECKING:  # fixtures
    from tests.integration.callbacks.conftest import NameServer, StartHook, StartRecorder

HOST = "hooks.example"
TIMEOUT_S = 5.0
Post = Callable[[str], Awaitable[Answer]]


@pytest.fixture
async def make_poster(name_server: NameServer) -> AsyncIterator[Callable[..., Post]]:
    """Makes a poster that trusts what is given, and finds the receiver on this machine."""
    settings = load_settings(callback_allow=("127.0.0.0/8", HOST))
    posters: list[Poster] = []
    name_server.records[HOST] = [["127.0.0.1"]]

    def make(tls: ssl.SSLContext | None = None) -> Post:
        names = NameServers([name_server.entry], TIMEOUT_S)
        poster = Poster(settings, Guard.of(settings), names, tls)
        posters.append(poster)
        return lambda url: poster.post(url, {}, b"{}")

    yield make
    for poster in posters:
        await poster.aclose()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the receiver's name by an authority of this test, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key, authority = folder / "cert", folder / "key", trustme.CA()
    issued = authority.issue_cert(HOST)
    issued.private_key_pem.write_to_path(str(key))
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(str(folder / "authority"))
    return cert, key


class TlsSide:
    """The receiver's side of TLS, which keeps the names that it was asked for."""

    def __init__(self, cert: Path, key: Path) -> None:
        self.asked: list[str | None] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        self.context.sni_callback = self._ask

    def _ask(self, _: Any, name: str | None, __: Any) -> None:
        self.asked.append(name)


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    start_hook: StartHook, make_poster: Callable[..., Post], certificate: tuple[Path, Path]
) -> None:
    hook = await start_hook(tls=TlsSide(*certificate).context)
    answer = await make_poster()(hook.url(host=HOST))
    assert (answer.status, answer.note) == (0, "no trusted TLS connection")
    assert (answer.at_fault, hook.requests) == (True, [])


async def test_a_trusted_certificate_is_asked_for_by_the_receivers_name(
    start_hook: StartHook, make_poster: Callable[..., Post], certificate: tuple[Path, Path]
) -> None:
    side = TlsSide(*certificate)
    hook = await start_hook(tls=side.context)
    post = make_poster(ssl.create_default_context(cafile=certificate[0].with_name("authority")))
    assert (await post(hook.url(host=HOST))).status == 204
    assert side.asked == [HOST]
    assert hook.requests[0].headers["host"] == f"{HOST}:{hook.port}"


async def test_a_certificate_for_another_name_is_refused(
    start_hook: StartHook, make_poster: Callable[..., Post], certificate: tuple[Path, Path]
) -> None:
    hook = await start_hook(tls=TlsSide(*certificate).context)
    post = make_poster(ssl.create_default_context(cafile=certificate[0].with_name("authority")))
    assert (await post(hook.url())).note == "no trusted TLS connection"
    assert hook.requests == []


async def test_a_receiver_that_speaks_no_tls_gets_nothing(
    start_recorder: StartRecorder, make_poster: Callable[..., Post]
) -> None:
    recorder = await start_recorder()
    answer = await make_poster()(f"https://127.0.0.1:{recorder.port}/hidden")
    assert (answer.status, answer.at_fault, recorder.heads) == (0, True, [])
    assert b"hidden" not in recorder.first[0]
