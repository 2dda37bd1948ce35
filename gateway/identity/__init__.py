"""Step 3: who asks. Credentials of a request to a `Subject`.

Contract: synchronous, no I/O on the way of a request save for a token whose key is not known yet (`KeysNeeded`).
Keys are known by their SHA-256 alone and compared in constant time; tokens by their signature (`jwt`, `claims`,
`jwks`, `sources`); certificates are verified by TLS. Nothing of a credential is ever logged.
"""

from gateway.identity.credentials import ApiKeys, Authenticator, Credentials
from gateway.identity.identifier import Identifier
from gateway.identity.sources import KeysNeeded, Sources

__all__ = ["ApiKeys", "Authenticator", "Credentials", "Identifier", "KeysNeeded", "Sources"]
