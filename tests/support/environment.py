"""Sets what tests and their programs need in the environment before anything else is imported."""

from __future__ import annotations

import os

# Plugins of pydantic, as logfire's, are not for tests: one costs each new interpreter a quarter of a second.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
