"""The demo model: its corpus, its recipe, its weights."""
