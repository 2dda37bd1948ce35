"""What happened, in a log that an outsider can verify with nothing but a public key.

In the order in which a record meets the files: `record` (its form), `people` (names or pseudonyms), `wal` and
`segments` (on the disk, in groups), `sequencer` (into the tree: `edge`, `tiles`, `checkpoint`, `note`), then
`verify`, `proof`, `show` for those who look.
"""
