"""Security: who may look at the pages and who may change something.

The server listens on loopback, which other users of the machine and every page open in the browser can reach too. So:

1. A request for a host that is not this machine is refused: a name that an attacker made point here (DNS rebinding).
2. Everything but the style sheet and the scripts wants the cookie, which only the address printed at the start gives. A
   store holds prompts and data that the rights of its file may keep from other users.
3. What changes something is a POST, from a page of this site (`Origin`, `Sec-Fetch-Site`), with the token that stands
   in the form. A GET changes nothing.
4. The browser runs no script but our files, and shows the pages in no frame.

Not covered: whoever can read the memory or the terminal of this user, and programs of this user.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HOSTS = ("127.0.0.1", "localhost", "::1")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With `no-referrer` browsers would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """What proves that a request comes from whoever started the pages.

    Attributes:
        token: in the address printed at the start, and in the cookie.
    """

    token: str

    @classmethod
    def drawn(cls) -> Keys:
        return cls(secrets.token_urlsafe(24))

    @property
    def form(self) -> str:
        """Stands in every form. It is another one than the cookie's, which no page bears."""
        return hmac.new(self.token.encode(), b"form", hashlib.sha256).hexdigest()

    def holds(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


class Forbidden(Exception):
    """A request that is not answered. Its text says why."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


def cookie_name(request: web.Request) -> str:
    """Cookies are shared by all ports of a host, and there may be pages on several."""
    return f"tokenprior_{request.url.port}"


async def admit(request: web.Request, keys: Keys) -> web.StreamResponse | None:
    """Let a request pass, or answer it.

    Returns:
        A redirect for the address printed at the start, else `None`.

    Raises:
        Forbidden: it may not pass.
    """
    if request.url.host not in HOSTS:
        raise Forbidden(421, "this server answers for this machine alone, by the address that it printed")
    if request.path.startswith("/static/") and request.method in ("GET", "HEAD"):
        return None
    if "token" in request.query and request.method == "GET":
        return _welcome(request, keys)
    if not keys.holds(request.cookies.get(cookie_name(request))):
        raise Forbidden(403, "open the address with the token that `tokenprior ui` printed when it started")
    if request.method in ("GET", "HEAD"):
        return None
    _require_same_site(request)
    form = await request.post()
    if not hmac.compare_digest(str(form.get("form_token", "")).encode(), keys.form.encode()):
        raise Forbidden(403, "the form is not of this server, or it was started anew since: load the page again")
    return None


def _welcome(request: web.Request, keys: Keys) -> web.StreamResponse:
    if not keys.holds(request.query["token"]):
        raise Forbidden(403, "the token is not that of this server: open the address that `tokenprior ui` printed")
    # Into the relative address only, so that nobody is sent elsewhere.
    clean = request.rel_url.without_query_params("token")
    answer = web.Response(status=303, headers={"Location": "/" + str(clean).lstrip("/\\")})
    answer.set_cookie(cookie_name(request), keys.token, httponly=True, samesite="Strict", path="/")
    return answer


def _require_same_site(request: web.Request) -> None:
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is None and site is None:
        raise Forbidden(403, "the request does not say which site it comes from")
    if (origin is not None and origin != str(request.url.origin())) or (site is not None and site != "same-origin"):
        raise Forbidden(403, "the request comes from another site")


def guard(keys: Keys, refuse: Callable[[web.Request, Forbidden], web.StreamResponse]) -> Middleware:
    """The middleware: admits requests, and gives every answer its headers."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await admit(request, keys) or await handler(request)
        except Forbidden as forbidden:
            response = refuse(request, forbidden)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return guarded
