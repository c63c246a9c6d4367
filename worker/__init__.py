"""Owns models and inference sessions: claims jobs, decodes them at the same time, appends their tokens. No HTTP."""
