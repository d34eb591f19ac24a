"""Prompts in T5X and Flaxformer, for teams that run `t5x.train`, `t5x.eval` and `t5x.infer` themselves.

Gin files under `configs/` combine these parts; docs/t5x.md describes installation and use. Only this folder imports t5x
and flaxformer.
"""
