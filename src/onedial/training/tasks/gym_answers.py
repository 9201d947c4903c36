"""reasoning-gym's scorers evaluate some answers as Python; here such answers are read as literals and formulas instead.

The library calls `eval` on the answer (spiral_matrix, n_queens, binary_matrix, string_insertion) or passes it to sympy,
whose parser calls `eval` (countdown, puzzle24, simple_integration, intermediate_integration,
polynomial_multiplication). An answer could thus run commands, or read the correct answer from the scorer's variables.
`guard_library` replaces both calls by functions that evaluate literals and formulas and nothing else. The worker's
sandbox protects the machine; this protects the reward, which no sandbox can.
"""

from __future__ import annotations

import ast
import importlib
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

MAX_LENGTH = 10_000  # characters of an answer that is read
_MAX_BITS = 4_096  # of a power's or shift's result, so that no answer takes all memory

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor, ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
_BOUNDED: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Pow: operator.pow, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
}  # fmt: skip

# What sympy's parser may find in a formula: the numbers and symbols that it makes itself, and functions of numbers.
_NAMES = (
    "Symbol Integer Float Rational Number Add Mul Pow pi E I oo zoo nan sqrt cbrt root exp log ln Abs sign floor "
    "ceiling factorial binomial Mod Min Max abs max min pow re im conjugate sin cos tan cot sec csc asin acos atan "
    "acot asec acsc atan2 sinc sinh cosh tanh coth sech csch asinh acosh atanh acoth asech acsch erf erfc erfi gamma "
    "loggamma lowergamma uppergamma beta zeta polylog expint Ei li Si Ci Shi Chi fresnels fresnelc Integral"
)
FORMULA_NAMES = frozenset(_NAMES.split())
_FORMULA_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Tuple, ast.List,
    ast.operator, ast.unaryop,
)  # fmt: skip


class AnswerRefused(ValueError):
    """The answer is neither a literal nor an allowed formula; nothing of it was executed."""


def read_literal(text: str, *scopes: object) -> Any:
    """The value of a Python literal, or of arithmetic on numbers. `scopes` are eval's arguments and are ignored.

    Raises AnswerRefused for anything else.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise AnswerRefused("not a text, or too long")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ArithmeticError, TypeError, ValueError) as error:
        raise AnswerRefused(f"not a literal: {error}") from None


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = [_value(item) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else set(items) if isinstance(node, ast.Set) else items
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]  # None stands for **, which adds another dict
        return {_value(key): _value(value) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_number(node.operand))
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left), _number(node.right)
        if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](left, right)
        if type(node.op) in _BOUNDED and abs(right) <= _MAX_BITS and _bits(left) * abs(right) <= _MAX_BITS:
            return _BOUNDED[type(node.op)](left, right)
    raise ValueError(f"{type(node).__name__} is not allowed")


def _number(node: ast.AST) -> Any:
    value = _value(node)
    if not isinstance(value, int | float | complex) or _bits(value) > _MAX_BITS:
        raise ValueError("arithmetic is for numbers of usual size")
    return value


def _bits(value: Any) -> int:
    return max(1, value.bit_length()) if isinstance(value, int) else 64


def check_formula(code: str, names: Mapping[str, Any]) -> None:
    """Raises AnswerRefused if code made by sympy's parser calls anything but `FORMULA_NAMES` and `names`."""
    try:
        tree = ast.parse(code.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise AnswerRefused(f"not a formula: {error}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _FORMULA_NODES):
            raise AnswerRefused(f"{type(node).__name__} is not allowed in a formula")
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.keywords):
            raise AnswerRefused("only functions of numbers can be called in a formula")
        if isinstance(node, ast.Name) and node.id not in FORMULA_NAMES and node.id not in names:
            raise AnswerRefused(f"{node.id!r:.40} is not allowed in a formula")


def guard_library() -> None:
    """Replaces `eval` in every loaded module of reasoning-gym, and in sympy's parser. Can be called again safely."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym" and module is not None:
            vars(module)["eval"] = read_literal
    sympy_parser: Any = importlib.import_module("sympy.parsing.sympy_parser")
    if not hasattr(sympy_parser.eval_expr, "guarded"):
        sympy_parser.eval_expr = _guard(sympy_parser.eval_expr)


def _guard(evaluate: Callable[[str, Any, Any], Any]) -> Callable[[str, Any, Any], Any]:
    def eval_expr(code: str, local_dict: Any, global_dict: Any) -> Any:
        check_formula(code, local_dict)
        return evaluate(code, local_dict, global_dict)

    eval_expr.guarded = True  # type: ignore[attr-defined]
    return eval_expr
