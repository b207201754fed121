"""Whose label is wrong: judged out of fold, ranked, and shown to a person who decides."""
