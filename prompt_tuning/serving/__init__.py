"""Serving: one frozen model and a thousand prompts, as an engine in Python and over HTTP."""
