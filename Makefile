# make demo   tunes a prompt for the shipped model, on two CPU cores in about two minutes, installing included
# make serve  serves the shipped model and its prompts at http://127.0.0.1:8000
# make test   passes the fast tests
# make variants  passes further cases of what the fast tests check; CI runs them too
# make slow   passes these and the tests that need minutes
# make browser  passes those that need Chromium, see CONTRIBUTING.md
# make docs   builds the documentation as a site in build/site; a warning is an error
# make lint   checks the style

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo serve test variants slow browser docs lint clean

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

# One stamp for each set of extras: what is installed is not installed again.
.venv/installed-%: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

demo: .venv/installed-plots
	$(BIN)/python -m prompt_tuning.scripts.demo

serve: .venv/installed-serve
	$(BIN)/prompt-tuning serve --model t5_integers --prompts prompt_tuning/pretrained_prompts

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

variants: .venv/installed-test
	$(BIN)/python -m pytest -m variant -n 2 --dist worksteal

slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow

browser: .venv/installed-browser
	$(BIN)/python -m pytest -m browser

docs: .venv/installed-docs
	$(BIN)/python -m mkdocs build --strict --quiet

lint: .venv/installed-dev
	$(BIN)/ruff check .

clean:
	rm -rf .venv build *.egg-info
