"""Duties, and what the log shows of them: evidence that an outsider can check, and an honest list of what is missing.

In the order in which a report meets the files: `pack` (duties as dated data, in `packs`), `given` (what people hand
in beside the log), `scan` (one pass over the log in bounded memory), `checks` (what can be judged), `report` (all of
it as one value), `page` (for people), `bundle` (a folder that verifies offline). `incident` and `clocks` make the
dossier of one incident from the same parts.

Nothing here says that a law is kept: that is for people to judge.
"""
