"""Who may ask the annotation server at all, judged before a byte of the body is read.

With a token in the environment whoever sends it (``Authorization: Bearer``), from anywhere; without one only this
machine, by the addresses of both ends of the connection, and by its own name: a page of the web whose name is made to
point here (DNS rebinding) sends that name. A request of another origin is refused in both cases; as no origin is let in,
there is no CORS and no preflight to answer.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN = "MONAI_LABEL_TOKEN"
MAX_BODY = 2**31  # bytes of a request


class Guard:
    """Refuses, before a byte of the body is read, who may not ask and what is too long.

    Args:
        app: what answers the others.
        token: that every request must bear; empty: none, and only this machine may ask.
    """

    def __init__(self, app: ASGIApp, token: str = "") -> None:
        self.app, self.token = app, token.strip()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._judge(scope) if scope["type"] == "http" else None
        await (refused or self.app)(scope, receive, send)

    def _judge(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return refusal(403, f"the page {origin[:100]} may not use this server. Use 3D Slicer or a script")
        if self.token:
            scheme, _, sent = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(sent.encode("latin-1"), self.token.encode())  # headers come as latin-1
            if scheme.lower() != "bearer" or not right:
                sentence = f"no valid token. Send Authorization: Bearer and the value of {TOKEN}"
                return refusal(401, sentence, {"WWW-Authenticate": "Bearer"})
        elif not (_is_here(scope.get("client")) and _is_here(scope.get("server")) and _is_local_name(host)):
            return refusal(
                403, f"without {TOKEN} only this machine may ask, by http://127.0.0.1. Set it, or use a tunnel"
            )
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers:
            return refusal(411, "found a body without length, expected Content-Length. Send the body in one piece")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return refusal(
                413, f"found a body of {length[:20]} bytes, expected at most {MAX_BODY}. Copy the file instead"
            )
        return None


def refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A reply that says in one sentence, under ``detail``, why there is no other."""
    return JSONResponse({"detail": sentence}, status, headers)


def _is_here(end: tuple[str, int | None] | None) -> bool:
    """Whether an end of the connection is this machine's loopback."""
    return end is not None and _is_loopback(end[0])


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_local_name(host: str) -> bool:
    """Whether a Host header names this machine as only this machine does; a rebound name of the web does not."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)
