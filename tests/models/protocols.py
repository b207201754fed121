"""What a protocol asks for: `isinstance` doesn't see a module's parts from Python 3.12 on."""

from __future__ import annotations


def lacking(model: object, protocol: type) -> list[str]:
    """Names that the protocol has, and the model hasn't."""
    asked = (*protocol.__annotations__, *vars(protocol))
    return [name for name in asked if not name.startswith("_") and not hasattr(model, name)]
