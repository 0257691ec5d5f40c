"""Data: reading sets of images, dividing them by patient, decoding each once, and synthetic images to try it on.

Only `torch_data` imports torch; everything else works without it.
"""
