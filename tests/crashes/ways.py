"""The ways in which an update comes: by which download, and what goes wrong on its way, once."""

from typing import Final

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.client.conformance.hostile import PORTAL, TAG, Hostile, Serve, honest
from gateway.client.conformance.publisher import Publisher
from schemas.releases import CATALOGUE_CONTEXT, Download, Release
from schemas.wire import CatalogueNews, Signature

_FORGED: Final = 43


def downloads(publisher: Publisher, way: str, base: bytes, data: bytes) -> list[Download]:
    """Return how an artifact can be had; the whole file is always among the ways."""
    whole = Download("identity", publisher.put(data), len(data))
    if way == "patch":
        return [whole, publisher.patch(base, data)]
    if way == "patch of another base":
        return [whole, publisher.patch(base[::-1], data, says=base)]
    packed = publisher.packed(data)
    if way == "xz":
        return [whole, packed]
    if way == "damaged xz":
        return [whole, Download("xz", publisher.put(bytes(packed.size)), packed.size)]
    return [whole]


def spoil(hostile: Hostile, way: str, listed: Release) -> None:
    """Let the network do once what the way says; otherwise it is honest."""
    hostile.serve, hostile.answers = None, []
    hostile.replies_to_lose = int(way == "lost reply")
    if way in _BODIES:
        bodies = [_BODIES[way]]

        async def serve(request: web.Request, data: bytes) -> web.StreamResponse:
            return await (bodies.pop() if bodies else honest)(request, data)

        hostile.serve = serve
    if way == "forged catalogue":
        news = _forged(hostile.publisher, listed)
        hostile.answers = [lambda batch: hostile.reply(batch, use=_FORGED, news=news)]


async def _cut(request: web.Request, data: bytes) -> web.StreamResponse:
    """Serve a half, and hang up."""
    response = web.StreamResponse(headers={"ETag": TAG, "Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _page(_: web.Request, __: bytes) -> web.StreamResponse:
    return web.Response(text=PORTAL, content_type="text/html")


async def _missing(_: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(status=404, body=data)


async def _other(_: web.Request, data: bytes) -> web.StreamResponse:
    """Serve as many bytes, and others."""
    return web.Response(body=data[::-1], headers={"ETag": TAG})


async def _longer(_: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data + data, headers={"ETag": TAG})


_BODIES: Final[dict[str, Serve]] = {
    "cut download": _cut,
    "portal's page": _page,
    "404": _missing,
    "other bytes": _other,
    "longer body": _longer,
}


def _forged(publisher: Publisher, listed: Release) -> CatalogueNews:
    """Return a catalogue with a release that nobody vouches for, signed in our name by somebody else."""
    false = msgspec.structs.replace(listed, release=_FORGED)
    news = publisher.news(1000, [false])
    sig = Ed25519PrivateKey.generate().sign(CATALOGUE_CONTEXT + news.document)
    return CatalogueNews(news.document, [Signature(news.signatures[0].key, sig)], news.base_url)
