"""Parts by name: `conv(width=32)` in a recipe becomes the class that `conv` names, built with width 32.

A part (a likelihood, a prior, a network, an objective ...) is written as its name, or as its name
with options in brackets, the way a call is written: `discretised-logistic(scale=pixel)`. What a part
needs from the model that it is built into (sizes, shapes) are its positional parameters; what a user
may choose are its keyword-only parameters, with a type and a default. So adding a part means one
class and one line in one registry, and its options need no declaration anywhere else.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from condvae.errors import UserError

Part = TypeVar("Part")


def parse_spec(spec: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Split `name(option=value, ...)` into the name and its options; nothing is evaluated.

    Raises:
        UserError: the text is not a name, or a name with literal keyword options.
    """
    name, bracket, rest = spec.strip().partition("(")
    name = name.strip()
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"part({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError
        options = {str(word.arg): _literal(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{kind} {spec!r}: not understood; write a name, or name(option=value, ...)"
        ) from error
    return name, options


def _literal(node: ast.expr) -> Any:
    """A literal as in Python, but `true` and `false` are also as TOML writes them, any other bare word
    stands for the string that it spells, and a list for a tuple."""
    words = {"true": True, "false": False}
    value = words.get(node.id, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)
    return tuple(value) if isinstance(value, list) else value


def nearest(word: str, choices: list[str]) -> str:
    """`; did you mean 'x'?` for the choice nearest to a misspelt word, or an empty string."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(where: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        UserError: it is none of them; the nearest is suggested.
    """
    if value not in choices:
        raise UserError(
            f"{where} {value!r} does not exist{nearest(value, list(choices))} "
            f"(there are: {', '.join(choices)})"
        )


class Registry(Generic[Part]):
    """Names to constructors of one kind of part.

    Arguments:
        kind: what the parts are, for messages: "likelihood".
        parts: name to class or function.
    """

    def __init__(self, kind: str, parts: Mapping[str, Callable[..., Part]]) -> None:
        self.kind = kind
        self.parts = dict(parts)

    def build(self, spec: str, **context: Any) -> Part:
        """The part that `spec` describes, given the context that its kind promises.

        Raises:
            UserError: no part has that name; it has no such option; a value has the wrong type.
        """
        name, options = parse_spec(spec, self.kind)
        if name not in self.parts:
            raise UserError(
                f"{self.kind} {name!r} does not exist{nearest(name, list(self.parts))} "
                f"(there are: {', '.join(self.parts)})"
            )
        constructor = self.parts[name]
        parameters = inspect.signature(constructor).parameters
        allowed = {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        for option, value in options.items():
            if option not in allowed:
                raise UserError(
                    f"{self.kind} {name!r} has no option {option!r}"
                    f"{nearest(option, list(allowed))} (it has: {', '.join(allowed) or 'none'})"
                )
            _check_type(f"{self.kind} {name!r}, option {option!r}", value, allowed[option])
        return constructor(**{k: v for k, v in context.items() if k in parameters}, **options)


LARGEST = 1 << 16
"""No part has a use for a number of layers, channels or latents above this."""


def _check_type(where: str, value: Any, parameter: inspect.Parameter) -> None:
    """Accept a value of the type of the parameter's default; an integer may stand for a float."""
    expected = type(parameter.default)
    each = value if isinstance(value, tuple) else (value,)
    if any(type(number) is int and abs(number) > LARGEST for number in each):
        raise UserError(f"{where}: a number beyond {LARGEST:,}, the most that there can be")
    if not _fits(value, expected):
        raise UserError(f"{where}: {value!r} is not of type {expected.__name__}")
    if isinstance(value, tuple) and parameter.default:
        kind = type(parameter.default[0])
        if not all(_fits(item, kind) for item in value):
            raise UserError(f"{where}: {list(value)!r} are not all of type {kind.__name__}")


def _fits(value: Any, expected: type) -> bool:
    right = isinstance(value, expected) and isinstance(value, bool) == (expected is bool)
    return right or (expected is float and type(value) is int)
