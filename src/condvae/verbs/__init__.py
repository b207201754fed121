"""Upper floor: what a person asks for, one function a verb, as `condvae.train`, `condvae.swap` ..."""
