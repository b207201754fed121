"""Third floor: what a model is worth. It reaches models through `models.protocol` alone."""
