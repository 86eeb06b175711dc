"""The routes of the pages. They read nothing of a request but a name, and that is looked up in a table."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from landrace.server.http.errors import ApiError
from landrace.server.openapi.description import described
from landrace.server.page.bundle import Bundle, PageFile
from landrace.server.serving import Serving

_GET = ["GET", "HEAD"]
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_EACH_TIME = "no-cache"
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    # No text becomes markup but by way of the library that cleans it.
    "require-trusted-types-for": "'script'",
    "trusted-types": "dompurify",
}
SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NOT_BUILT = b"""<!doctype html>
<html lang="en">
<title>Landrace</title>
<h1>Landrace is serving</h1>
<p>The API is at <code>/v1</code>. The pages were not built with this copy of the package.</p>
<p>To build them, run <code>make page</code> in a checkout of the sources (it needs Node.js 20 or newer, and npm), and
start the server again.</p>
</html>
"""


def routes(serving: Serving) -> APIRouter:
    """`/`, `/admin` and `/assets/NAME`. They hold nothing of the models or of anybody's chats, so they
    ask for no key."""
    del serving
    router = APIRouter()
    not_built = PageFile(_NOT_BUILT, "text/html")
    bundle = Bundle.read() or Bundle(not_built, not_built, {})

    @router.api_route("/", methods=_GET, **described("The chat page.", media_type="text/html", is_open=True))
    async def index(http: Request) -> Response:
        return _reply(bundle.index, http, _ASK_EACH_TIME)

    @router.api_route("/admin", methods=_GET, **described("The operator's page.", media_type="text/html", is_open=True))
    async def admin(http: Request) -> Response:
        return _reply(bundle.admin, http, _ASK_EACH_TIME)

    @router.api_route(
        "/assets/{name}", methods=_GET, **described("A file of the pages.", media_type="*/*", is_open=True)
    )
    async def asset(name: str, http: Request) -> Response:
        if name not in bundle.assets:
            raise ApiError(404, f"There is nothing at {http.url.path}.", code="unknown_url")
        return _reply(bundle.assets[name], http, _FOR_EVER)

    return router


def _reply(file: PageFile, http: Request, caching: str) -> Response:
    headers = {**SECURITY_HEADERS, "Cache-Control": caching, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if file.etag in http.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = file.data
    if file.is_text and "gzip" in http.headers.get("accept-encoding", ""):
        data = file.gzipped
        headers["Content-Encoding"] = "gzip"
    return Response(data, media_type=file.media_type, headers=headers)
