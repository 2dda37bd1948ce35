"""Who may do what: Casbin's built-in model over a policy file, as immutable snapshots.

In the order in which a policy takes effect: `parse` reads it strictly, `lint` judges its words, `cases` runs
its tests, `snapshot` compiles and decides (`roles` follows memberships, `casbin_ref` gives the verdict),
`ask` turns what a caller wants into the request. `model` holds the model's text and vocabulary.
"""

from governance.policy.ask import ask, request_of
from governance.policy.snapshot import PolicySnapshot

__all__ = ["PolicySnapshot", "ask", "request_of"]
