"""Model cards: what a model is, what it is for, how well it does and what it must not be used for.

`card` (the YAML beside a model, as one Struct), `complete` (what is missing), and a writer a file: `hugging_face`,
`cyclonedx`, `spdx`, `annex_iv`, `page`. A writer leaves out what the card does not say and never invents it.
"""
