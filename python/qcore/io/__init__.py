"""Checkpoints: reading and writing Hugging Face folders, and the formats that others load."""
