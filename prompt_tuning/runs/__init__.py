"""Runs as values: `TrainRun`, `EvalRun` and `InferRun` describe a run completely, in numbers, texts and names.

A run is checked where it is made, whether from Python, flags, a TOML file or gin, and before anything is read. The
modules that hold the values import no JAX; `objects` and the three modules that execute runs do.
"""
