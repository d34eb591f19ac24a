"""The names that users of prompt tuning on T5X type in gin files and overrides.

Each module replaces one of theirs: `utils.…`, `trainer.…`, `models.…`. What is in `__all__` of a module can be
configured: choices by name, and small dataclasses and functions that convert to the settings of a run.
"""
