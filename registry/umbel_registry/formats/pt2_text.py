"""The text inside a ``.pt2`` that torch turns into code, held against a short list of forms.

A ``.pt2`` stores symbolic sizes as expressions (sympy evaluates them), operators as dotted names
(looked up on ``torch``), and names that are pasted into generated Python. Each is a door for code
in a file from elsewhere, so each must have the form that ``torch.export.save`` gives it.
"""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
#: Names of weights and modules, which a ModuleDict may also give a dash or the like.
DOTTED = re.compile(r"[A-Za-z0-9_.:/@+ -]*\Z")
_KEYWORD_TEXT = re.compile(r"[\w .\-]{1,100}\Z")

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision|torchaudio)"
    r"\.(?!from_file\b)[A-Za-z_]\w*(\.[A-Za-z]\w*)?\Z"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan|associative_scan"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)\Z"
    r"|torch\.(sym_[a-z]+|_sym_sqrt|_C\._set_grad_enabled)\Z"
    r"|torch\.amp\.autocast_mode\._(enter|exit)_autocast\Z"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_"
    r"|getitem|lshift|rshift|index)\Z"
    r"|math\.(ceil|floor|trunc|sqrt|pow|log2)\Z"
)

_FUNCTION = re.compile(
    r"(Symbol|Integer|Float|Rational|Add|Mul|Pow|Min|Max|Abs|Mod|PythonMod|FloorDiv|CeilDiv"
    r"|CleanDiv|ModularIndexing|Where|Eq|Ne|Equality|Unequality|Lt|Le|Gt|Ge|LessThan"
    r"|StrictLessThan|GreaterThan|StrictGreaterThan|And|Or|Not|Piecewise|ExprCondPair|Tuple"
    r"|floor|ceiling|CeilToInt|FloorToInt|TruncToInt|RoundToInt|RoundDecimal|TruncToFloat|ToFloat"
    r"|FloatTrueDiv|IntTrueDiv|FloatPow|PowByNatural|LShift|RShift|Identity"
    r"|IsNonOverlappingAndDenseIndicator)\Z"
)
_METHODS = frozenset({"size", "stride", "storage_offset"})
_NODES = (
    ast.Expression,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Call,
    ast.keyword,
    ast.Subscript,
    ast.Tuple,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.Attribute,
)
_TREE_TYPES = frozenset(
    {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)


class Refused(ValueError):
    """The text has a form that ``torch.export.save`` does not give it."""


def check_program(program: Any) -> None:
    """Checks everything in ``models/model.json`` of a ``.pt2`` that becomes code.

    Args:
        program: the parsed JSON.

    Raises:
        Refused: something has another form than torch's own.
    """
    for key, value in _walk(program):
        if key in _RULES:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, str):
                    _RULES[key](part)
        if key in _NAMED_BY_KEY and isinstance(value, dict):
            for name in value:
                _identifier(name)
        if key in _REFUSED and value:
            raise Refused(f"it holds {key}, which umbel does not load")


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item.items()
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def check_expression(text: str) -> None:
    """Checks a symbolic size or a guard: arithmetic over symbols and sizes, nothing else.

    Args:
        text: as stored.

    Raises:
        Refused: it is anything more.
    """
    # sympy drops line ends before it reads, so the two could see different text.
    if not (text.isascii() and text.isprintable()) or "#" in text:
        raise Refused("an expression in it has odd characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        raise Refused("an expression in it cannot be parsed") from None
    for node in ast.walk(tree):
        if not _harmless(node):
            raise Refused("an expression in it is more than arithmetic")


def _harmless(node: ast.AST) -> bool:
    if not isinstance(node, _NODES):
        return False
    if isinstance(node, ast.Call):
        callee = node.func
        return isinstance(callee, ast.Attribute) or (
            isinstance(callee, ast.Name) and _FUNCTION.match(callee.id) is not None
        )
    if isinstance(node, ast.Attribute):
        return node.attr in _METHODS
    if isinstance(node, ast.Name):
        return "__" not in node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(IDENTIFIER.match(node.value)) and "__" not in node.value
    return True


def _operator(text: str) -> None:
    if not _OPERATOR.match(text) or "__" in text:
        raise Refused(f"it calls {text[:80]!r}, which is no operator that umbel lets a model call")


def _identifier(text: str) -> None:
    if text and not IDENTIFIER.match(text):
        raise Refused("a name in it is no identifier")


def _dotted(text: str) -> None:
    if not DOTTED.match(text):
        raise Refused("a name of a weight or module in it is malformed")


def _tree(text: str) -> None:
    try:
        _, root = json.loads(text)
    except (ValueError, TypeError):
        raise Refused("its description of inputs and outputs cannot be read") from None
    for key, value in _walk([root]):
        if key == "type" and value not in _TREE_TYPES:
            raise Refused("its inputs and outputs are more than tensors, tuples, lists and dicts")
        if key == "context" and value is not None:
            _context(value)


def _context(text: Any) -> None:
    try:
        names = json.loads(text)
    except (ValueError, TypeError):
        raise Refused("its description of inputs and outputs cannot be read") from None
    for name in names or []:
        if not isinstance(name, str) or not _KEYWORD_TEXT.match(name):
            raise Refused("a name among its inputs and outputs is malformed")


_RULES: dict[str, Callable[[str], None]] = {
    "expr_str": check_expression,
    "guards_code": check_expression,
    "target": _operator,
    "as_operator": _operator,
    "name": _identifier,
    "as_name": _identifier,
    "forward_arg_names": _identifier,
    "parameter_name": _dotted,
    "buffer_name": _dotted,
    "tensor_constant_name": _dotted,
    "user_input_name": _identifier,
    "fqn": _dotted,
    "in_spec": _tree,
    "out_spec": _tree,
}
_NAMED_BY_KEY = frozenset(
    {"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "range_constraints"}
)
_REFUSED = frozenset(
    {"custom_obj_values", "as_custom_obj", "custom_obj", "treespec_namedtuple_fields"}
)
