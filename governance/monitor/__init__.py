"""Whether what a model sees today is what it was made with: cells counted, distances between them.

The files in the order in which a report meets them: `kinds` (what a column is, and its values as that), `cells` (bins
and categories, fixed by the reference), `distances` and `significance` (numbers from cells and from values), `report`
(all of it for two tables). For what is served: `profile` (the reference, frozen in a file) and `live` (the report of a
profile and counts), `quality` (what columns were declared to be). For alarms: `scores` of a window, `evidence` that
gathers, `alarms` that begin and end, `causes` of them, `calibration` that simulates `thresholds`. Looking back:
`sequential` tests, `changes` in a table and the `allowance` for a reference that is a sample. All columns together:
`multivariate`, of tables as a `matrix`; `page` is a report as HTML. Definitions and edge cases stand where they are
computed; formulas name their source.
"""
