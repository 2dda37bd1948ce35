"""Whether clients show certificates.

Contract: a pure function of the settings, the same for both doors.

| `listen.tls.client_ca` | `identity.mtls` | another way in        | clients    |
|------------------------|-----------------|-----------------------|------------|
| absent                 |                 |                       | `none`     |
| there                  | absent          |                       | `required` |
| there                  | there           | none                  | `required` |
| there                  | there           | key, token, anonymous | `optional` |

With `optional`, whoever shows none and no other credential is refused by the door (401) instead of in the
handshake; a certificate that does not verify fails the handshake all the same.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from gateway.settings import Settings

ClientCertificates: TypeAlias = Literal["none", "optional", "required"]


def client_certificates(settings: Settings) -> ClientCertificates:
    """What the listeners ask of clients."""
    tls, identity = settings.listen.tls, settings.identity
    if tls is None or tls.client_ca is None:
        return "none"
    if identity is None or identity.mtls is None:
        return "required"
    others = identity.api_keys or identity.jwt or identity.anonymous is not None
    return "optional" if others else "required"
