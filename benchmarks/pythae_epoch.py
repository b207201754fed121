"""Seconds that pythae's own trainer takes for an epoch; run by throughput.py in pythae's environment.

    python -m venv .venv-pythae
    .venv-pythae/bin/pip install torch==2.13.0 pythae==0.1.2
    python benchmarks/throughput.py --pythae-python .venv-pythae/bin/python

The first epoch warms up, the second one counts.
"""

import logging
import sys
import time
from pathlib import Path

import numpy as np
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_AE_MNIST, Encoder_ResNet_VAE_MNIST
from pythae.trainers import BaseTrainer, BaseTrainerConfig

logging.disable(logging.INFO)
kind, folder = sys.argv[1], Path(sys.argv[2])
images = np.load(folder / "images.npy").astype(np.float32) / 255
import torch  # noqa: E402

tensors = torch.from_numpy(images)
config = VAEConfig(input_dim=tuple(images.shape[1:]), latent_dim=16)
networks = {}
if kind == "resnet":
    networks = {"encoder": Encoder_ResNet_VAE_MNIST(config), "decoder": Decoder_ResNet_AE_MNIST(config)}
settings = BaseTrainerConfig(output_dir=str(folder), num_epochs=2, per_device_train_batch_size=64)
trainer = BaseTrainer(
    model=VAE(config, **networks),
    train_dataset=BaseDataset(tensors, torch.zeros(len(tensors))),
    training_config=settings,
)
trainer.prepare_training()
for epoch in (1, 2):
    started = time.perf_counter()
    trainer.train_step(epoch)
    seconds = time.perf_counter() - started
print(seconds)
