"""Second floor: trains any model on any data by any objective."""
