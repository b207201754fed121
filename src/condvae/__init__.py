"""condvae: conditional variational autoencoders for labelled images.

```python
import condvae
run = condvae.train("mnist-sample", "runs/demo")
condvae.swap(run); condvae.evaluate(run); condvae.sample(run)
model = condvae.load(run).model
result = condvae.audit(images, labels)
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condvae.data.sources import load_dataset as load_dataset
    from condvae.explorer.serve import explore as explore
    from condvae.run import load as load
    from condvae.verbs.audit import audit as audit
    from condvae.verbs.doctor import doctor as doctor
    from condvae.verbs.evaluate import evaluate as evaluate
    from condvae.verbs.export import export as export
    from condvae.verbs.journeys import interpolate as interpolate
    from condvae.verbs.journeys import traverse as traverse
    from condvae.verbs.push import push as push
    from condvae.verbs.sample import sample as sample
    from condvae.verbs.swap import swap as swap
    from condvae.verbs.train import train as train

__version__ = "0.1.0"

_WHERE = {
    "load": "condvae.run",
    "doctor": "condvae.verbs.doctor",
    "load_dataset": "condvae.data.sources",
    "train": "condvae.verbs.train",
    "audit": "condvae.verbs.audit",
    "swap": "condvae.verbs.swap",
    "evaluate": "condvae.verbs.evaluate",
    "sample": "condvae.verbs.sample",
    "interpolate": "condvae.verbs.journeys",
    "traverse": "condvae.verbs.journeys",
    "explore": "condvae.explorer.serve",
    "export": "condvae.verbs.export",
    "push": "condvae.verbs.push",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that `import condvae` costs nothing."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'condvae' has no attribute {name!r}")
