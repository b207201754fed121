"""Trained models that come along, a folder each: `condvae.load("mnist")`. `tools/bundle.py` puts them here."""
