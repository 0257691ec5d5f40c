"""Exporting a run: a format's file writes the model, and nothing is kept that is not the model that was validated."""
