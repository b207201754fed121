"""First floor: models and networks. It knows nothing of data sources, training or files."""
