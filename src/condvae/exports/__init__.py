"""A run as files that need no condvae: ONNX graphs (`graphs.py`), and a page around them (`web.py`)."""
