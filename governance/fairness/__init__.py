"""How a model treats groups: rates with intervals, what cannot be said, and who is not in the figures.

`rates` (counts to metrics), `report` (a table of decisions), `ll144` (the tables of New York City's Local Law 144);
`online` (counts of a running route in the report's form), `bounds` (what the unknown leave open).
"Insufficient" is a result; a group that is too small is shown with its counts and has no rate.
"""
