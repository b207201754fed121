"""Trained models that come along, a folder each: `condvae.load("mnist")`; made by `tools/bundle.py`."""
