"""Prompts inside the real T5X and Flaxformer: for teams that run `t5x.train`, `t5x.eval` and `t5x.infer` themselves.

Gin files under `configs/` put these parts together; docs/t5x.md says how to install T5X and how to run it. Only this
folder imports t5x and flaxformer.
"""
