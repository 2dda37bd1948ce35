"""One POST of a webhook, to an address that it may go to.

Contract: `https` everywhere; `http`, and addresses that are not public, only for hosts that the settings list. The name
is resolved once and what was judged is what is connected to, so that a name cannot change its address in between.
Redirects are not followed and no proxy is asked. Nothing takes longer than `LONGEST_S` in all, and of the answer only
its head is read.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from governance.errors import WebhookError

LONGEST_S = 15.0
"""As Standard Webhooks 1.0.0 asks for, 15 to 30 s."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All that IANA has given out of IPv6's global unicast. Outside lie ways around to IPv4 addresses of any kind: those
of a network's own NAT64 (64:ff9b:1::/48, RFC 8215), IPv4-translated (RFC 2765) and IPv4-compatible ones."""
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
"""RFC 6890, of which Python takes some for anybody's."""
_LONGEST_WAIT_S = 86_400


class Answer(msgspec.Struct, frozen=True):
    """Of an endpoint."""

    status: int
    retry_after: int | None = None
    """Seconds that it asks to be left alone."""


def not_allowed(url: str, private: Iterable[str]) -> str:
    """Why a URL may not be posted to, before its name is resolved; empty: it may."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no URL ({error})"
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        return "needs https:// and a host"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "holds what a URL cannot: write it percent-encoded"
    if parts.username is not None or parts.fragment:
        return "has a user or a fragment: receivers know the gateway by its signature"
    if parts.scheme == "http" and parts.hostname not in set(private):
        return "needs https://, or its host in `webhooks.private_hosts`"
    return ""


class Post:
    """One attempt. `cut` may be called from another thread.

    Args:
        url: where to; one of which `not_allowed` says nothing.
        private: hosts that may be on addresses that are not public.
        ca: authorities that its certificate must come from; None: the system's.
    """

    def __init__(self, url: str, private: Iterable[str], ca: Path | None = None) -> None:
        self._url = url
        self._private = set(private)
        self._ca = ca
        self._socket: socket.socket | None = None
        self._cut = False

    def send(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises WebhookError: there is no answer; the text is one line and says no more than an operator needs."""
        parts = urlsplit(self._url)
        host, tls = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        timer = threading.Timer(LONGEST_S, self.cut)
        timer.daemon = True
        timer.start()
        try:
            made = http.client.HTTPConnection(host, port)
            with contextlib.closing(made):
                made.sock = self._connected(host, port, tls=tls)
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                made.request("POST", path, body, {"Content-Type": "application/json", **headers})
                answer = made.getresponse()
                return Answer(answer.status, _seconds(answer.getheader("retry-after")))
        except ssl.SSLCertVerificationError as error:
            raise WebhookError(f"its certificate is not accepted ({error.verify_message})") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            why = "no answer in time" if self._cut else type(error).__name__
            raise WebhookError(f"cannot be reached ({why})") from None
        finally:
            timer.cancel()

    def cut(self) -> None:
        """End it now."""
        self._cut = True
        with contextlib.suppress(OSError):
            if self._socket is not None:
                # Not as TLS has it, which takes the cipher away first: what is being sent would go on without.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connected(self, host: str, port: int, *, tls: bool) -> socket.socket:
        context = ssl.create_default_context(cafile=None if self._ca is None else str(self._ca)) if tls else None
        plain = self._plain(self._addresses(host, port), port)
        if context is None:
            return plain
        try:
            # The handshake is a step of its own, since it is the wrapped one that `cut` has to end.
            wrapped = self._socket = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        try:
            if self._cut:
                raise TimeoutError
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _addresses(self, host: str, port: int) -> list[str]:
        """Of a host, each once. Raises WebhookError: it may not be at one of them."""
        found = dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        if host not in self._private and not all(map(public, found)):
            raise WebhookError("is at an address that is not public: list its host in `webhooks.private_hosts`")
        return list(found)

    def _plain(self, addresses: Sequence[str], port: int) -> socket.socket:
        """A connection to the first address that takes one."""
        for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
            try:
                made = self._socket = socket.create_connection((address, port), timeout=LONGEST_S)
            except OSError:
                if not left or self._cut:
                    raise
                continue
            if self._cut:
                made.close()
                break
            return made
        raise TimeoutError


def public(address: str) -> bool:
    """Whether an address is anybody's on the internet: not private, not of this machine or link, and no way around."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is None and found not in _GLOBAL_UNICAST:
            return False
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast and found not in _PROTOCOLS


def _seconds(text: str | None) -> int | None:
    """Of `Retry-After`, when it is a number (RFC 9110, 10.2.3)."""
    return min(int(text), _LONGEST_WAIT_S) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
