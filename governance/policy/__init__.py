"""Who may do what: a Casbin model over a policy file, as immutable snapshots.

In the order in which a policy takes effect: `conf` reads the model's file, `expression` its matcher,
`definition` what it means; `parse` reads the policy strictly (`repair` knows what a line was meant to be),
`lint` judges its words; `roles` follows memberships, `order` and `plan` say how rules are found, `engine`
decides (`evaluate` is its specification, `functions` Casbin's matching functions), `snapshot` keeps decisions,
`cases` runs the policy's tests, `ask` turns what a caller wants into the request. `model` holds the built-in
model's text and vocabulary; `casbin_ref` is pycasbin itself, which answers are compared with.
"""

from governance.policy.ask import ask, request_of
from governance.policy.snapshot import GATEWAY_FIELDS, PolicySnapshot, policy_digest

__all__ = ["GATEWAY_FIELDS", "PolicySnapshot", "ask", "policy_digest", "request_of"]
