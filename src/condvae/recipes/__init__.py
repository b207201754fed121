"""Recipes: TOML files of the schema in `condvae.config`."""
