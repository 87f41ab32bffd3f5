"""Real texts, where they are available."""

from __future__ import annotations
