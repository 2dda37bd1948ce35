"""A transformer of the KServe SDK that changes nothing: the SDK's own forwarding is what is measured.

Runs in `.venv-kserve` with the SDK's own arguments (`--model_name`, `--predictor_host`, `--predictor_protocol v2`).
"""

import argparse

import kserve


class Passing(kserve.Model):
    """The base class does the forwarding."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    arguments, _ = parser.parse_known_args()
    kserve.ModelServer().start([Passing(arguments.model_name)])
