"""Files that people write, read strictly and with places: YAML 1.2 to nodes to Structs.

`nodes` reads the syntax, `convert` drives it into `msgspec` Structs by their types, `words` finds the nearest
valid word. Each fault is a `governance.types.Finding` with file, line, column and remedy.
"""
