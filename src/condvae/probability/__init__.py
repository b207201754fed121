"""Ground floor: distributions over images and latents. It knows nothing of data, models or files."""
