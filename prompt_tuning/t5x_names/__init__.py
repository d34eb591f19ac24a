"""The names that users of prompt tuning on T5X type in gin files and overrides.

Each module stands for one of theirs: `utils.…`, `trainer.…`, `models.…`. What is in `__all__` of a module can be
configured. Re-exports where the library has the thing, else small dataclasses that hold values and know which call of
the library they mean.
"""
